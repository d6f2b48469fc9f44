"""Correlations of the blocks of two models, as the tables that the solvers of units read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
    key = next((k for k in table if [s for s, _ in k] == [space.id]), ((space.id, (0,) * space.signs),))
    eye = weight * torch.eye(space.size).to(next(iter(table.values()))).unsqueeze(0)
    return {**table, key: table[key] + eye if key in table else eye}


class TableSums:
    """Correlations of blocks added up in place, once for each occurrence of a repeated space (the others held fixed).

    With an `order` those of its pairs of positions alone, in the place of the unit's own space.
    """

    def __init__(self, symmetry: SymmetryGraph, unit: Tree, order: Tensor | None = None) -> None:
        self.symmetry, self.unit, self.order = symmetry, unit, order
        self.ids = unit.ids()
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
                self._add(_key(self.symmetry, [block.leaves[dim] for dim in chosen]), block, chosen, weight)
                continue
            first = dims[self.unit.space.id][0]
            rest = [dim for dim in chosen if dim != first]
            key = _key(self.symmetry, [block.leaves[d] for d in rest or [first]])
            add_to(self.sums, key, weight * _correlate_pairs(block, first, rest, self.order))

    def _add(self, key: Key, block: Block, dims: list[int], weight: float) -> None:
        x, y = (unfold(tensor, dims).flatten(0, -2) for tensor in block.tensors)
        if key in self.sums:
            self.sums[key].addmm_(x, y.mT, alpha=weight)
        else:
            self.sums[key] = (x @ y.mT).mul_(weight)

    def table(self) -> Table:
        """What solvers read: a batch dimension of one (or that of the order), then (n_A, n_B) for each space."""
        return self.sums if self.order is not None else {k: self._opened(k, c) for k, c in self.sums.items()}

    def _opened(self, key: Key, c: Tensor) -> Tensor:
        sizes = [self.symmetry.spaces[s].size for s, _ in key]
        count = len(sizes)
        mixed = [place for pair in zip(range(count), range(count, 2 * count), strict=True) for place in pair]
        return c.reshape(*sizes, *sizes).permute(mixed).unsqueeze(0)


def _key(symmetry: SymmetryGraph, leaves: list[Leaf]) -> Key:
    return tuple((leaf.space, symmetry.frame(leaf.frame).sign) for leaf in leaves)


def _correlate_pairs(block: Block, outer: int, dims: list[int], order: Tensor) -> Tensor:
    """The correlation of the positions i of A and order_i of B along `outer`: (n, n_A, n_B, ...)."""
    x, y = (unfold(tensor, [outer, *dims]) for tensor in block.tensors)
    sizes = [block.leaves[dim].size for dim in dims]
    x, y = (tensor.reshape(len(order), -1, tensor.shape[-1]) for tensor in (x, y[order]))
    k = len(sizes)
    mixed = [place for pair in zip(range(k), range(k, 2 * k), strict=True) for place in pair]
    return (x @ y.mT).reshape(-1, *sizes, *sizes).permute(0, *(1 + i for i in mixed))
