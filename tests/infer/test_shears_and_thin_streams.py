"""Streams that norms and linear maps alone meet may be sheared; what one narrow map writes is thin."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.prove.audit import audit
from symgraph.prove.verify import verify
from symgraph.symmetry.dimension import Family, dimension
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.shears import ONES, Normal
from symgraph.tracing import state_of, trace


class Blocks(nn.Module):
    """Two blocks with norms in front; the head reads their stream as it is."""

    def __init__(self, first: nn.Module, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.embed, self.first, self.head = nn.Linear(8, 5), first, nn.Linear(5, 6)
        self.norms = nn.ModuleList([norm(5, eps=1e-5) for _ in range(2)])
        self.up = nn.ModuleList([nn.Linear(5, 6) for _ in range(2)])
        self.down = nn.ModuleList([nn.Linear(6, 5) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.embed(x))
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(torch.tanh(up(norm(x))))
        found: Tensor = self.head(x)
        return found


class Tied(nn.Module):
    """A table that a map reads by its rows, and that reads a norm as the head: no norm reads along its axis."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.map, self.up = nn.Embedding(30, 3), nn.Linear(3, 5), nn.Linear(5, 3)
        self.norm, self.bias = nn.LayerNorm(3), nn.Parameter(torch.randn(30))

    def forward(self, words: Tensor) -> Tensor:
        x = torch.tanh(self.map(self.table(words))).mean(1)
        return F.linear(self.norm(torch.tanh(self.up(x))), self.table.weight, self.bias)


class Both(nn.Module):
    """The stream behind a norm with a table added, which reads and norms see beside what the norm wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.places = nn.Linear(8, 5), nn.LayerNorm(5), nn.Parameter(torch.randn(7, 5))
        self.up, self.down, self.last, self.head = nn.Linear(5, 6), nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(torch.tanh(self.embed(x))) + self.places
        x = self.last(x + self.down(torch.tanh(self.up(x))))
        found: Tensor = self.head(x)
        return found


def proven(model: nn.Module, given: Tensor) -> SymmetryGraph:
    """Its symmetries: verified by random elements, and all that an audit measures."""
    symmetry = infer(trace(model, (given,)))
    report = verify(symmetry, {n: torch.randn_like(t) for n, t in state_of(model).items()})
    assert report.passed, str(report)
    found = audit(symmetry, approximate=False)
    assert found.complete, str(found)
    assert dimension(symmetry).number == found.inferred
    return symmetry


def test_a_stream_that_norms_read_beside_a_head_may_be_sheared_along_the_ones() -> None:
    symmetry = proven(Blocks(nn.Identity()), torch.randn(7, 8))
    (shear,) = symmetry.shears
    assert (shear.along, shear.across, shear.size) == (ONES, None, 5)
    assert dimension(symmetry).family(Family.SHEAR) == 5


def test_a_norm_that_writes_it_leaves_one_direction_and_its_gains_of_one_spectrum() -> None:
    symmetry = proven(Blocks(nn.LayerNorm(5)), torch.randn(7, 8))
    (shear,) = symmetry.shears
    assert (shear.along, shear.across) == (ONES, Normal("first.weight"))
    (spectral,) = symmetry.spectral
    assert spectral.gain == "first.weight" and spectral.stream == shear.frame


def test_a_table_may_be_sheared_across_what_a_norm_writes() -> None:
    symmetry = proven(Tied(), torch.randint(30, (6, 3)))
    (shear,) = symmetry.shears
    assert {shear.along, shear.across} == {None, Normal()}


def test_what_is_added_behind_a_norm_is_seen_by_its_readers() -> None:
    (shear,) = proven(Both(), torch.randn(3, 7, 8)).shears
    assert (shear.along, shear.across) == (ONES, Normal("first.weight"))


@pytest.mark.parametrize("norm", [nn.RMSNorm])
def test_a_norm_that_sees_the_mean_allows_none(norm: type[nn.Module]) -> None:
    assert not infer(trace(Blocks(nn.Identity(), norm), (torch.randn(7, 8),))).shears


class Seen(Blocks):
    """A stream that something beside norms and linear maps reads, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.sigmoid(self.embed(x)).sum(-1, keepdim=True)


