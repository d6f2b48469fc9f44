"""Constants in some entries of what a norm centres as a whole: both they and the means come to zero.

A constant is settled where the mean over its rows is zero. If afterwards the mean along several frames is taken out of
every row, what stands in another frame comes back into this one. So what has to be added is solved for: the same at all
entries that share a mean, one number for each of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symgraph.orbit.constant_steps import Shift
from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.families import Constant, ones, sides
from symgraph.symmetry.graph import SymmetryGraph


@dataclass(frozen=True, slots=True)
class Overlap:
    """A constant that holds some entries of a piece that is centred along a frame, and not all."""

    constant: Constant
    piece: Piece
    frame: int

    @property
    def indicators(self) -> Tensor:
        """For each mean of the piece the entries of the constant that are in it.

        Shapes: (means that it meets, size of the source).
        """
        numbers = dict(zip(self.piece.entries(), _groups(self.piece, self.frame).tolist(), strict=True))
        entries = torch.tensor([numbers.get(entry, -1) for entry in self.constant.source.piece.entries()])
        met = torch.tensor(sorted(set(entries.tolist()) - {-1}))
        return (entries == met.unsqueeze(1)).double()

    def remains(self, state: Mapping[str, Tensor]) -> Tensor:
        """What is left of the constant, on average, once the means are taken out; shapes: (means that it meets,)."""
        source, indicators = self.constant.source, self.indicators
        groups = _groups(self.piece, self.frame)
        here = replace(source, piece=self.piece).mean(state).double()
        summed = here.new_zeros(int(groups.max()) + 1).index_add(0, groups.to(here.device), here)
        means = summed / (len(groups) / len(summed))
        met = sorted(set(groups[torch.isin(self.piece.places(), source.piece.places())].tolist()))
        constant = indicators.to(here) @ source.mean(state).double() / indicators.to(here).sum(1)
        return constant - means[met]


def overlaps(symmetry: SymmetryGraph) -> list[Overlap]:
    """All constants that the canonical form settles in parts of what it centres as a whole."""
    centred = [(piece, one.frame) for one in symmetry.centred for piece in one.pieces]
    return [
        Overlap(constant, piece, frame)
        for constant in symmetry.constants
        for piece, frame in centred
        if constant.settled and _meet(constant.source.piece, piece)
    ]


def _meet(source: Piece, piece: Piece) -> bool:
    """Whether the first has some entries of the second, and not all."""
    if (source.parameter, source.axes) != (piece.parameter, piece.axes) or source.place == piece.place:
        return False
    shared = set(source.entries()) & set(piece.entries())
    return 0 < len(shared) < piece.size


def _groups(piece: Piece, frame: int) -> Tensor:
    """For every entry of a piece the number of the mean that it is in; shapes (n,)."""
    before, after = sides(piece, frame)
    numbers = torch.arange(before * after).reshape((-1,) if before * after > 1 else ())
    return ones(replace(piece, axis=0), frame, numbers).expand(piece.size)


def settled_together(symmetry: SymmetryGraph, found: list[Overlap], state: Mapping[str, Tensor]) -> list[Tensor]:
    """What is to be added at the source of each, so that nothing remains of any; shapes: [(size of the source,)]."""
    raised = symmetry.raised(state)
    needed = {name: raised[name] for name in dict.fromkeys(_needed(symmetry, found)) if name in symmetry.shapes}
    remaining = _remaining(found, needed)
    columns = []
    for overlap in found:
        for indicator in overlap.indicators:
            shifted = Shift(symmetry, overlap.constant, indicator.to(remaining.device)).act(needed)
            columns.append(_remaining(found, shifted) - remaining)
    amounts = -torch.linalg.pinv(torch.stack(columns, 1)) @ remaining
    given = iter(amounts.split([len(overlap.indicators) for overlap in found]))
    return [amount @ overlap.indicators.to(amount) for overlap, amount in zip(found, given, strict=True)]


def _remaining(found: list[Overlap], state: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([overlap.remains(state) for overlap in found])


def _needed(symmetry: SymmetryGraph, found: list[Overlap]) -> Iterator[str]:
    for overlap in found:
        step = Shift(symmetry, overlap.constant, torch.zeros(overlap.constant.shape))
        for name in step.moves:
            yield name
            yield from step.needs(name)
