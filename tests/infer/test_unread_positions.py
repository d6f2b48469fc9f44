"""Tables of positions of which a trace reads a part: what moves is sound for longer inputs as well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import symgraph
from symgraph.inference.table_entries import covered

PLACES = 10


class _Places(nn.Module):
    """A table of positions of which as many rows are added as there are tokens, behind `start` others."""

    def __init__(self, *, stored: bool, start: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        table = torch.randn(PLACES, 6)
        self.start = start
        if stored:
            self.register_buffer("table", table)
        else:
            self.table = nn.Parameter(table)
        self.embed, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.table[self.start : self.start + x.shape[1]]
        found: Tensor = self.head(torch.tanh(self.embed(x) + rows))
        return found


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("start", [0, 2])
def test_rows_that_no_trace_reads_stay_or_go_with_the_others(stored: bool, start: int) -> None:
    model = _Places(stored=stored, start=start).double().eval()
    example = (torch.randn(2, 5, 4, dtype=torch.double),)
    symmetry = symgraph.infer(model, example)
    assert [space.name for space in symmetry.active] == ["hidden" if stored else "residual"]
    found = symgraph.audit(model, symmetry=symmetry)
    assert not found.unsound
    # Nothing is said of what a bias and a buffer have in common.
    assert (found.inferred, found.measured) == ((0, 6) if stored else (6, 6))
    moved = symgraph.sample(model, example)
    longer = torch.randn(2, PLACES - start, 4, dtype=torch.double)
    torch.testing.assert_close(moved(longer), model(longer), rtol=1e-9, atol=1e-9)


def test_rows_that_are_read_apart_and_those_that_are_not_have_one_constant() -> None:
    class Classified(_Places):
        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            first, others = x[:, :1] + self.table[:1], x[:, 1:] + self.table[1 : x.shape[1]]
            found: Tensor = self.head(torch.tanh(torch.cat([first, others], dim=1)))
            return found

    model = Classified(stored=False, start=0).double().eval()
    example = (torch.randn(2, 5, 4, dtype=torch.double),)
    moved = symgraph.sample(model, example)
    longer = torch.randn(2, PLACES, 4, dtype=torch.double)
    torch.testing.assert_close(moved(longer), model(longer), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_are_read_more_than_once_count_once(seed: int) -> None:
    ends = torch.randint(20, (6, 2), generator=torch.Generator().manual_seed(seed)).tolist()
    spans = [(min(pair), max(pair)) for pair in ends]
    assert covered(spans) == len({row for span in spans for row in range(*span)})
    assert covered([]) == 0
