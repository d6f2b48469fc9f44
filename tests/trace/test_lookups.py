"""Inputs that hold rows of several tables, and other numbers, side by side."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import symgraph
from symgraph.tracing.lookups import table_rows
from symgraph.tracing.sampling import random_inputs
from symgraph.tracing.worlds import WORLDS


class Columns(nn.Module):
    """Two columns of categories and two of numbers, as models of recommendations take them."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.first, self.second = nn.Embedding(9, 3), nn.Embedding(7, 3)
        self.hidden, self.head = nn.Linear(8, 5), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        columns = x if self.whole else x[:, :2].long()
        tables = [self.first(columns[:, 0]), self.second(columns[:, 1:2]).squeeze(1)]
        out: Tensor = self.head(torch.relu(self.hidden(torch.cat([*tables, x[:, 2:].to(self.hidden.weight.dtype)], 1))))
        return out


@pytest.mark.parametrize("whole", [False, True])
def test_each_entry_is_a_row_of_its_own_table(whole: bool) -> None:
    x = torch.ones(4, 4, dtype=torch.int64) if whole else torch.ones(4, 4)
    graph = symgraph.trace(Columns(whole), x)
    rows = table_rows(graph, graph.inputs[0].name)
    assert rows is not None and rows.tolist() == [[9, 7, 0, 0]] * 4
    drawn = [
        random_inputs(graph, torch.Generator().manual_seed(seed), world)[0] for world in WORLDS for seed in range(9)
    ]
    assert all(bool((columns[:, :2].long() < torch.tensor([9, 7])).all()) for columns in drawn)
    assert {int(value) for columns in drawn for value in columns[:, 0]} == set(range(9))


@pytest.mark.parametrize("whole", [False, True])
def test_models_on_columns_are_verified_and_audited(whole: bool) -> None:
    torch.manual_seed(0)
    model, x = Columns(whole), torch.ones(24, 4, dtype=torch.int64) if whole else torch.ones(24, 4)
    symmetry = symgraph.infer(model, x)
    assert symgraph.verify(symmetry, model).passed
    assert symgraph.audit(symmetry, model).complete


def test_entries_picked_by_other_numbers_may_be_any() -> None:
    class Picked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(5, 4), nn.Linear(4, 6)

        def forward(self, x: Tensor, places: Tensor) -> Tensor:
            out: Tensor = self.head(self.table(x.gather(1, places)))
            return out

    graph = symgraph.trace(Picked(), (torch.ones(2, 3, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.int64)))
    rows = table_rows(graph, "x")
    assert rows is not None and rows.tolist() == [[5] * 3] * 2
