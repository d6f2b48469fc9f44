"""Tables that are read by a norm's output as well: what all rows get, another summand gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.prove.audit import audit
from symgraph.prove.verify import verify
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace


class Tied(nn.Module):
    """Two tables in a sum, a norm that keeps its gain, and the first table as the head."""

    def __init__(self, *, gain: bool = True, bias: bool = True, twice: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(6, 4), nn.Parameter(torch.randn(3, 4))
        self.norm = nn.LayerNorm(4, elementwise_affine=gain)
        self.inner, self.twice = nn.Linear(4, 4), twice
        self.bias = nn.Parameter(torch.randn(6)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(torch.tanh(self.words(x) + self.places)))
        h = self.norm(h)
        found = nn.functional.linear(h, self.words.weight, self.bias)
        return found + nn.functional.linear(torch.tanh(h), self.words.weight) if self.twice else found


def inferred(model: nn.Module) -> SymmetryGraph:
    return infer(trace(model, (torch.randint(0, 6, (5, 3)),)))


@pytest.mark.parametrize("gain", [True, False])
def test_one_direction_and_no_other(gain: bool) -> None:
    model = Tied(gain=gain)
    symmetry = inferred(model)
    (tied,) = [c for c in symmetry.constants if c.tied is not None]
    places = [s.port.piece.parameter for s in tied.shares]
    assert (tied.source.piece.parameter, places) == ("words.weight", ["places"])
    state = {n: torch.randn_like(t) if t.is_floating_point() else t for n, t in state_of(model).items()}
    assert verify(symmetry, state).passed
    found = audit(symmetry)
    assert found.complete, str(found)


@pytest.mark.parametrize("options", [{"bias": False}, {"twice": True}])
def test_none_where_something_else_sees_it(options: dict[str, bool]) -> None:
    symmetry = inferred(Tied(**options))
    assert not [c for c in symmetry.constants if c.tied is not None]
    found = audit(symmetry)
    assert found.complete, str(found)


class Blind(nn.Module):
    """A table that a softmax over its rows reads in a sum, and that is looked up in another one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 4))
        self.beside, self.places = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.table + self.beside, 0).mT
        found: Tensor = torch.tanh(nn.functional.embedding(x, self.table) + self.places) @ weights
        return found


def test_a_use_that_sees_nothing_lends_the_table_to_the_other_use_alone() -> None:
    model = Blind()
    symmetry = inferred(model)
    ports = [(c.source, *(s.port for s in c.shares)) for c in symmetry.constants]
    assert {"table", "beside"} not in [{p.piece.parameter for p in found} for found in ports]
    state = {n: torch.randn_like(t) for n, t in state_of(model).items()}
    assert verify(symmetry, state).passed
    assert not audit(symmetry).unsound
