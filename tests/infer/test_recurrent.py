"""Recurrent networks: each layer and direction has a hidden space of its own, however its first state is made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import symgraph

Read = Callable[[nn.Module, Tensor], Tensor]


class Recurrent(nn.Module):
    """A recurrent network and a linear map of what `read` takes from it."""

    def __init__(self, cell: nn.Module, width: int, read: Read) -> None:
        super().__init__()
        self.cell, self.read, self.head = cell, read, nn.Linear(width, 2)
        self.example_inputs = (torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1)),)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.read(self.cell, x))
        return found


def outputs(cell: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = cell(x)[0]
    return found


def last_of_both_ways(cell: nn.Module, x: Tensor) -> Tensor:
    states = cell(x)[1]
    return torch.cat([states[-2], states[-1]], -1)


def last_layer_by_a_view(cell: nn.Module, x: Tensor) -> Tensor:
    states: Tensor = cell(x)[1][0]
    return states.view(2, 1, *states.shape[1:])[-1].squeeze(0)


def own_steps(cells: nn.Module, x: Tensor) -> Tensor:
    """Cells written out over time, all of which begin with the same zeros."""
    assert isinstance(cells, nn.ModuleList)
    states = [x.new_zeros(x.shape[0], 4)] * len(cells)
    for y in x.unbind(1):
        for i, cell in enumerate(cells):
            y = states[i] = cell(y, states[i])
    return y


CASES: dict[str, tuple[int, Callable[[], Recurrent]]] = {
    "gru of two layers": (2, lambda: Recurrent(nn.GRU(3, 4, 2, batch_first=True), 4, outputs)),
    "rnn both ways without biases": (
        2,
        lambda: Recurrent(nn.RNN(3, 4, bidirectional=True, bias=False), 8, outputs),
    ),
    "last states both ways": (
        2,
        lambda: Recurrent(nn.GRU(3, 4, bidirectional=True, batch_first=True), 8, last_of_both_ways),
    ),
    "last layer by a view": (2, lambda: Recurrent(nn.LSTM(3, 4, 2, batch_first=True), 4, last_layer_by_a_view)),
    "cells": (2, lambda: Recurrent(nn.ModuleList([nn.GRUCell(3, 4), nn.GRUCell(4, 4)]), 4, own_steps)),
    "projected": (2, lambda: Recurrent(nn.LSTM(3, 5, proj_size=4, batch_first=True), 4, outputs)),
}


@pytest.mark.parametrize("name", CASES)
def test_each_hidden_state_is_a_space(name: str) -> None:
    spaces, make = CASES[name]
    torch.manual_seed(0)
    model = make().eval()
    symmetry = symgraph.infer(model)
    assert len(symmetry.active) == spaces
    assert symgraph.verify(model, symmetry=symmetry).passed
    moved = symgraph.sample(model, symmetry=symmetry, seed=3)
    before, found = model.state_dict(), symgraph.align(model, moved).state
    assert max(float((moved.state_dict()[n] - before[n]).abs().max()) for n in before) > 0.1
    for tensor, aligned in ((before[n], found[n]) for n in before):
        assert torch.allclose(tensor, aligned, atol=1e-4)
