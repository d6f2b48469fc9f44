"""Correlations of the blocks of two models, as the tables that the solvers of units read."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from symgraph.match.unit_trees import positions_of
from symgraph.orbit.grams import add_to
from symgraph.orbit.tensor_blocks import Block, unfold
from symgraph.orbit.wreath import Key, Table, Tree
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Leaf


def repeats(leaves: Sequence[Leaf], ids: set[int]) -> bool:
    """Whether one of the spaces stands on two dimensions."""
    on = [leaf.space for leaf in leaves if leaf.space in ids]
    return len(on) > len(set(on))


def pulled(table: Table, space: Space, weight: float) -> Table:
    """The table with a multiple of the identity added to the correlation of one space."""
    if not weight:
        return table
    own = (key for key in table if [other for other, _ in key] == [space.id])
    key = next(own, ((space.id, (0,) * space.signs),))
    like = next(iter(table.values()))
    identity = weight * torch.eye(space.size).to(like).expand(like.shape[0], -1, -1)
    return {**table, key: table[key] + identity if key in table else identity}


class TableSums:
    """Correlations of blocks added up in place, once for each occurrence of a repeated space (the others held fixed).

    Positions that stay as they are, which the unit is fibred over, have sums of their own. With an `order` those of its
    pairs of positions alone, in the place of the unit's own space.
    """

    def __init__(self, symmetry: SymmetryGraph, unit: Tree, order: Tensor | None = None) -> None:
        self.symmetry, self.unit, self.order = symmetry, unit, order
        self.ids = unit.ids()
        self.positions = positions_of(unit) if order is None else ()
        self.sums: Table = {}

    def add(self, block: Block, weight: float) -> None:
        """Adds the correlation of a block."""
        dims: dict[int, list[int]] = {}
        for dim, leaf in enumerate(block.leaves):
            if leaf.space in self.ids:
                dims.setdefault(leaf.space, []).append(dim)
        for turn in range(max(map(len, dims.values()))):
            chosen = [along[min(turn, len(along) - 1)] for along in dims.values()]
            if self.order is None:
                self._add(self._key(block, chosen), block, chosen, weight)
                continue
            first = dims[self.unit.space.id][0]
            rest = [dim for dim in chosen if dim != first]
            correlation = _correlate_pairs(block, first, rest, self.order)
            add_to(self.sums, self._key(block, rest or [first]), weight * correlation)

    def _key(self, block: Block, dims: list[int]) -> Key:
        leaves = [block.leaves[dim] for dim in dims]
        return tuple((leaf.space, self.symmetry.frame(leaf.frame).sign) for leaf in leaves)

    def _add(self, key: Key, block: Block, dims: list[int], weight: float) -> None:
        apart = [block.dim(space) for space in self.positions]
        first, second = (self._rows(unfold(tensor, [*apart, *dims])) for tensor in block.tensors)
        if key in self.sums:
            self.sums[key].baddbmm_(first, second.mT, alpha=weight)
        else:
            self.sums[key] = (first @ second.mT).mul_(weight)

    def _rows(self, tensor: Tensor) -> Tensor:
        """What is at each position, a row for each place in the spaces of the unit: (P, n k ..., entries)."""
        count = len(self.positions)
        return tensor.reshape(prod(tensor.shape[:count]), prod(tensor.shape[count:-1]), tensor.shape[-1])

    def table(self) -> Table:
        """What solvers read: a batch dimension of positions (or of the order), then (n_A, n_B) for each space."""
        if self.order is not None:
            return self.sums
        return {key: self._opened(key, correlation) for key, correlation in self.sums.items()}

    def _opened(self, key: Key, correlation: Tensor) -> Tensor:
        return pair_by_pair(correlation, [self.symmetry.spaces[space].size for space, _ in key])


def _correlate_pairs(block: Block, outer: int, dims: list[int], order: Tensor) -> Tensor:
    """The correlation of the positions i of A and order_i of B along `outer`: (n, n_A, n_B, ...)."""
    first, second = (unfold(tensor, [outer, *dims]) for tensor in block.tensors)
    first, second = (tensor.reshape(len(order), -1, tensor.shape[-1]) for tensor in (first, second[order]))
    return pair_by_pair(first @ second.mT, [block.leaves[dim].size for dim in dims])


def pair_by_pair(table: Tensor, sizes: Sequence[int]) -> Tensor:
    """A correlation of several spaces at once with the two dimensions of each side by side.

    Shapes: table (..., n k ... of A, n k ... of B) -> (..., n_A, n_B, k_A, k_B, ...).
    """
    before, count = table.shape[:-2], len(sizes)
    pairs = [len(before) + dim for place in range(count) for dim in (place, count + place)]
    return table.reshape(*before, *sizes, *sizes).permute(*range(len(before)), *pairs)
