"""Models on which inference once claimed too much."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.orbit.canonical import canonicalise
from symgraph.prove.audit import audit
from symgraph.prove.verify import verify
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace
from symgraph.tracing.sampling import random_state


class EverySecond(nn.Module):
    """A norm's bias that is read with a step, beside a part that is cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        rotated, _ = self.norm(self.first(x)).split([4, 4], -1)
        found: Tensor = self.last(rotated[..., 0::2] * rotated[..., 1::2])
        return found


class HeadsToHeads(nn.Module):
    """A weight that maps (heads, features) to heads: which of the two would a feature map be fibred over?"""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.out = nn.Linear(5, 8), nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        value = self.value(x)
        heads = value.unflatten(-1, (2, 4)) * self.gate(value).sigmoid().unsqueeze(-1)
        found: Tensor = self.out(heads.flatten(-2))
        return found


class WeightOnTheLeft(nn.Module):
    """A gain whose reader is the first operand of a product, so that its axis names the frame."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.RMSNorm(6), nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last @ self.norm(self.first(x)).transpose(-1, -2)
        return found


def checked(model: nn.Module, *shape: int) -> SymmetryGraph:
    symmetry = infer(trace(model, (torch.randn(shape),)))
    verify(symmetry).raise_if_failed()
    return symmetry


def moving(symmetry: SymmetryGraph) -> list[str]:
    return [c.source.piece.parameter for c in symmetry.constants if c.moves]


def test_what_is_read_with_a_step_is_seen() -> None:
    assert not [c for c in checked(EverySecond(), 3, 4).constants if c.moves and c.source.piece.start == 0]


def test_a_space_that_stands_twice_beside_is_no_fibre() -> None:
    symmetry = checked(HeadsToHeads(), 3, 5)
    assert all(len(s.fibre) == 0 for s in symmetry.active)


@pytest.mark.parametrize("batch", [(), (2,)])
def test_a_gain_read_from_the_left(batch: tuple[int, ...]) -> None:
    symmetry = checked(WeightOnTheLeft(), *batch, 3, 4)
    assert [g.parameter for g in symmetry.gains] == ["norm.weight"]
    assert {str(s.group) for s in symmetry.active} == {"orthogonal"}


class LowRank(nn.Module):
    """A weight made of two factors, read from and written into one stream that is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        stream: Tensor = self.first(x)
        return stream + nn.functional.linear(stream, self.up @ self.down)


class BiasTable(nn.Module):
    """A learned bias on capped scores, whose rows and columns are both positions of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 3) for _ in range(3))
        self.table = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.tanh(self.q(x) @ self.k(x).transpose(-1, -2)) + self.table
        found: Tensor = torch.softmax(scores, -1) @ self.v(x)
        return found


class OneMapForEachGroup(nn.Module):
    """A bias over groups, read by a map that all groups share: its own bias has no room for that constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.each, self.last = nn.Linear(3, 6), nn.Linear(3, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.each(self.first(x).unflatten(-1, (2, 3))).flatten(-2))
        return found


class ScaledInPart(nn.Module):
    """A stream with a class token and positions, of which two features are scaled alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.gain = nn.Linear(3, 3), nn.Linear(3, 2), nn.Parameter(torch.randn(2))
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 3)), nn.Parameter(torch.randn(1, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        stream = torch.cat([self.token.expand(len(x), -1, -1), self.first(x)], 1) + self.place
        found: Tensor = self.last(torch.cat([stream[..., :2] * self.gain, stream[..., 2:]], -1))
        return found


class TurnedBeforeReading(nn.Module):
    """A bias over two axes, read by a map over the same two in the other order."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.first(x).unflatten(-1, (2, 3)).transpose(-1, -2).flatten(-2))
        return found


class HalvesThroughOneMap(OneMapForEachGroup):
    """The same where the groups are told apart afterwards, so that the bias has a part for each of them."""

    def forward(self, x: Tensor) -> Tensor:
        groups = self.each(self.first(x).unflatten(-1, (2, 3))).flatten(-2)
        found: Tensor = self.last(torch.cat([groups[..., 3:], groups[..., :3]], -1).tanh())
        return found


class GainOnBothCopies(nn.Module):
    """A vector that scales two copies of one frame: two gains, which no reader can carry as one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.gain = nn.Linear(3, 3), nn.Linear(3, 2), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        stream = self.first(x)
        both = torch.cat([stream, stream], -1) * self.gain
        found: Tensor = self.last(both.reshape(*both.shape[:-1], 2, 3).sum(-2))
        return found


class BiasAndPositions(nn.Module):
    """A constant that moves between positions and a bias, which can move on into the next bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.place = nn.Linear(3, 3), nn.Linear(3, 2), nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.first(x) + self.place)
        return found


def test_an_inner_space_is_not_fibred_over_what_stands_beside_it_in_another_place() -> None:
    assert all(not s.fibre for s in checked(LowRank(), 2, 3).active)


def test_a_bias_table_over_pairs_of_positions_is_centred_along_the_softmax_alone() -> None:
    centred = checked(BiasTable(), 2, 3, 4).centred
    assert {(p.parameter, p.axis) for c in centred for p in c.pieces} == {("table", 1)}


def test_a_constant_of_each_group_does_not_fit_into_a_shared_bias() -> None:
    assert "first.bias" not in moving(checked(OneMapForEachGroup(), 2, 3))


def test_translations_of_an_axis_that_is_cut_are_found_in_any_order() -> None:
    graph = trace(ScaledInPart(), (torch.randn(2, 3, 3),))
    backwards = infer(graph, order=lambda count: reversed(range(count)))
    assert infer(graph).constants == backwards.constants != ()


def test_a_constant_that_is_read_in_another_order() -> None:
    assert moving(checked(TurnedBeforeReading(), 2, 3)) == ["first.bias"]


def test_parts_of_a_bias_that_share_their_readers_move_together() -> None:
    symmetry = checked(HalvesThroughOneMap(), 2, 3)
    (moved,) = symmetry.constants
    assert [(s.port.piece.parameter, s.factor) for s in moved.shares] == [("each.bias", -1.0), ("first.bias", 1.0)]
    assert audit(symmetry).complete


def test_a_vector_on_two_copies_of_one_frame_is_no_gain() -> None:
    assert checked(GainOnBothCopies(), 2, 3).gains == ()


def test_what_a_translation_settles_stays_settled() -> None:
    symmetry = checked(BiasAndPositions(), 2, 4, 3)
    once = canonicalise(symmetry, random_state(symmetry.graph, torch.Generator().manual_seed(1))).state
    twice = canonicalise(symmetry, once).state
    assert all(torch.allclose(once[n], twice[n], atol=1e-9) for n in once)


class PartThatCentres(nn.Module):
    """Queries and keys of one map, cut from it together with the values; the norms of both centre what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.norm, self.out = nn.Linear(1, 6), nn.LayerNorm(2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.both(x.amax(-1, keepdim=True)).chunk(3, -1)
        weights = torch.softmax(self.norm(query) @ self.norm(key).transpose(-1, -2), -1)
        found: Tensor = self.out(weights @ value)
        return found


def test_a_part_of_several_tensors_may_centre_what_others_do_not() -> None:
    assert checked(PartThatCentres(), 2, 3, 4).active
