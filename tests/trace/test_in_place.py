"""Writes in place: functional where nothing else sees them, exact where something does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from symgraph.tracing import state_of, trace
from symgraph.tracing.interpreter import evaluate
from symgraph.tracing.operators import functional, written


def simple(y: Tensor) -> Tensor:
    return y.add_(1).relu_()


def read_again(y: Tensor) -> Tensor:
    z = y.mul_(2)
    return z + y.exp_() + y


def augmented(y: Tensor) -> Tensor:
    y += 1
    y *= y
    return y


def copied_first(y: Tensor) -> Tensor:
    z = y.clone()
    z.add_(1)
    return z * y


def through_a_view(y: Tensor) -> Tensor:
    y[:, 0] = 0.0
    return y


def view_sees_the_write(y: Tensor) -> Tensor:
    flat = y.view(-1)
    y.add_(1)
    return flat


def base_sees_the_write(y: Tensor) -> Tensor:
    y.t().mul_(3)
    return y + 1


def dropout_hands_on(y: Tensor) -> Tensor:
    z = nn.functional.dropout(y, 0.5, training=False)
    z.add_(1)
    return y


def pieces_of_a_split(y: Tensor) -> Tensor:
    a, b = y.chunk(2, dim=1)
    a.add_(b)
    return y * 2


CASES = [
    simple,
    read_again,
    augmented,
    copied_first,
    through_a_view,
    view_sees_the_write,
    base_sees_the_write,
    dropout_hands_on,
    pieces_of_a_split,
]


class Body(nn.Module):
    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.lin(x))


@pytest.mark.parametrize("f", CASES)
def test_writes_keep_the_function(f: Callable[[Tensor], Tensor]) -> None:
    model, x = Body(f).eval(), torch.randn(3, 4)
    graph = trace(model, (x,))
    assert not [n for n in graph.calls if written(n.target)]
    with torch.no_grad():
        torch.testing.assert_close(evaluate(graph, state_of(model), (x,))[0], model(x).double(), rtol=1e-6, atol=1e-5)


def test_a_simple_write_is_only_renamed() -> None:
    graph = trace(Body(simple), (torch.randn(3, 4),))
    assert [n.target for n in graph.calls] == ["aten.linear.default", "aten.add.Tensor", "aten.relu.default"]


class Counter(nn.Module):
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.steps.add_(1)
        return x + self.steps


def test_a_buffer_that_is_written_is_read_after_the_write() -> None:
    model, x = Counter(), torch.randn(2, 3)
    graph = trace(model, (x,))
    assert model.steps.tolist() == [0, 0, 0]
    assert torch.equal(evaluate(graph, state_of(model), (x,))[0], x.double() + 1)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("aten.add_.Tensor", "aten.add.Tensor"),
        ("aten.__iand__.Tensor", "aten.__and__.Tensor"),
        ("aten.masked_fill_.Scalar", "aten.masked_fill.Scalar"),
        ("aten.add.Tensor", None),
    ],
)
def test_functional_names(target: str, found: str | None) -> None:
    assert functional(target) == found
