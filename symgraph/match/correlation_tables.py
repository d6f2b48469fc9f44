"""Correlations of the blocks of two models, as the tables that the solvers of units read."""

from __future__ import annotations

import torch
from torch import Tensor

from symgraph.match.wreath import Key, Table, Tree
from symgraph.orbit.tensor_blocks import Block, unfold
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Leaf


def repeats(block: Block, ids: set[int]) -> bool:
    on = [x.space for x in block.leaves if x.space in ids]
    return len(on) > len(set(on))


def pulled(table: Table, space: Space, weight: float) -> Table:
    """The table with a multiple of the identity added to the correlation of one space."""
    if not weight:
        return table
    key = next((k for k in table if [s for s, _ in k] == [space.id]), ((space.id, (0,) * space.signs),))
    eye = weight * torch.eye(space.size).to(next(iter(table.values()))).unsqueeze(0)
    return {**table, key: table[key] + eye if key in table else eye}


def correlations(
    symmetry: SymmetryGraph, block: Block, unit: Tree, order: Tensor | None = None
) -> list[tuple[Key, Tensor]]:
    """The block's correlation, once for each occurrence of a repeated space (the others are then held fixed).

    Shapes: one leading batch dimension of size 1, then (n_A, n_B) for each space of the unit; with an order the
    batch is that of its pairs, in the place of the unit's own space.
    """
    dims: dict[int, list[int]] = {}
    for dim, leaf in enumerate(block.leaves):
        if leaf.space in unit.ids():
            dims.setdefault(leaf.space, []).append(dim)
    found = []
    for turn in range(max(map(len, dims.values()))):
        chosen = [d[min(turn, len(d) - 1)] for d in dims.values()]
        if order is None:
            found.append((_key(symmetry, [block.leaves[d] for d in chosen]), _correlate(block, chosen)))
            continue
        first = dims[unit.space.id][0]
        rest = [d for d in chosen if d != first]
        key = _key(symmetry, [block.leaves[d] for d in rest or [first]])
        found.append((key, _correlate_pairs(block, first, rest, order)))
    return found


def _key(symmetry: SymmetryGraph, leaves: list[Leaf]) -> Key:
    return tuple((x.space, symmetry.frame(x.frame).sign) for x in leaves)


def _correlate(block: Block, dims: list[int]) -> Tensor:
    x, y = (_front(t, dims) for t in block.tensors)
    sizes = [block.leaves[d].size for d in dims]
    c = x @ y.T
    k = len(sizes)
    order = [i for pair in zip(range(k), range(k, 2 * k), strict=True) for i in pair]
    return c.reshape(*sizes, *sizes).permute(order).unsqueeze(0)


def _correlate_pairs(block: Block, outer: int, dims: list[int], order: Tensor) -> Tensor:
    """The correlation of the positions i of A and order_i of B along `outer`: (n, n_A, n_B, ...)."""
    x, y = (unfold(t, [outer, *dims]) for t in block.tensors)
    sizes = [block.leaves[d].size for d in dims]
    x, y = (t.reshape(len(order), -1, t.shape[-1]) for t in (x, y[order]))
    k = len(sizes)
    mixed = [i for pair in zip(range(k), range(k, 2 * k), strict=True) for i in pair]
    return (x @ y.mT).reshape(-1, *sizes, *sizes).permute(0, *(1 + i for i in mixed))


def _front(t: Tensor, dims: list[int]) -> Tensor:
    rest = [d for d in range(t.dim()) if d not in dims]
    rows = 1
    for d in dims:
        rows *= t.shape[d]
    return t.permute([*dims, *rest]).reshape(rows, -1)
