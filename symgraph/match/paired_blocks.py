"""Blocks of two models side by side, as a match works with them: cut once, in its precision, long rigid axes summed.

In |A - g.B|^2 only <A, g.B> depends on g. Where a block has more positions on axes that nothing moves than on those
that move, B enters by what it has in common with A along them, M = B A^T, and A as the identity: <A, g.B> = <1, g.M>.
So nothing of the size of a vocabulary is touched once the match has begun.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from symgraph.io.heap import given_back
from symgraph.io.sums import inner, square
from symgraph.orbit.action import GroupElement
from symgraph.orbit.steps import State
from symgraph.orbit.tensor_blocks import Block, blocks, unfold
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Leaf
from symgraph.tracing.deferred import made, made_as

# Rows of a block that are summed at once.
ROWS = 2048
Keep = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Outline:
    """A block without its numbers: of which tensor, what stands on its axes, and how many entries it has."""

    member: str
    leaves: tuple[Leaf, ...]
    entries: int
    spaces: frozenset[int]


def outlines_of(symmetry: SymmetryGraph, names: Iterable[str]) -> list[Outline]:
    """The blocks of some tensors that the group may move, those that it acts on together as one."""
    shapes = {name: torch.empty(symmetry.graph.state[name].shape, device="meta") for name in names}
    spaces = _moving(symmetry)
    found = []
    for name, tensor in symmetry.stacked(symmetry.reading.of(shapes)).items():
        member = symmetry.members_of(name)[0]
        for block in blocks(name, [tensor], symmetry.acting_terms[name]):
            if block.spaces() & spaces:
                on = frozenset(block.spaces())
                found.append(Outline(member, block.leaves, block.tensors[0].numel(), on))
    return found


def _moving(symmetry: SymmetryGraph) -> set[int]:
    return {number for space in symmetry.active for number in (space.id, *space.fibre)}


class Pair:
    """A block of A and the same one of B as it is now, and what it weighs.

    `keep` is called with every tensor of the pair: what it returns is held, and made again when it is needed.
    """

    def __init__(self, block: Block, weight: float, keep: Keep = made) -> None:
        self.parameter, self.leaves, self.weight = block.parameter, block.leaves, weight
        self.spaces = frozenset(block.spaces())
        self._keep = keep
        self._first, self._second = map(keep, block.tensors)
        self._product: float | None = None

    @property
    def block(self) -> Block:
        """Both, in memory."""
        return Block(self.parameter, self.leaves, (made(self._first), made(self._second)))

    def move(self, element: GroupElement) -> None:
        """Moves B."""
        self._product = None
        moved = element.on_block(made(self._second), self.leaves)
        self._second = self._keep(given_back(moved))

    def gain(self, element: GroupElement) -> float:
        """By how much an element would raise <A, B>."""
        a, b = self.block.tensors
        return self.weight * inner(a, element.on_block(b, self.leaves) - b)

    def product(self) -> float:
        """<A, B> as it counts; found again only once B has moved."""
        if self._product is None:
            self._product = self.weight * inner(*self.block.tensors)
        return self._product

    def distance(self) -> float:
        """|A - B|^2 as it counts, of a block that is not condensed."""
        a, b = self.block.tensors
        return self.weight * square(a - b)


@dataclass(frozen=True, slots=True)
class Paired:
    """What a match works with: the pairs that the group may move, and |A|^2 and |B|^2 as they count.

    `still` is what the others come to, as their product, or as their distance where that was asked for.
    """

    pairs: list[Pair]
    squares: tuple[float, float]
    still: float


def pairs_of(
    symmetry: SymmetryGraph,
    a: State,
    b: State,
    weights: Mapping[str, float],
    dtype: torch.dtype,
    *,
    condense: bool,
    whole: Container[int] = (),
    by_distance: bool = False,
    keep: Keep = made,
) -> Paired:
    """The blocks of two states, branches stacked; every tensor is read once.

    Args:
        condense: sum over what nothing moves where that makes a block smaller; not for costs that look at A or B alone.
        whole: spaces on whose blocks nothing is summed all the same.
        by_distance: what is still counts by differences.
        keep: where tensors of the pairs are put.
    """
    spaces = _moving(symmetry)
    found: list[Pair] = []
    square_a = square_b = still = 0.0
    for name in a:
        weight = weights[name]
        tensors = [given_back(made_as(state[name], dtype)) for state in (a, b)]
        square_a += weight * square(tensors[0])
        square_b += weight * square(tensors[1])
        for block in blocks(name, tensors, symmetry.acting_terms[name]):
            if block.spaces() & spaces:
                summed = condense and not any(space in whole for space in block.spaces())
                kept = _condensed(block, spaces) if summed else None
                found.append(Pair(kept or block, weight, keep))
            else:
                pair = Pair(block, weight)
                still += pair.distance() if by_distance else pair.product()
    return Paired(found, (square_a, square_b), still)


def _condensed(block: Block, spaces: Container[int]) -> Block | None:
    """The block with what nothing moves summed over, None where that would not make it smaller."""
    dims = [dim for dim, leaf in enumerate(block.leaves) if leaf.space in spaces]
    sizes = [block.leaves[dim].size for dim in dims]
    size, first = prod(sizes), block.tensors[0]
    if first.numel() <= size * size:
        return None
    common = first.new_zeros(size, size)
    flat = [unfold(tensor, dims).flatten(0, -2) for tensor in block.tensors]
    for rows_a, rows_b in zip(*(torch.split(tensor, ROWS, dim=1) for tensor in flat), strict=True):
        common.addmm_(rows_b, rows_a.mT)
    leaves = (*(block.leaves[dim] for dim in dims), Leaf(-1, -1, False, size))
    eye = torch.eye(size, dtype=first.dtype, device=first.device)
    return Block(block.parameter, leaves, (eye.reshape(*sizes, size), common.reshape(*sizes, size)))
