"""The joint order of many positions with large insides, from those pairs alone that a cost finds near.

The joint optimum solves the inside of every pair of positions, which for 64 experts of 128 hidden units are 4,096
assignments in every sweep, and a table that no memory holds for larger ones. Above a bound on that work each position
is tried with a few partners: itself, so that a turn never goes back, that of the order of least cost, and those of
further orders of least cost whose pairs are others. Their insides are solved exactly, and the best order among them
is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.groups.assignment import assignment
from symgraph.match.activations import agreement
from symgraph.match.order_by_cost import outer_costs
from symgraph.orbit.tensor_blocks import Block
from symgraph.orbit.wreath import Key, Table, Tree, pair_values, pairs_first, permutes, spaces_of
from symgraph.symmetry.graph import SymmetryGraph

# What the assignments of all pairs may come to, in cubes of their sizes, and how many partners are tried in any case.
WORK, LEAST = 2**30, 8


def partners(unit: Tree) -> int:
    """How many partners of each position are tried; 0: all, as their insides are no more work than that."""
    size = unit.space.size
    each = sum(map(_work, unit.children))
    if not permutes(unit.space) or size * size * each <= WORK:
        return 0
    count = max(WORK // (size * each), LEAST)
    return 0 if count >= size else count


def _work(tree: Tree) -> int:
    """Of the inside of one pair; what rotations are worth is known of all pairs at once, by singular values."""
    if not permutes(tree.space):
        return 0
    size = tree.space.size
    return size**2 * sum(map(_work, tree.children)) if tree.children else size**3


def orders(costs: Sequence[Tensor], count: int) -> list[Tensor]:
    """So many orders: none changed, that of least cost by each table (n, n), in turn further ones of other pairs."""
    rows = torch.arange(len(costs[0]))
    left = [cost.double().cpu().clone() for cost in costs]
    # More than any order may cost, so that pairs come again only where no others are left.
    spent = [float(cost.max() + len(rows) * (cost.max() - cost.min()) + 1) for cost in left]
    found = [rows, *(assignment(-cost.unsqueeze(0))[0] for cost in left)][:count]
    for number in range(count - len(found)):
        table = left[number % len(left)]
        for order in found:
            table[rows, order] = spent[number % len(left)]
        found.append(assignment(-table.unsqueeze(0))[0])
    return found


def unlike(table: Iterable[tuple[Key, Tensor]], outer: int) -> Tensor | None:
    """A cost by how much positions have in common, whatever their insides: (n, n); None where nothing is known."""
    squares = []
    for key, correlation in table:
        if outer in spaces_of(key):
            pairs = pairs_first(key, correlation, outer)
            squares.append(pairs.reshape(*pairs.shape[:2], -1).square().sum(2))
    return -torch.stack(squares).sum(0) if squares else None


@dataclass(frozen=True, slots=True)
class Tried:
    """The best order found, what the correlation is where nothing changes, and whether that is the order found."""

    order: Tensor
    unchanged: float
    in_order: bool


def best_tried(
    symmetry: SymmetryGraph,
    unit: Tree,
    found: Sequence[tuple[Block, float]],
    seen: Sequence[tuple[Key, Tensor]],
    table_of: Callable[[Tensor], Table],
    still: bool = False,
) -> Tried | None:
    """The best order among pairs that are near; None where nothing says which these are.

    Args:
        found: blocks of A and B side by side, with their weights.
        seen: correlations of activations, with a batch dimension of one.
        table_of: the table of `wreath.inside` for an order.
        still: the order is as it is.
    """
    known = () if still else (outer_costs(symmetry, unit, found, "gram"), unlike(seen, unit.space.id))
    costs = [cost for cost in known if cost is not None]
    if not costs and not still:
        return None
    rows = torch.arange(unit.space.size)
    unchanged = _unchanged(unit, table_of(rows))
    if still:
        return Tried(rows, unchanged, True)
    values = torch.full((len(rows), len(rows)), -torch.inf, dtype=torch.float64)
    for order in orders(costs, partners(unit)):
        values[rows, order] = pair_values(unit, table_of(order), order).to(values)
    order = assignment(values.unsqueeze(0))[0]
    return Tried(order, unchanged, bool((order == rows).all()))


def _unchanged(unit: Tree, table: Table) -> float:
    """The value of the identity, from the pairs (i, i)."""
    own = unit.space.id
    summed = {key: correlation.sum(0, keepdim=True) for key, correlation in table.items()}
    return agreement((() if key[0][0] == own else key, total) for key, total in summed.items())
