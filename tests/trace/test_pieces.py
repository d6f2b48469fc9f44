"""Writes into slices become concatenations, and a tensor that is filled is gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from symgraph.ir import Graph
from symgraph.tracing import state_of, trace
from symgraph.tracing.interpreter import evaluate

Writes = Callable[[Tensor], Tensor]


class Writer(nn.Module):
    def __init__(self, f: Writes) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 6)
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.lin(x))


def two_halves(y: Tensor) -> Tensor:
    out = y.new_empty(y.shape)
    out[:, :2] = y[:, 4:]
    out[:, 2:] = y[:, :4].exp()
    return out


def one_after_another(y: Tensor) -> Tensor:
    out = torch.zeros_like(y)
    for i in range(y.shape[1]):
        out[:, i] = y[:, i] * (i + 1)
    return out


def the_middle(y: Tensor) -> Tensor:
    out = y.clone()
    out[:, 2:4] = y[:, :2]
    return out


def over_each_other(y: Tensor) -> Tensor:
    out = torch.zeros_like(y)
    out[:, :4] = y[:, 2:]
    out[:, 3:] = y[:, :3]
    out[:, :1] = 5.0
    return out


def the_whole(y: Tensor) -> Tensor:
    out = torch.zeros_like(y)
    out[:] = y
    return out


def nothing(y: Tensor) -> Tensor:
    out = y.clone()
    out[:, 3:3] = y[:, :0]
    return out


def two_axes(y: Tensor) -> Tensor:
    out = torch.zeros_like(y)
    out[0, :3] = y[1, 3:]
    out[1:] = y[:2]
    return out


def one_row_for_all(y: Tensor) -> Tensor:
    out = torch.zeros_like(y)
    out[:, :3] = y[0, 3:]
    out[:, 3:] = y[:, :3]
    return out


def traced(f: Writes) -> Graph:
    """The graph, after checking that it computes what the model computes."""
    model, x = Writer(f), torch.randn(3, 4)
    graph = trace(model, (x,))
    (found,) = evaluate(graph, state_of(model), (x,), torch.float32)
    torch.testing.assert_close(found, model(x))
    return graph


CASES = [two_halves, one_after_another, the_middle, over_each_other, the_whole, nothing, two_axes, one_row_for_all]


@pytest.mark.parametrize("f", CASES)
def test_no_write_is_left_and_the_function_is_the_same(f: Writes) -> None:
    assert not [n for n in traced(f).calls if "scatter" in n.target or "copy" in n.target]


@pytest.mark.parametrize("f", [two_halves, one_after_another, the_whole, one_row_for_all])
def test_what_is_filled_is_gone(f: Writes) -> None:
    assert not [n for n in traced(f).calls if "empty" in n.target or "zeros" in n.target]


@pytest.mark.parametrize("f", [the_whole, nothing])
def test_a_write_of_all_or_nothing_is_no_call(f: Writes) -> None:
    assert [n.target for n in traced(f).calls] == ["aten.linear.default"]


def test_a_piece_keeps_the_place_of_the_write() -> None:
    found = [n for n in traced(the_middle).calls if n.target == "aten.cat.default"]
    assert [n.source.split(":")[0] for n in found] == ["test_pieces.py"]
    assert found[0].args[1] == 1


def test_every_second_position_stays_a_write() -> None:
    def every_second(y: Tensor) -> Tensor:
        out = y.clone()
        out[:, ::2] = y[:, 1::2]
        return out

    assert "aten.slice_scatter.default" in {n.target for n in traced(every_second).calls}


def test_a_copy_into_another_kind_of_number_is_a_cast() -> None:
    def rounded(y: Tensor) -> Tensor:
        out = torch.zeros(3, 6, dtype=torch.long)
        out[:] = y * 10
        return out * y

    assert "aten.to.dtype" in {n.target for n in traced(rounded).calls}
