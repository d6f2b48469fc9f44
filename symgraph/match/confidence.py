"""How sure each assignment of a match is: how much nearer a unit is to its match than to the next best.

Of the place i of A and the unit j of B that could stand there, the cosine is  C_ij / (|A_i| |B_j|)  with C_ij what the
match adds up: the products of all weights that stand on i and j in canonical form, everything else as it was matched,
with the best signs and the best elements of what is fibred over the two. The gap of a place is the cosine of its match
less the largest of all others; below zero another unit is nearer, which the assignment gives to some other place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.groups.assignment import best_signs
from symgraph.match.correlation_tables import TableSums
from symgraph.match.unit_trees import units
from symgraph.orbit.grams import add_to
from symgraph.orbit.steps import State
from symgraph.orbit.tensor_blocks import Block, blocks, unfold
from symgraph.orbit.wreath import Table, Tree, best, permutes
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space

# Tables beyond so many entries are not made: of a space with others fibred over it only the insides are looked at, if
# these are smaller.
LARGEST_TABLE = 2**27
_TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Confidence:
    """The cosines of a space with B as it was matched.

    Shapes: (P, n) each, P the positions of the active spaces that it is fibred over. `matched` is that of each place
    with the unit that stands there, `second` the largest with any other, `other` the number of that one there.
    """

    space: Space
    matched: Tensor
    second: Tensor
    other: Tensor

    @property
    def gaps(self) -> Tensor:
        """How much nearer each unit is to its match than to the next best: (P, n)."""
        return self.matched - self.second


def confidences(symmetry: SymmetryGraph, a: State, b: State, weights: Mapping[str, float]) -> list[Confidence]:
    """The confidence of every space whose positions change places, of more than one of them.

    Args:
        a, b: both models in canonical form and in one basis, by their own names.
        weights: of the stacked tensors, as the match weighs them.
    """
    both = [symmetry.stacked(symmetry.shifted(s)) for s in (a, b)]
    every = [block for name in both[0] if name in both[1] for block in _blocks(symmetry, name, both)]
    found = []
    for unit in units(symmetry):
        ids = unit.ids()
        found += _unit(symmetry, unit, [x for x in every if x.spaces() & ids], weights)
    return found


def _blocks(symmetry: SymmetryGraph, name: str, states: Sequence[State]) -> Iterator[Block]:
    if name in symmetry.acting_parameters:
        yield from blocks(name, [state[name] for state in states], symmetry.acting_terms[name])


def _unit(symmetry: SymmetryGraph, unit: Tree, found: list[Block], weights: Mapping[str, float]) -> list[Confidence]:
    size = max((_size(symmetry, unit, x) for x in found), default=0)
    whole = size**2 <= LARGEST_TABLE
    if not whole and (not unit.children or size**2 // unit.space.size > LARGEST_TABLE):
        return []
    sums = TableSums(symmetry, unit, None if whole else torch.arange(unit.space.size))
    for block in found:
        sums.add(block, weights[block.parameter])
    table = sums.table()
    if whole:
        return list(_spaces(unit, (), table, found, weights))
    # The positions of the outer space are the batch: pairs of equal ones alone.
    inside = {k: c for k, c in table.items() if all(s != unit.space.id for s, _ in k)}
    path = (unit.space.id,)
    return [x for child in unit.children for x in _spaces(child, path, inside, found, weights, batched=True)]


def _size(symmetry: SymmetryGraph, unit: Tree, block: Block) -> int:
    size = 1
    for space in block.spaces() & unit.ids():
        size *= symmetry.spaces[space].size
    return size


def _spaces(
    tree: Tree,
    path: tuple[int, ...],
    table: Table,
    found: Sequence[Block],
    weights: Mapping[str, float],
    batched: bool = False,
) -> Iterator[Confidence]:
    """A space and all below it; `batched`: the first space of the path is the batch of the table already."""
    if permutes(tree.space) and tree.space.size > 1:
        values = _values(tree, path[1:] if batched else path, table)
        if values is not None:
            yield _confidence(tree.space, values, *(_norms(tree.space, path, found, weights, m) for m in (0, 1)))
    for child in tree.children:
        yield from _spaces(child, (*path, tree.space.id), table, found, weights, batched)


def _values(tree: Tree, path: tuple[int, ...], table: Table) -> Tensor | None:
    """What every pair of positions is worth, all else as it is: (P, n, n)."""
    space, below = tree.space, tree.ids() - {tree.space.id}
    own: dict[tuple[int, ...], Tensor] = {}
    inner: Table = {}
    for key, c in table.items():
        ids = [s for s, _ in key]
        if space.id not in ids:
            continue
        signs = dict(key)[space.id]
        rest, pairs = _opened(key, c, space.id, path, below)
        if rest:
            add_to(inner, rest, pairs)
        else:
            add_to(own, signs, pairs)
    value = best_signs(own, space.signs)[1].double() if own else None
    if inner:
        count, n = next(iter(inner.values())).shape[:2]
        flat = {k: c.reshape(count * n * n, *c.shape[3:]) for k, c in inner.items()}
        inside = best(tree.children, flat, count * n * n).value.reshape(count, n, n).double()
        value = inside if value is None else value + inside
    return value


def _opened(
    key: tuple[tuple[int, tuple[int, ...]], ...], c: Tensor, space: int, path: Sequence[int], below: set[int]
) -> tuple[tuple[tuple[int, tuple[int, ...]], ...], Tensor]:
    """A correlation with its pairs of a space behind the batch, at equal positions of all that is not below it."""
    beside = [s for s, _ in key if s != space and s not in below and s not in path]
    for other in (*path, *beside):
        at = next(i for i, (s, _) in enumerate(key) if s == other)
        c = c.diagonal(dim1=1 + 2 * at, dim2=2 + 2 * at)
        c = c.movedim(-1, 1).flatten(0, 1) if other in path else c.sum(-1)
        key = key[:at] + key[at + 1 :]
    at = next(i for i, (s, _) in enumerate(key) if s == space)
    return key[:at] + key[at + 1 :], c.movedim((1 + 2 * at, 2 + 2 * at), (1, 2))


def _norms(
    space: Space, path: tuple[int, ...], found: Sequence[Block], weights: Mapping[str, float], model: int
) -> Tensor:
    """The norm of all that stands on each position of a space, at each position of the path: (P, n)."""
    total: Tensor | None = None
    for block in found:
        for dim, leaf in enumerate(block.leaves):
            if leaf.space != space.id:
                continue
            dims = [*(block.dim(s) for s in path), dim]
            squares = unfold(block.tensors[model], dims).double().square().sum(-1) * weights[block.parameter]
            total = squares if total is None else total + squares
    if total is None:
        raise ValueError(f"nothing stands on {space.name}")
    return total.reshape(-1, space.size).sqrt()


def _confidence(space: Space, values: Tensor, first: Tensor, second: Tensor) -> Confidence:
    cosines = values / (first.unsqueeze(2) * second.unsqueeze(1)).clamp(min=_TINY)
    here = torch.diagonal(cosines, dim1=1, dim2=2).clone()
    cosines.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    others = cosines.max(2)
    return Confidence(space, here, others.values, others.indices)