def test_whatever_else_reads_the_stream_allows_none() -> None:
    assert not infer(trace(Seen(nn.Identity()), (torch.randn(7, 8),))).shears


def test_a_graph_that_is_kept_has_them() -> None:
    symmetry = infer(trace(Blocks(nn.LayerNorm(5)), (torch.randn(7, 8),)))
    kept = SymmetryGraph.from_json(symmetry.to_json())
    assert kept.shears == symmetry.shears and kept.spectral == symmetry.spectral


# -- thin streams ------------------------------------------------------------------------------------------------------


class Factored(nn.Module):
    """A table of few dimensions, a map into a wider stream, and one block with its norm behind."""

    def __init__(self, narrow: int, norm: bool, bias: bool = True) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(40, narrow), nn.LayerNorm(narrow) if norm else nn.Identity()
        self.places = nn.Parameter(torch.randn(4, narrow))
        self.map, self.up, self.down = nn.Linear(narrow, 5, bias), nn.Linear(5, 6, bias), nn.Linear(6, 5)
        self.last, self.inside, self.head = nn.LayerNorm(5), nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, words: Tensor) -> Tensor:
        x = self.map(self.norm(self.table(words) + self.places))
        x = self.last(x + self.down(torch.tanh(self.up(x)).mean(1, keepdim=True)))
        found: Tensor = self.head(torch.tanh(self.inside(x)).mean(1))
        return found


@pytest.mark.parametrize(
    ("narrow", "norm", "bias", "number"),
    # Two of five directions, and another one where a norm keeps what it writes in a plane.
    [(3, False, True, 2), (3, True, True, 3), (5, True, True, 1), (3, False, False, 2)],
)
def test_readers_do_not_see_what_a_narrow_map_never_writes(narrow: int, norm: bool, bias: bool, number: int) -> None:
    symmetry = proven(Factored(narrow, norm, bias), torch.randint(40, (6, 4)))
    assert [thin.reader.parameter for thin in symmetry.thin] == ["up.weight"]
    assert dimension(symmetry).family(Family.THIN) == 6 * number
    assert dimension(symmetry).family(Family.SHEAR) == 5 - number
    assert SymmetryGraph.from_json(symmetry.to_json()).thin == symmetry.thin


class Again(Factored):
    """The reader of the thin stream reads another one, too."""

    def forward(self, words: Tensor) -> Tensor:
        found: Tensor = super().forward(words) + self.up(torch.tanh(self.map(self.table(words)))).sum()
        return found


def test_a_reader_of_anything_else_sees_all_directions() -> None:
    assert not infer(trace(Again(3, False), (torch.randint(40, (6, 4)),))).thin


def test_a_map_from_more_dimensions_writes_all() -> None:
    assert not infer(trace(Factored(5, False), (torch.randint(40, (6, 4)),))).thin


def test_between_linear_maps_alone_the_space_has_them() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    assert not infer(trace(model, (torch.randn(7, 3),))).thin


def test_a_norm_of_one_number_is_no_stream() -> None:
    """What it writes is its bias, along an axis that no frame stands on."""
    model = nn.Sequential(nn.Linear(3, 1), nn.LayerNorm(1), nn.Linear(1, 4), nn.GELU(), nn.Linear(4, 2))
    symmetry = infer(trace(model, (torch.randn(2, 3),)))
    assert symmetry.shears == () and verify(symmetry, state_of(model)).passed


class Turned(nn.Module):
    """A thin stream of two axes that a map reads in the other order; its lengths are seen, so that nothing turns it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.widen, self.head = nn.Embedding(40, 2), nn.Linear(2, 6), nn.Linear(6, 3)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        wide = self.widen(self.table(words)).unflatten(-1, (2, 3)).transpose(-1, -2).flatten(-2)
        return self.head(wide), wide @ wide.transpose(-1, -2)


def test_a_thin_stream_is_read_in_another_order() -> None:
    model = Turned()
    symmetry = infer(trace(model, (torch.randint(40, (6, 4)),)))
    assert [thin.reader.parameter for thin in symmetry.thin] == ["head.weight"]
    assert verify(symmetry).passed
    assert verify(symmetry, state_of(model), perturb=0.3).passed
