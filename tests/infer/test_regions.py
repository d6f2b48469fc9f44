"""Regions that are run with many values at once give what they give with one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph import infer, verify
from symgraph.inference.regions import AT_ONCE, Region, Runner
from symgraph.ir import Kind
from symgraph.tracing import trace


def halves(x: Tensor) -> Tensor:
    return torch.cat([-x[..., 2:], x[..., :2]], -1) * 3


def written(x: Tensor) -> Tensor:
    """Writes into what it has made, as no batch of values can."""
    out = torch.zeros(x.shape[-1], dtype=x.dtype)
    out[:2] = 1
    return out.mul_(x[0])


class Called(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def runner(function: Callable[[Tensor], Tensor]) -> Runner:
    """The whole of a function as a region."""
    graph = trace(Called(function), (torch.randn(3, 4),))
    calls = tuple(node for node in graph.nodes if node.kind is Kind.CALL)
    return Runner(graph, Region(graph.inputs[0].name, graph.outputs[0], calls, ()), {})


@pytest.mark.parametrize("function", [halves, written])
def test_many_values_give_what_each_gives(function: Callable[[Tensor], Tensor]) -> None:
    run = runner(function)
    values = torch.randn(2 * AT_ONCE + 3, 3, 4, dtype=torch.float64)
    found = run.each(values)
    assert len(found) == len(values)
    for value, one in zip(values, found, strict=True):
        assert torch.equal(one, run(value))


def test_they_are_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    run, calls, one = runner(halves), list[Tensor](), Runner.__call__

    def counted(self: Runner, value: Tensor) -> Tensor:
        calls.append(value)
        return one(self, value)

    monkeypatch.setattr(Runner, "__call__", counted)
    run.each(torch.randn(2 * AT_ONCE, 3, 4, dtype=torch.float64))
    assert len(calls) == 2


def factored(s: Any, x: Tensor) -> Tensor:
    """Between two products stands what only positive definite matrices have."""
    h = s.i(x)
    return s.o(torch.linalg.cholesky(h @ h.mT + torch.eye(4, dtype=x.dtype)) @ h)  # type: ignore[no-any-return]


def solved(s: Any, x: Tensor) -> Tensor:
    h = s.i(x)
    return s.o(torch.linalg.solve(h @ h.mT, h))  # type: ignore[no-any-return]


@pytest.mark.parametrize("f", [factored, solved])
def test_what_operators_refuse_is_no_evidence(f: Callable[[Any, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    net, x = spread(Net(f, i=nn.Linear(6, 6), o=nn.Linear(6, 3))), torch.randn(3, 4, 6)
    found = infer(trace(net, (x,)))
    assert error(net, (x,), found) < 1e-9
    assert verify(net, symmetry=found).passed
