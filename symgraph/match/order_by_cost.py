"""Two-stage matching: the order of an outer space by one of the published costs, the inside of each pair afterwards.

The joint optimum of `symgraph.orbit.wreath` solves the inside for every pair of positions. The two costs here compare
positions without that: "gate" by the parameters that have no inside (the rows of a router), "gram" by what the inside's
group leaves as it is, the inner products over everything else. Both need memory for one pair of positions at a time.

Source: Tran et al., "On Linear Mode Connectivity of Mixture-of-Experts Architectures", arXiv 2509.11348: gates centred
over the experts, (|W_i - W'_j|^2 + (b_i - b'_j)^2)^1/2; and, with A_i = [W_in, b_in] and B_i = W_out,
(|A_i^T A_i - A'_j^T A'_j|^2 + |B_i B_i^T - B'_j B'_j^T|^2)^1/2.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor

from symgraph.groups.assignment import assignment
from symgraph.orbit.tensor_blocks import Block, unfold
from symgraph.orbit.wreath import Tree
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Leaf

Side = tuple[tuple[int, bool, tuple[int, ...]], ...]


def outer_order(symmetry: SymmetryGraph, unit: Tree, found: Iterable[tuple[Block, float]], cost: str) -> Tensor | None:
    """For each of A's positions on the outermost space of a unit, B's: shape (n,); None where no parameter says.

    Args:
        found: blocks of A and B side by side, with their weights; no space of the unit stands twice on one.
        cost: "gate" or "gram"; "fixed" for that of B itself.
    """
    if cost == "fixed":
        return torch.arange(unit.space.size)
    costs = outer_costs(symmetry, unit, found, cost)
    return None if costs is None else assignment(-costs.unsqueeze(0))[0]


def outer_costs(symmetry: SymmetryGraph, unit: Tree, found: Iterable[tuple[Block, float]], cost: str) -> Tensor | None:
    """What it costs to match each of A's positions with each of B's: (n, n); None where no parameter says."""
    outer, inner = unit.space.id, unit.ids() - {unit.space.id}
    branches = {stack.name for stack in symmetry.stacks}
    sides: dict[Side, tuple[list[Tensor], list[Tensor]]] = {}
    for block, weight in found:
        if outer not in block.spaces():
            continue
        inside = sorted((leaf.space, dim) for dim, leaf in enumerate(block.leaves) if leaf.space in inner)
        # What belongs to a branch of a list is not its gate, even where it has no inside (an output bias).
        if inside if cost == "gram" else not inside and block.parameter not in branches:
            dims = [block.dim(outer), *(d for _, d in inside)]
            side = tuple(_side(symmetry, block.leaves[d]) for _, d in inside)
            for tensors, tensor in zip(sides.setdefault(side, ([], [])), block.tensors, strict=True):
                tensors.append(weight**0.5 * _rows(tensor, dims))
    squares = [_apart(*(torch.cat(t, -1) for t in pair)) for pair in sides.values()]
    if not squares:
        return None
    return torch.stack(squares).sum(0).clamp_min(0.0).sqrt()


def _side(symmetry: SymmetryGraph, leaf: Leaf) -> tuple[int, bool, tuple[int, ...]]:
    """Tensors whose inner axes carry the same element have inner products in common."""
    return leaf.space, leaf.dual, symmetry.frame(leaf.frame).sign


def _rows(t: Tensor, dims: list[int]) -> Tensor:
    """(..., ) -> (n, k, rest): outer positions, inner positions flattened, everything else."""
    u = unfold(t, dims)
    return u.reshape(u.shape[0], prod(u.shape[1:-1]), u.shape[-1])


def _apart(x: Tensor, y: Tensor) -> Tensor:
    """|X_i^T X_i - Y_j^T Y_j|^2 for every i, j, or |x_i - y_j|^2 for rows: two (n, k, rest) -> (n, n).

    The inner products are k x k: |X^T X - Y^T Y|^2 = |X X^T|^2 - 2 |X Y^T|^2 + |Y Y^T|^2.
    """
    if x.shape[1] == 1:
        x, y = x[:, 0], y[:, 0]
        return x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
    flat = y.reshape(-1, y.shape[2])
    mixed = torch.stack([(a @ flat.T).reshape(len(a), len(y), -1).square().sum((0, 2)) for a in x])
    own, other = ((tensor @ tensor.mT).square().sum((1, 2)) for tensor in (x, y))
    return own.unsqueeze(1) + other - 2 * mixed
