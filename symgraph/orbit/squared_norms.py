"""Squared norms along spaces, of tensors that scales alone act on, at other scales than they were given at.

Of such a block all that counts are the sums of its squares over the axes that no scale acts on. They stay as they were
given, and blocks that are acted on alike are one; the scales of now are known by their logarithms.

Where a space has several axes of one block (a weight from units to the same units), the product of their factors is at
most the mean of the factors' powers, by as many as there are axes, with equality where nothing moves. So each of these
axes counts for its share, with that power: the sum of all never grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from symgraph.orbit.grams import add_to
from symgraph.orbit.tensor_blocks import Block, spread, stands, unfold
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Leaf

Logs = dict[int, Tensor]
Exponents = tuple[int, ...]


class Axis(NamedTuple):
    """The space of an axis, and how its scales act there."""

    space: int
    exponents: Exponents


class Occurrence(NamedTuple):
    """How the scales of a space act along an axis, and how many axes of the block the space has."""

    exponents: Exponents
    times: int


Axes = tuple[Axis, ...]


def exponents_on(symmetry: SymmetryGraph, leaf: Leaf) -> Exponents:
    """How the scales of a space act along an axis; not at all where there is no space."""
    if leaf.space < 0:
        return ()
    return tuple(-exponent if leaf.dual else exponent for exponent in symmetry.frame(leaf.frame).scale)


@dataclass(frozen=True, slots=True)
class _Shared:
    """A table on a space and on others: `sums` has the axes of the space's norms in front, `others` what follows."""

    row: int
    sums: Tensor
    axes: Axes
    dims: tuple[int, ...]


class SquaredNorms:
    """Sums of squares of blocks, and the scales that act on them.

    Args:
        spaces: those that have scales.
        blocks: no space acts on them but these.
        further: how the scales of a space act on what is not among the blocks: there will be a row for it.
    """

    def __init__(
        self,
        symmetry: SymmetryGraph,
        spaces: Sequence[Space],
        blocks: Iterable[Block],
        further: Mapping[int, Iterable[Occurrence]],
        like: Tensor,
    ) -> None:
        self.symmetry = symmetry
        tables: dict[Axes, Tensor] = {}
        for block in blocks:
            add_to(tables, *self._sums(block, spaces))
        self.near = [{axis.space for axis in axes} for axes in tables]
        self.kinds: dict[int, tuple[Occurrence, ...]] = {}
        self.logs: Logs = {}
        self._own: dict[int, Tensor] = {}
        self._shared: dict[int, list[_Shared]] = {}
        self._powers: dict[int, Tensor] = {}
        self._bounds: dict[int, Tensor] = {}
        self._factors: dict[Axis, Tensor] = {}
        for space in spaces:
            here = {axes: sums for axes, sums in tables.items() if space.id in dict(axes)}
            self._begin(space, here, [*further.get(space.id, ())], like)

    def _sums(self, block: Block, spaces: Sequence[Space]) -> tuple[Axes, Tensor]:
        kept = {number for space in spaces if space.id in block.spaces() for number in (space.id, *space.fibre)}
        held = {dim: leaf for dim, leaf in enumerate(block.leaves) if leaf.space in kept}
        axes = tuple(Axis(leaf.space, exponents_on(self.symmetry, leaf)) for leaf in held.values())
        return axes, unfold(block.tensors[0], list(held)).square().sum(-1)

    def _begin(self, space: Space, tables: Mapping[Axes, Tensor], further: list[Occurrence], like: Tensor) -> None:
        """What is on a space: tables of it alone are summed, others stand by themselves."""
        found = list(_occurrences(tables, space))
        kinds = tuple(sorted({*further, *(kind for _, _, kind in found)}))
        shape = (*self.symmetry.fibre_sizes(space), space.size)
        own = torch.zeros(len(kinds), *shape).to(like)
        self._shared[space.id] = []
        for axes, dims, kind in found:
            row, sums = kinds.index(kind), tables[axes] / kind.times
            if any(any(axis.exponents) for dim, axis in enumerate(axes) if dim != dims[-1]):
                self._shared[space.id].append(_Shared(row, sums, axes, dims))
            else:
                own[row] += unfold(sums, dims).sum(-1)
        self.kinds[space.id], self._own[space.id] = kinds, own
        powers = torch.tensor([kind.exponents for kind in kinds]).reshape(len(kinds), space.scales).to(like)
        self._powers[space.id] = powers
        self._bounds[space.id] = powers * torch.tensor([kind.times for kind in kinds]).to(like).unsqueeze(1)
        self.logs[space.id] = torch.zeros(space.scales, *shape).to(like)

    def powers(self, space: Space) -> Tensor:
        """How each row of a space's norms bounds the whole as its scales change: (m, p)."""
        return self._bounds[space.id]

    def of(self, space: Space) -> Tensor:
        """Squared norms of all slices on a space, with a row for each way in which its scales act: (m, F, n)."""
        norms = self._own[space.id]
        if self._shared[space.id]:
            norms = norms.clone()
            for table in self._shared[space.id]:
                norms[table.row] += self._summed(table)
        return norms * _by_powers(2 * self._powers[space.id], self.logs[space.id])

    def _summed(self, table: _Shared) -> Tensor:
        """The sums of a table over what is not on its space, at the scales of now: (F, n)."""
        sums, own = table.sums, table.dims[-1]
        if sums.dim() == 2 and len(table.dims) == 1:
            other = table.axes[1 - own]
            # What differs by position has a factor for each, and no product of matrices sums it.
            if not self.symmetry.spaces[other.space].fibre:
                return (sums if own == 0 else sums.T) @ self._factor(other)
        for dim, axis in enumerate(table.axes):
            if dim != own and any(axis.exponents):
                (at,) = (dims for dims in _stands(table.axes, self.symmetry.spaces[axis.space]) if dims[-1] == dim)
                sums = sums * spread(self._factor(axis), sums.dim(), [*at])
        return unfold(sums, table.dims).sum(-1)

    def _factor(self, axis: Axis) -> Tensor:
        """What the scales of a space make of squares along an axis: (F, n)."""
        if axis not in self._factors:
            logs = self.logs[axis.space]
            self._factors[axis] = _by_powers(2 * torch.tensor([axis.exponents]).to(logs), logs)[0]
        return self._factors[axis]

    def scale(self, logs: Logs) -> None:
        """Moves by scales of these logarithms, (p, F, n) for each space."""
        for space, change in logs.items():
            self.logs[space] = self.logs[space] + change
        self._factors = {axis: factor for axis, factor in self._factors.items() if axis.space not in logs}


def _occurrences(tables: Iterable[Axes], space: Space) -> Iterator[tuple[Axes, tuple[int, ...], Occurrence]]:
    """Every axis of the tables on a space, behind those that it is fibred over, and how the space is there."""
    for axes in tables:
        several = _stands(axes, space)
        for dims in several:
            yield axes, dims, Occurrence(axes[dims[-1]].exponents, len(several))


def _stands(axes: Axes, space: Space) -> list[tuple[int, ...]]:
    """Every axis on a space, behind those on the spaces that it is fibred over."""
    return stands([axis.space for axis in axes], space.id, space.fibre)


def _by_powers(powers: Tensor, logs: Tensor) -> Tensor:
    """Products of powers of scales: (m, p) and the logarithms (p, F, n) -> (m, F, n)."""
    return (powers @ logs.flatten(1)).exp().view(len(powers), *logs.shape[1:])
