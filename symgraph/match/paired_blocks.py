"""Blocks of two models side by side, as a match works with them: cut once, in its precision, long rigid axes summed.

In |A - g.B|^2 only <A, g.B> depends on g. Where a block has more positions on axes that nothing moves than on those
that move, B enters by what it has in common with A along them, M = B A^T, and A as the identity: <A, g.B> = <1, g.M>.
So nothing of the size of a vocabulary is touched once the match has begun.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from symgraph.orbit.action import GroupElement
from symgraph.orbit.steps import State
from symgraph.orbit.tensor_blocks import Block, blocks, unfold
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Leaf
from symgraph.tracing.deferred import made

# Rows of a block that are converted and summed at once.
ROWS = 8192


@dataclass(slots=True)
class Pair:
    """A block of A and the same one of B as it is now, what it weighs, and how many entries each has in its model."""

    block: Block
    weight: float
    entries: int

    def move(self, element: GroupElement) -> None:
        """Moves B."""
        a, b = self.block.tensors
        self.block = replace(self.block, tensors=(a, element.on_block(b, self.block.leaves)))

    def gain(self, element: GroupElement) -> float:
        """By how much an element would raise <A, B>."""
        a, b = self.block.tensors
        return self.weight * inner(a, element.on_block(b, self.block.leaves) - b)

    def product(self) -> float:
        """<A, B> as it counts."""
        return self.weight * inner(*self.block.tensors)

    def distance(self) -> float:
        """|A - B|^2 as it counts, of a block that is not condensed."""
        a, b = self.block.tensors
        return self.weight * square(a - b)


def pairs_of(
    symmetry: SymmetryGraph,
    a: State,
    b: State,
    weights: Mapping[str, float],
    dtype: torch.dtype,
    *,
    condense: bool,
) -> tuple[list[Pair], list[Pair]]:
    """The blocks of two states, branches stacked, that the group may move; and the others.

    Args:
        condense: sum over what nothing moves where that makes a block smaller; not for costs that look at A or B alone.
    """
    spaces = {i for s in symmetry.active for i in (s.id, *s.fibre)}
    found: list[Pair] = []
    others: list[Pair] = []
    for name in a:
        for block in blocks(name, [a[name], b[name]], symmetry.acting_terms[name]):
            if not block.spaces() & spaces:
                others.append(Pair(block, weights[name], block.tensors[0].numel()))
            else:
                kept = _condensed(block, spaces, dtype) if condense else None
                tensors = tuple(made(t).to(dtype) for t in block.tensors) if kept is None else kept.tensors
                at = block.leaves if kept is None else kept.leaves
                found.append(Pair(Block(name, at, tensors), weights[name], block.tensors[0].numel()))
    return found, others


def _condensed(block: Block, spaces: Container[int], dtype: torch.dtype) -> Block | None:
    """The block with what nothing moves summed over, None where that would not make it smaller."""
    dims = [d for d, leaf in enumerate(block.leaves) if leaf.space in spaces]
    sizes = [block.leaves[d].size for d in dims]
    size = prod(sizes)
    if block.tensors[0].numel() <= size * size:
        return None
    common = torch.zeros(size, size, dtype=dtype, device=block.tensors[0].device)
    flat = [unfold(t, dims).flatten(0, -2) for t in block.tensors]
    for x, y in zip(*(torch.split(t, ROWS, dim=1) for t in flat), strict=True):
        common.addmm_(y.to(dtype), x.to(dtype).mT)
    leaves = (*(block.leaves[d] for d in dims), Leaf(-1, -1, False, size))
    eye = torch.eye(size, dtype=dtype, device=common.device)
    return Block(block.parameter, leaves, (eye.reshape(*sizes, size), common.reshape(*sizes, size)))


def inner(x: Tensor, y: Tensor) -> float:
    """<x, y>: products in the precision of the tensors along one dimension, their sum in float64."""
    return float(torch.linalg.vecdot(x, y).sum(dtype=torch.float64)) if x.dim() else float(x * y)


def square(x: Tensor) -> float:
    """|x|^2, summed in float64."""
    return inner(x, x)
