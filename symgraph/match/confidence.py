"""How sure each assignment of a match is: how much nearer a unit is to its match than to the next best.

Of the place i of A and the unit j of B that could stand there, the cosine is  C_ij / (|A_i| |B_j|)  with C_ij what the
match adds up: the products of all weights that stand on i and j in canonical form, everything else as it was matched,
with the best signs and the best elements of what is fibred over the two. The gap of a place is the cosine of its match
less the largest of all others; below zero another unit is nearer, which the assignment gives to some other place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod

import torch
from torch import Tensor

from symgraph.groups.assignment import best_signs
from symgraph.match.correlation_tables import TableSums
from symgraph.match.unit_trees import units
from symgraph.orbit.grams import add_to
from symgraph.orbit.steps import State
from symgraph.orbit.tensor_blocks import Block, blocks, unfold
from symgraph.orbit.wreath import Key, Table, Tree, best, permutes
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
    both = [symmetry.acting(state) for state in (a, b)]
    every = [block for name in both[0] if name in both[1] for block in _blocks(symmetry, name, both)]
    found = []
    for unit in units(symmetry):
        ids = unit.ids()
        found += _unit(symmetry, unit, [block for block in every if block.spaces() & ids], weights)
    return found


def _blocks(symmetry: SymmetryGraph, name: str, states: Sequence[State]) -> Iterator[Block]:
    if name in symmetry.acting_parameters:
        yield from blocks(name, [state[name] for state in states], symmetry.acting_terms[name])


def _unit(symmetry: SymmetryGraph, unit: Tree, found: list[Block], weights: Mapping[str, float]) -> list[Confidence]:
    size = max((_size(symmetry, unit, block) for block in found), default=0)
    whole = size**2 <= LARGEST_TABLE
    if not whole and (not unit.children or size**2 // unit.space.size > LARGEST_TABLE):
        return []
    sums = TableSums(symmetry, unit, None if whole else torch.arange(unit.space.size))
    for block in found:
        sums.add(block, weights[block.parameter])
    table = sums.table()
    if whole:
        return list(_spaces(unit, sums.positions, table, found, weights, len(sums.positions)))
    # The positions of the outer space are the batch: pairs of equal ones alone.
    inside = {key: table[key] for key in table if unit.space.id not in _ids(key)}
    below = (_spaces(child, (unit.space.id,), inside, found, weights, 1) for child in unit.children)
    return list(chain.from_iterable(below))


def _ids(key: Key) -> list[int]:
    return [space for space, _ in key]


def _size(symmetry: SymmetryGraph, unit: Tree, block: Block) -> int:
    return prod(symmetry.spaces[space].size for space in block.spaces() & unit.ids())


def _spaces(
    tree: Tree,
    path: tuple[int, ...],
    table: Table,
    found: Sequence[Block],
    weights: Mapping[str, float],
    batched: int,
) -> Iterator[Confidence]:
    """A space and all below it; so many spaces of the path are the batch of the table already."""
    if permutes(tree.space) and tree.space.size > 1:
        values = _values(tree, path[batched:], table)
        if values is not None:
            norms = (_norms(tree.space, path, found, weights, model) for model in (0, 1))
            yield _confidence(tree.space, values, *norms)
    for child in tree.children:
        yield from _spaces(child, (*path, tree.space.id), table, found, weights, batched)


def _values(tree: Tree, path: tuple[int, ...], table: Table) -> Tensor | None:
    """What every pair of positions is worth, all else as it is: (P, n, n)."""
    space, below = tree.space, tree.ids() - {tree.space.id}
    own: dict[tuple[int, ...], Tensor] = {}
    inner: Table = {}
    for key in table:
        if space.id not in _ids(key):
            continue
        rest, pairs = _opened(key, table[key], space.id, path, below)
        if rest:
            add_to(inner, rest, pairs)
        else:
            add_to(own, dict(key)[space.id], pairs)
    value = best_signs(own, space.signs)[1].double() if own else None
    if inner:
        shape = next(iter(inner.values())).shape[:3]
        flat = {key: pairs.flatten(0, 2) for key, pairs in inner.items()}
        inside = best(tree.children, flat, shape.numel()).value.reshape(shape).double()
        value = inside if value is None else value + inside
    return value


def _opened(key: Key, correlation: Tensor, space: int, path: Sequence[int], below: set[int]) -> tuple[Key, Tensor]:
    """A correlation with its pairs of a space behind the batch, at equal positions of all that is not below it."""
    beside = [other for other in _ids(key) if other != space and other not in below and other not in path]
    for other in (*path, *beside):
        key, dims = _taken_out(key, other)
        equal = correlation.diagonal(dim1=dims[0], dim2=dims[1])
        correlation = equal.movedim(-1, 1).flatten(0, 1) if other in path else equal.sum(-1)
    key, dims = _taken_out(key, space)
    return key, correlation.movedim(dims, (1, 2))


def _taken_out(key: Key, space: int) -> tuple[Key, tuple[int, int]]:
    """A key without one space, and the two dimensions of that in its correlation, behind the batch."""
    place = _ids(key).index(space)
    return key[:place] + key[place + 1 :], (1 + 2 * place, 2 + 2 * place)


def _norms(
    space: Space, path: tuple[int, ...], found: Sequence[Block], weights: Mapping[str, float], model: int
) -> Tensor:
    """The norm of all that stands on each position of a space, at each position of the path: (P, n)."""
    total: Tensor | None = None
    for block in found:
        for dim, leaf in enumerate(block.leaves):
            if leaf.space != space.id:
                continue
            dims = [*map(block.dim, path), dim]
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
