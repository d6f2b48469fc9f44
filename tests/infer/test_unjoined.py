"""What is put side by side only to be picked apart again is computed from the parts, each with spaces of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn
from torch.nn import functional as F

from symgraph import audit, infer
from symgraph.inference.unjoined import with_parts_apart
from symgraph.rules.book import default_rules
from symgraph.tracing import state_of, trace
from symgraph.tracing.interpreter import evaluate

TOKENS, WIDTH, HEADS, INSIDE = 5, 8, 2, 4
Forward = Callable[[Any, Tensor], Tensor]


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, INSIDE)).transpose(1, 2)  # type: ignore[no-untyped-call, no-any-return]


def mixed(s: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out: Tensor = s.o(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))
    return out


def turned(x: Tensor) -> Tensor:
    angles = torch.arange(TOKENS)[:, None] * torch.tensor([1.0, 0.1])
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)  # type: ignore[no-untyped-call]
    c, s = angles.cos(), angles.sin()
    return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2)


def made(s: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return heads(s.q(x)), heads(s.k(x)), heads(s.v(x))


def by_einsum(s: Any, x: Tensor) -> Tensor:
    """One sum for the three weights, with a bias for each."""
    weights, biases = torch.stack([s.wq, s.wk, s.wv]), torch.stack([s.bq, s.bk, s.bv])
    q, k, v = (torch.einsum("btd,ndh->nbth", x, weights) + biases[:, None, None]).unbind(0)
    return mixed(s, heads(q), heads(k), heads(v))


def by_matmul(s: Any, x: Tensor) -> Tensor:
    y = x[None] @ torch.stack([s.wq, s.wk, s.wv])[:, None]
    return mixed(s, heads(y[0]), heads(y[1]), heads(y[2]))


def head_by_head(s: Any, x: Tensor) -> Tensor:
    weights = torch.stack([w.view(WIDTH, HEADS, INSIDE) for w in (s.wq, s.wk, s.wv)])
    q, k, v = torch.einsum("btd,ndhk->nbhtk", x, weights)
    return mixed(s, q, k, v)


def scaled(s: Any, x: Tensor) -> Tensor:
    q, k, v = made(s, x)
    q, k = (torch.stack([q, k]) * INSIDE**-0.25).unbind(0)
    return mixed(s, q, k, v)


def turned_together(s: Any, x: Tensor) -> Tensor:
    q, k, v = made(s, x)
    q, k = turned(torch.stack([q, k])).unbind(0)
    return mixed(s, q, k, v)


def turned_in_a_row(s: Any, x: Tensor) -> Tensor:
    """Queries and keys as heads of one tensor."""
    q, k, v = made(s, x)
    q, k = turned(torch.cat([q, k], 1)).split([HEADS, HEADS], 1)  # type: ignore[no-untyped-call]
    return mixed(s, q, k, v)


def unit(s: Any, x: Tensor) -> Tensor:
    q, k, v = made(s, x)
    q, k = F.normalize(torch.stack([q, k]), dim=-1)
    return mixed(s, q, k, v)


def fused(s: Any, x: Tensor) -> Tensor:
    """The first two of three that one projection makes, turned together."""
    qkv = s.qkv(x).view(-1, TOKENS, 3, HEADS, INSIDE).permute(2, 0, 3, 1, 4)
    q, k = turned(torch.cat([qkv[:1], qkv[1:2]])).unbind(0)
    return mixed(s, q, k, qkv[2])


def two_of_each(s: Any, x: Tensor, apart: Callable[[Tensor], tuple[Tensor, ...]]) -> Tensor:
    """Of two ways to attend the difference (DIFF transformer): each head has two, whose values are the same."""
    q, k = (m(x).view(2, TOKENS, 2 * HEADS, INSIDE // 2).transpose(1, 2) for m in (s.q, s.k))
    one, other = apart((q @ k.mT).softmax(-1))
    out: Tensor = s.o(((one - 0.3 * other) @ heads(s.v(x))).transpose(1, 2).flatten(2))
    return out


def inside_heads(s: Any, x: Tensor) -> Tensor:
    """The same with both ways as an axis between those of heads and of what is inside."""
    q, k = (m(x).view(2, TOKENS, HEADS, 2, INSIDE // 2).permute(0, 2, 3, 1, 4) for m in (s.q, s.k))
    one, other = (q @ k.mT).softmax(-1).unbind(2)
    out: Tensor = s.o(((one - 0.3 * other) @ heads(s.v(x))).transpose(1, 2).flatten(2))
    return out


def in_turns(s: Any, x: Tensor) -> Tensor:
    def apart(weights: Tensor) -> tuple[Tensor, ...]:
        both = weights.view(2, HEADS, 2, TOKENS, TOKENS)
        return both[:, :, 0], both[:, :, 1]

    return two_of_each(s, x, apart)


def in_halves(s: Any, x: Tensor) -> Tensor:
    return two_of_each(s, x, lambda weights: weights.chunk(2, 1))


def matrices() -> dict[str, Any]:
    found = {name: torch.randn(WIDTH, HEADS * INSIDE) for name in ("wq", "wk", "wv")}
    return {**found, "o": nn.Linear(HEADS * INSIDE, WIDTH, bias=False)}


def with_biases() -> dict[str, Any]:
    return {**matrices(), **{name: torch.randn(HEADS * INSIDE) for name in ("bq", "bk", "bv")}}


def maps() -> dict[str, Any]:
    return {name: nn.Linear(WIDTH, HEADS * INSIDE) for name in "qkvo"}


def plain_maps() -> dict[str, Any]:
    return {name: nn.Linear(WIDTH, HEADS * INSIDE, bias=False) for name in "qkvo"}


def one_map() -> dict[str, Any]:
    return {"qkv": nn.Linear(WIDTH, 3 * HEADS * INSIDE, bias=False), "o": nn.Linear(HEADS * INSIDE, WIDTH)}


INVERTIBLE = {"invertible": 2}
TURNED = {"rotary": 1, "invertible": 1}
CASES: dict[str, tuple[Forward, Callable[[], dict[str, Any]], dict[str, int]]] = {
    "weights by einsum": (by_einsum, with_biases, INVERTIBLE),
    "weights by matmul": (by_matmul, matrices, INVERTIBLE),
    "weights of heads": (head_by_head, matrices, INVERTIBLE),
    "scaled": (scaled, maps, INVERTIBLE),
    "turned": (turned_together, maps, TURNED),
    "turned as heads": (turned_in_a_row, maps, TURNED),
    "turned, of one projection": (fused, one_map, TURNED),
    "two ways in turns": (in_turns, plain_maps, {"invertible": 3}),
    "two ways in halves": (in_halves, plain_maps, {"invertible": 3}),
    "two ways inside of heads": (inside_heads, plain_maps, {"invertible": 3}),
    "of length one": (unit, maps, {"orthogonal": 1, "invertible": 1}),
}


def net(f: Forward, parts: Callable[[], dict[str, Any]]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return spread(Net(f, **parts())), (torch.randn(2, TOKENS, WIDTH),)


@pytest.mark.parametrize("name", CASES)
def test_each_part_has_what_it_has_alone(name: str) -> None:
    f, parts, expected = CASES[name]
    model, inputs = net(f, parts)
    found = infer(trace(model, inputs))
    groups = [str(space.group) for space in found.active if space.is_matrix]
    assert {group: groups.count(group) for group in groups} == expected
    assert error(model, inputs, found) < 1e-9
    counted = audit(model, inputs, symmetry=found)
    assert counted.complete, str(counted)


@pytest.mark.parametrize("name", CASES)
def test_the_function_stays_what_it_was(name: str) -> None:
    f, parts, _ = CASES[name]
    model, inputs = net(f, parts)
    graph = trace(model, inputs)
    changed = with_parts_apart(graph, default_rules())
    assert changed is not graph
    before, after = (evaluate(g, state_of(model), inputs)[0] for g in (graph, changed))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


def read_elsewhere(s: Any, x: Tensor) -> Tensor:
    """All of the stack is read beside its parts."""
    q, k, v = made(s, x)
    both = torch.stack([q, k]) * 2
    q, k = both.unbind(0)
    return mixed(s, q, k, v) + both.pow(2).mean()


def one_map_for_both(s: Any, x: Tensor) -> Tensor:
    """What is stacked goes through one map, which would be read twice."""
    q, k, v = made(s, x)
    q, k = s.p(torch.stack([q, k])).unbind(0)
    return mixed(s, q, k, v)


def centred_together(s: Any, x: Tensor) -> Tensor:
    """What is stacked sees each other."""
    q, k, v = made(s, x)
    both = torch.stack([q, k])
    q, k = (both - both.mean(0)).unbind(0)
    return mixed(s, q, k, v)


def one_that_inputs_choose(s: Any, x: Tensor) -> Tensor:
    """Which of the stack is read is not known."""
    q, k, v = made(s, x)
    return mixed(s, torch.stack([q, k])[(x.sum() > 0).long()], k, v)


@pytest.mark.parametrize("f", [read_elsewhere, one_map_for_both, centred_together, one_that_inputs_choose])
def test_what_is_read_together_stays_together(f: Forward) -> None:
    model, inputs = net(f, lambda: {**maps(), "p": nn.Linear(INSIDE, INSIDE)})
    graph = trace(model, inputs)
    assert with_parts_apart(graph, default_rules()) is graph
    assert error(model, inputs, infer(graph)) < 1e-9
