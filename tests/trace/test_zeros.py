"""Zeros have axes of their own wherever they are read, and are padding beside a tensor; one of a stack is itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net
from torch import Tensor

from symgraph.tracing import state_of, trace
from symgraph.tracing.interpreter import evaluate
from symgraph.tracing.zeros import with_own_zeros


def twice_read(net: Net, x: Tensor) -> Tensor:
    first = x.new_zeros(1, 2, 3)
    return torch.cat([x + first[0], x * 2 - first.squeeze(0)], -1)


def written_between(net: Net, x: Tensor) -> Tensor:
    whole = torch.zeros(2, 6)
    whole[:, 1:4] = x
    return whole.relu()


CASES: dict[str, tuple[Callable[..., Any], dict[str, int]]] = {
    "read twice": (twice_read, {"aten.zeros.default": 2}),
    "before and behind": (
        lambda net, x: torch.cat([torch.zeros(2, 1), x, x.relu(), x[:, :2] * 0], 1),
        {"aten.constant_pad_nd.default": 1, "aten.cat.default": 1, "aten.zeros.default": 0},
    ),
    "written between": (written_between, {"aten.constant_pad_nd.default": 1, "aten.cat.default": 0}),
    "beside an expanded row": (
        lambda net, x: torch.cat([x, torch.zeros(1, 3).expand(2, -1)], 1),
        {"aten.constant_pad_nd.default": 1},
    ),
    "other numbers": (lambda net, x: torch.cat([x, torch.ones(2, 1)], 1), {"aten.constant_pad_nd.default": 0}),
    "one of a stack": (
        lambda net, x: torch.stack([x, x.relu(), x.abs()])[1] + torch.stack([x, x.tanh()], -1).unbind(-1)[1],
        {"aten.stack.default": 0, "aten.abs.default": 0},
    ),
    "some of a stack": (
        lambda net, x: torch.stack([x, x.relu(), x.abs()])[1:].sum(0),
        {"aten.stack.default": 1, "aten.slice.Tensor": 0},
    ),
    "another axis of a stack": (lambda net, x: torch.stack([x, x.relu()])[:, 1], {"aten.stack.default": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_zeros_and_stacks_have_one_form(name: str) -> None:
    function, counts = CASES[name]
    net, inputs = Net(function), (torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),)
    graph = with_own_zeros(trace(net, inputs))
    targets = [node.target for node in graph.calls]
    assert {target: targets.count(target) for target in counts} == counts
    (found,) = evaluate(graph, state_of(net), inputs)
    torch.testing.assert_close(found, net(*inputs).double())
