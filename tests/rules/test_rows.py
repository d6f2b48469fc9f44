"""Rows put or added at positions, distances and transforms: each variant is covered, with the class that it admits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, spread
from torch import Tensor, nn

import symgraph

Function = Callable[[Any, Tensor, Tensor], Tensor]
WIDTH = 6
ROWS, EACH = torch.tensor([0, 1, 1, 2]), torch.tensor([[0, 1, 1, 2], [0, 0, 1, 2]])
MASK = torch.tensor([[True, False, True, False], [False, False, True, True]])


def put(net: Any, x: Tensor, mask: Tensor, value: Any) -> Tensor:
    whole: Tensor = net.first(x).clone()
    whole[mask] = value
    return whole


CASES: dict[str, tuple[Function, Tensor]] = {
    "rows added along the second axis": (
        lambda net, x, at: x.new_zeros(2, 3, WIDTH).index_add(1, at, net.first(x)),
        ROWS,
    ),
    "rows copied": (lambda net, x, at: net.first(x).index_copy(1, at, net.second(x)[:, :2]), ROWS[1::2]),
    "rows put": (lambda net, x, at: net.first(x)[0].index_put((at,), net.second(x)[0, :2]), ROWS[1::2]),
    "rows put, added": (
        lambda net, x, at: torch.zeros(3, WIDTH).index_put((at,), net.first(x)[0], accumulate=True),
        ROWS,
    ),
    "rows scattered in each batch": (
        lambda net, x, at: x.new_zeros(2, 3, WIDTH).scatter_add(1, at[..., None].expand(-1, -1, WIDTH), net.first(x)),
        EACH,
    ),
    "a learned row where a mask is set": (lambda net, x, mask: put(net, x, mask, net.row), MASK),
    "zeros where a mask is set": (lambda net, x, mask: put(net, x, mask, 0), MASK),
    "transform of two axes": (
        lambda net, x, _: torch.fft.rfft2(net.first(x)[:, None].expand(-1, 3, -1, -1), dim=(1, 2)).real,
        ROWS,
    ),
}


def model(function: Function, at: Tensor, norm: Callable[[Tensor], Tensor]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    made = Net(
        lambda net, x, y: net.head(norm(function(net, x, y))),
        first=nn.Linear(4, WIDTH),
        second=nn.Linear(4, WIDTH),
        row=torch.zeros(WIDTH),
        head=nn.Linear(WIDTH, 3),
    )
    return spread(made), (torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0)), at)


@pytest.mark.parametrize("name", CASES)
def test_rows_pass_as_wholes(name: str) -> None:
    made, inputs = model(*CASES[name], lambda y: F.rms_norm(y, (WIDTH,)))
    symmetry = symgraph.infer(made, inputs)
    assert symmetry.uncovered == ()
    assert [str(space.group) for space in symmetry.active if space.size == WIDTH] == ["orthogonal"]
    assert symgraph.verify(made, inputs, symmetry=symmetry).passed


def test_distances_that_are_sums_of_sizes() -> None:
    made, inputs = model(
        lambda net, x, _: torch.cdist(net.first(x), net.second(x), p=1.0) @ net.first(x), ROWS, torch.relu
    )
    symmetry = symgraph.infer(made, inputs)
    assert symmetry.uncovered == ()
    assert symgraph.verify(made, inputs, symmetry=symmetry).passed


def test_layer_norm_over_three_axes() -> None:
    net = Net(
        lambda net, x: net.head(F.layer_norm(net.first(x), (WIDTH, 3, 3)).mean((2, 3))),
        first=nn.Conv2d(2, WIDTH, 1),
        head=nn.Linear(WIDTH, 3),
    )
    inputs = (torch.randn(2, 2, 3, 3),)
    symmetry = symgraph.infer(spread(net), inputs)
    assert [str(space.group) for space in symmetry.active] == ["orthogonal fixing ones"]
    assert symgraph.verify(net, inputs, symmetry=symmetry).passed
