"""Parts that are put side by side and then flattened with their inside have an inside each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph import audit, infer
from symgraph.tracing import state_of, trace
from symgraph.tracing.interpreter import evaluate
from symgraph.tracing.joins import with_joins_last, with_turns_joined

FORMS: dict[str, tuple[Callable[..., Tensor], dict[str, int]]] = {
    "heads and their inside": (lambda net, x: torch.cat([x, x.relu()], 1).reshape(2, 12), {"aten.reshape.default": 2}),
    "a stack": (lambda net, x: torch.stack([x[:, 0], x[:, 1]], 1).flatten(1), {"aten.stack.default": 0}),
    "behind an axis of one": (
        lambda net, x: torch.cat([x[:, :1], x], 1)[None].view(1, 2, 9, 1),
        {"aten.cat.default": 1},
    ),
    "the inside put together": (lambda net, x: torch.cat([x, x.relu()], 2).flatten(1), {"aten.view.default": 0}),
    "cut in another way": (lambda net, x: torch.cat([x, x.relu()], 1).reshape(2, 2, 6), {"aten.reshape.default": 1}),
    "with what lies outside": (lambda net, x: torch.cat([x, x.relu()], 1).flatten(0, 1), {"aten.cat.default": 1}),
    "empty": (lambda net, x: torch.cat([x[:0], x[:0]], 1).reshape(0, 12), {"aten.cat.default": 1}),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_is_flattened_is_the_same(name: str) -> None:
    function, counts = FORMS[name]
    net, inputs = Net(function), (torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0)),)
    graph = with_joins_last(trace(net, inputs))
    targets = [node.target for node in graph.calls]
    assert {target: targets.count(target) for target in counts} == counts
    (found,) = evaluate(graph, state_of(net), inputs)
    torch.testing.assert_close(found, net(*inputs).double())


# Stacks that are flattened in their innermost place, and how many shuffles are made of them.
TURNS: dict[str, tuple[Callable[..., Tensor], int]] = {
    "along the last axis": (lambda net, x: torch.stack([x, x.relu(), x.sin()], -1).flatten(-2), 1),
    "along an axis between": (lambda net, x: torch.stack([x, x.relu()], 2).reshape(2, 6, 4), 1),
    "along the first axis": (lambda net, x: torch.stack([x, x.relu()], 1).flatten(0, 1), 1),
    "of two axes": (lambda net, x: torch.stack([x[0], x[1]], -1).flatten(-2), 1),
    "along the first of two axes": (lambda net, x: torch.stack([x[0], x[1]], 1).flatten(0, 1), 0),
    "of one axis": (lambda net, x: torch.stack([x[0, 0], x[1, 0]], -1).flatten(), 0),
    "one after the other": (lambda net, x: torch.stack([x, x.relu()], 2).flatten(2), 0),
    "with what lies outside": (lambda net, x: torch.stack([x, x.relu()], -1).flatten(1), 0),
    "as many as there are": (lambda net, x: torch.stack([x[:, :2, :2]] * 2, -1).flatten(-2), 1),
}


@pytest.mark.parametrize("name", TURNS)
def test_what_takes_turns_is_the_same(name: str) -> None:
    function, count = TURNS[name]
    net, inputs = Net(function), (torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)),)
    graph = with_turns_joined(trace(net, inputs))
    targets = [node.target for node in graph.calls]
    assert targets.count("aten.channel_shuffle.default") == count
    assert count == 0 or "aten.stack.default" not in targets
    (found,) = evaluate(graph, state_of(net), inputs)
    torch.testing.assert_close(found, net(*inputs).double())


TURNING: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "behind a nonlinearity": (lambda s, a, b: torch.stack([a.relu(), b], -1).flatten(-2), ("invertible", "positive")),
    "before a nonlinearity": (lambda s, a, b: torch.stack([a, b], -1).flatten(-2).relu(), ("positive", "positive")),
    "picked again": (
        lambda s, a, b: torch.cat(
            [(t := torch.stack([a, b], -1).flatten(-2))[..., ::2].relu(), t[..., 1::2].relu()], -1
        ),
        ("positive", "positive"),
    ),
}


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", TURNING)
def test_what_takes_turns_has_spaces_of_its_own(name: str, axes: int) -> None:
    joined, groups = TURNING[name]
    torch.manual_seed(0)
    maps = {"a": nn.Linear(9, 4), "b": nn.Linear(9, 4), "o": nn.Linear(8, 11)}
    model = spread(Net(lambda s, x: s.o(joined(s, s.a(x), s.b(x))), **maps))
    inputs = (torch.randn(3, 5, 9)[0 if axes == 2 else slice(None)],)
    symmetry = infer(trace(model, inputs))
    assert sorted(str(s.group).split()[0] for s in symmetry.active) == list(groups)
    assert audit(model, symmetry=symmetry).complete
    assert error(model, inputs, symmetry) < 1e-9


@pytest.mark.parametrize("form", ["cat", "stack"])
def test_heads_of_two_kinds_have_an_inside_each(form: str) -> None:
    """Some heads attend, others are made position by position (ConvBERT); one map reads both."""

    def forward(s: Any, x: Tensor) -> Tensor:
        seen, own = s.scores(x).softmax(-1) @ s.v(x), s.u(x)
        pair = torch.stack([seen, own], 2) if form == "stack" else torch.cat([seen[:, :, None], own[:, :, None]], 2)
        out: Tensor = s.o(pair.flatten(2))
        return out

    torch.manual_seed(0)
    maps = {"v": nn.Linear(4, 3), "u": nn.Linear(4, 3), "scores": nn.Linear(4, 5), "o": nn.Linear(6, 9)}
    model, inputs = spread(Net(forward, **maps)), (torch.randn(2, 5, 4),)
    symmetry = infer(trace(model, inputs))
    assert [str(s.group) for s in symmetry.active if s.size == 3] == ["invertible"] * 2
    counted = audit(model, symmetry=symmetry)
    assert counted.complete, str(counted)
    assert error(model, inputs, symmetry) < 1e-9
