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
        inside = [dim for dim, leaf in enumerate(block.leaves) if leaf.space in inner]
        inside.sort(key=lambda dim: block.leaves[dim].space)
        # What belongs to a branch of a list is not its gate, even where it has no inside (an output bias).
        is_gate = not inside and block.parameter not in branches
        if inside if cost == "gram" else is_gate:
            side = tuple(_side(symmetry, block.leaves[dim]) for dim in inside)
            for rows, tensor in zip(sides.setdefault(side, ([], [])), block.tensors, strict=True):
                rows.append(weight**0.5 * _rows(tensor, [block.dim(outer), *inside]))
    squares = [_apart(torch.cat(first, -1), torch.cat(second, -1)) for first, second in sides.values()]
    if not squares:
        return None
    return torch.stack(squares).sum(0).clamp_min(0.0).sqrt()


def _side(symmetry: SymmetryGraph, leaf: Leaf) -> tuple[int, bool, tuple[int, ...]]:
    """Tensors whose inner axes carry the same element have inner products in common."""
    return leaf.space, leaf.dual, symmetry.frame(leaf.frame).sign


def _rows(tensor: Tensor, dims: list[int]) -> Tensor:
    """(..., ) -> (n, k, rest): outer positions, inner positions flattened, everything else."""
    rows = unfold(tensor, dims)
    return rows.reshape(rows.shape[0], prod(rows.shape[1:-1]), rows.shape[-1])


def _apart(first: Tensor, second: Tensor) -> Tensor:
    """|X_i^T X_i - Y_j^T Y_j|^2 for every i, j, or |x_i - y_j|^2 for rows: two (n, k, rest) -> (n, n).

    The inner products are k x k: |X^T X - Y^T Y|^2 = |X X^T|^2 - 2 |X Y^T|^2 + |Y Y^T|^2.
    """
    if first.shape[1] == 1:
        first, second = first[:, 0], second[:, 0]
        return first.square().sum(1, keepdim=True) + second.square().sum(1) - 2 * first @ second.T
    flat = second.reshape(-1, second.shape[2])
    products = ((own @ flat.T).reshape(len(own), len(second), -1) for own in first)
    mixed = torch.stack([product.square().sum((0, 2)) for product in products])
    squares, others = ((tensor @ tensor.mT).square().sum((1, 2)) for tensor in (first, second))
    return squares.unsqueeze(1) + others - 2 * mixed
