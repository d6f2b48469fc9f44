"""Joint optimum over a space and everything fibred over it (design section 11).

A unit is a tree of spaces: heads over their query-key and value-output spaces, KV groups over the queries of a group,
experts over hidden units. All that the optimum depends on is a table of correlations: for each set of spaces that
stand together on some block, a tensor with a pair of dimensions (A's position, B's position) for each of them.

For an index space, the inner optimum is computed for every pair of positions at once, and one assignment on those
values is exact for both levels together. Siblings that stand on one block (the queries of a group and their rotary
space) are coupled: they start from the relaxation in which each pair has its own inner element, which a planted pair
attains, and are then improved in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from symgraph.groups.assignment import best_signs
from symgraph.groups.elements import PARTS, Element, IndexSet
from symgraph.groups.index_maps import IndexMaps
from symgraph.groups.map_class import DenseMaps
from symgraph.orbit.grams import add_to
from symgraph.symmetry.structure import Space

# A correlation is keyed by its spaces, each with the sign exponents of its frame.
Key = tuple[tuple[int, tuple[int, ...]], ...]
Table = dict[Key, Tensor]
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Tree:
    """A space and the trees of the spaces fibred over it (and over nothing further in)."""

    space: Space
    children: tuple[Tree, ...] = ()

    def ids(self) -> set[int]:
        """Ids of all spaces in the tree."""
        return {self.space.id}.union(*(child.ids() for child in self.children)) if self.children else {self.space.id}


@dataclass(frozen=True, slots=True)
class Optimum:
    """Optimal elements by space id, with batch dimensions in front of the fibre's, and the value: (P,)."""

    elements: dict[int, Element]
    value: Tensor


def best(trees: Sequence[Tree], table: Table, batch: int) -> Optimum:
    """The optimum over sibling trees; every tensor of the table has one leading batch dimension."""
    elements: dict[int, Element] = {}
    total = next(iter(table.values())).new_zeros(batch)
    for group in _coupled(trees, table):
        ids = set().union(*(tree.ids() for tree in group))
        part = {key: correlation for key, correlation in table.items() if spaces_of(key) & ids}
        optimum = _single(group[0], part, batch) if len(group) == 1 else _alternate(group, part, batch)
        elements |= optimum.elements
        total = total + optimum.value
    return Optimum(elements, total)


def _coupled(trees: Sequence[Tree], table: Table) -> list[list[Tree]]:
    """Siblings in groups that share a correlation."""
    groups: list[list[Tree]] = [[tree] for tree in trees]
    for key in table:
        together = [group for group in groups if any(tree.ids() & spaces_of(key) for tree in group)]
        if len(together) > 1:
            apart = [group for group in groups if group not in together]
            groups = [*apart, [tree for group in together for tree in group]]
    return groups


def spaces_of(key: Key) -> set[int]:
    """The spaces of a correlation."""
    return {space for space, _ in key}


def decoupled(tree: Tree, table: Table) -> bool:
    """Whether what is found of a tree is the optimum: no correlation joins siblings, which take turns."""
    for key in table:
        joined = [child for child in tree.children if child.ids() & spaces_of(key)]
        if len(joined) > 1:
            return False
    return all(decoupled(child, table) for child in tree.children)


def _single(tree: Tree, table: Table, batch: int) -> Optimum:
    maps = tree.space.maps
    if isinstance(maps, IndexMaps) and table:
        return _index(tree, maps, table, batch)
    correlation = _sum(table.values())
    if correlation is None or not isinstance(maps, DenseMaps):
        return Optimum({}, torch.zeros(batch))
    matrix, value = maps.optimum(correlation.double(), tree.space.layout)
    return Optimum({tree.space.id: Element.rotation(matrix)}, value)


def permutes(space: Space) -> bool:
    """Whether positions of the space change places."""
    return isinstance(space.maps, IndexMaps) and space.maps.permutes


def _sum(tensors: Iterable[Tensor]) -> Tensor | None:
    total: Tensor | None = None
    for tensor in tensors:
        total = tensor if total is None else total + tensor
    return total


def _index(tree: Tree, maps: IndexMaps, table: Table, batch: int) -> Optimum:
    """Inner optimum for every pair of positions, then one assignment."""
    space, size = tree.space, tree.space.size
    own: dict[tuple[int, ...], Tensor] = {}
    inner: Table = {}
    for key, correlation in table.items():
        at = _place(key, space.id)
        moved = correlation.movedim((1 + 2 * at, 2 + 2 * at), (1, 2))
        if rest := _without(key, at):
            add_to(inner, rest, moved)
        else:
            add_to(own, key[at][1], moved)
    on = IndexSet(size, space.layout, (), space.scales, space.signs)
    if not inner:
        chosen = maps.assign(on, own, None)
        return Optimum({space.id: Element(chosen.index, None, chosen.sign)}, chosen.value)
    pairs = batch * size * size
    flat = {key: correlation.reshape(pairs, *correlation.shape[3:]) for key, correlation in inner.items()}
    if _apart(tree.children, flat):
        # What each pair is worth costs less than its optimum, which only the matched ones need.
        worth = _worth(tree.children, flat).reshape(batch, size, size)
        chosen = maps.assign(on, own, worth)
        matched = {key: _picked(chosen.index, correlation, 0).flatten(0, 1) for key, correlation in flat.items()}
        optimum = best(tree.children, matched, batch * size)
        elements = each(optimum.elements, lambda part, lead: torch.unflatten(part, lead, (batch, size)))
        ahead = optimum.value - torch.gather(worth, 2, chosen.index.unsqueeze(2)).flatten()
        value = chosen.value + ahead.reshape(batch, size).sum(1)
    else:
        optimum = best(tree.children, flat, pairs)
        chosen = maps.assign(on, own, optimum.value.reshape(batch, size, size))
        elements, value = each(optimum.elements, partial(_picked, chosen.index)), chosen.value
    elements[space.id] = Element(chosen.index, None, chosen.sign)
    return Optimum(elements, value)


def _place(key: Key, space: int) -> int:
    """Where a space stands in a key."""
    return [number for number, _ in key].index(space)


def _without(key: Key, place: int) -> Key:
    return key[:place] + key[place + 1 :]


def each(elements: Mapping[int, Element], change: Callable[[Tensor, int], Tensor]) -> dict[int, Element]:
    """Every part of some elements changed."""
    return {number: element.mapped(change) for number, element in elements.items()}


def _apart(trees: Sequence[Tree], table: Table) -> bool:
    """Whether the optimum is that of one matrix for each of the trees."""
    return all(isinstance(tree.space.maps, DenseMaps) for tree in trees) and all(len(key) == 1 for key in table)


def _worth(trees: Sequence[Tree], table: Table) -> Tensor:
    """What the optimum of such trees is worth: (P,)."""
    values = []
    for tree in trees:
        correlation = _sum(own for key, own in table.items() if key[0][0] == tree.space.id)
        if correlation is not None and isinstance(tree.space.maps, DenseMaps):
            values.append(tree.space.maps.worth(correlation, tree.space.layout))
    worth = _sum(values)
    if worth is None:
        raise ValueError("a table without a correlation of its trees")
    return worth


def inside(tree: Tree, table: Table, order: Tensor) -> Optimum:
    """The optimum with the order of the tree's own space given: (n,).

    The table holds pairs (i, order_i) as its batch, under keys without that space (but for those that have it alone).
    """
    optimum, signs = _of_pairs(tree, table, len(order))
    # What was the batch is the fibre now, with a batch of one in front of it.
    elements = each(optimum.elements, torch.unsqueeze)
    elements[tree.space.id] = Element(order.unsqueeze(0), None, signs)
    return Optimum(elements, optimum.value.sum(0, keepdim=True))


def pair_values(tree: Tree, table: Table, order: Tensor) -> Tensor:
    """What each pair (i, order_i) is worth, its inside solved; the table is that of `inside`: (n,)."""
    return _of_pairs(tree, table, len(order))[0].value


def _of_pairs(tree: Tree, table: Table, size: int) -> tuple[Optimum, Tensor | None]:
    """The optimum inside of each pair of positions, and the signs of the positions themselves: (q, 1, n)."""
    space = tree.space
    inner = {key: correlation for key, correlation in table.items() if key[0][0] != space.id}
    own = {key[0][1]: correlation for key, correlation in table.items() if key[0][0] == space.id}
    value, signs = next(iter(table.values())).new_zeros(size), None
    optimum = best(tree.children, inner, size) if inner else Optimum({}, value)
    if own and space.signs:
        units = {exponents: correlation.reshape(size, 1, 1) for exponents, correlation in own.items()}
        signs, value = best_signs(units, space.signs)
        signs = signs.reshape(space.signs, 1, size)
    elif own:
        value = torch.stack(list(own.values())).sum(0)
    return Optimum(optimum.elements, optimum.value + value.flatten()), signs


def paired(key: Key, correlation: Tensor, space: int, order: Tensor) -> tuple[Key, Tensor]:
    """An entry of a table, of batch one, as `inside` takes it."""
    rows = torch.arange(len(order), device=order.device)
    return _without(key, _place(key, space)) or key, pairs_first(key, correlation, space)[rows, order]


def pairs_first(key: Key, correlation: Tensor, space: int) -> Tensor:
    """An entry of a table, of batch one, with the pairs of positions of one space in front: (n_A, n_B, ...)."""
    at = _place(key, space)
    return correlation[0].movedim((2 * at, 2 * at + 1), (0, 1))


def _picked(index: Tensor, correlation: Tensor, lead: int) -> Tensor:
    """Of a part for all pairs (i, j) of each batch, that with j = index_i."""
    batch, size = index.shape
    rows = torch.arange(batch, device=index.device).unsqueeze(1)
    pairs = correlation.reshape(*correlation.shape[:lead], batch, size, size, *correlation.shape[lead + 1 :])
    return pairs[(slice(None),) * lead + (rows, torch.arange(size, device=index.device), index)]


def _alternate(trees: list[Tree], table: Table, batch: int) -> Optimum:
    """Coupled siblings: the first index space from the relaxation, then each in turn with the others fixed.

    A row of the batch takes no further turn once one has left its first tree as it was, or gained nothing.
    """
    first, *others = sorted(trees, key=lambda tree: not permutes(tree.space))
    current = _first(first, others, table, batch)
    value = next(iter(table.values())).new_full((batch,), -torch.inf, dtype=torch.float64)
    rows = torch.arange(batch, device=value.device)
    for _ in range(ROUNDS):
        part, before = _of_rows(table, current, rows)
        after = _turn([*others, first], part, before, len(rows))
        gained = _value(part, after).to(value)
        open_still = (gained > value[rows] * (1 + 1e-12)) & _moved(before, after, first)
        value = value.index_copy(0, rows, gained)
        if len(rows) < batch:
            after = {number: _with_rows(current[number], element, rows) for number, element in after.items()}
        current = after
        rows = rows[open_still]
        if not len(rows):
            break
    return Optimum(current, value)


def _turn(trees: Sequence[Tree], table: Table, start: Mapping[int, Element], batch: int) -> dict[int, Element]:
    """Each of the trees once, with what is known of the others fixed."""
    current = dict(start)
    for tree in trees:
        fixed = {number: element for number, element in current.items() if number not in tree.ids()}
        known = {number for beside in trees if beside is not tree for number in beside.ids()}
        part = _restrict(table, tree, fixed, known)
        if part:
            current |= _single(tree, part, batch).elements
    return current


def _of_rows(table: Table, elements: Mapping[int, Element], rows: Tensor) -> tuple[Table, dict[int, Element]]:
    """Correlations and elements of some rows of the batch."""
    if len(rows) == len(next(iter(table.values()))):
        return table, dict(elements)
    part = {key: correlation[rows] for key, correlation in table.items()}
    return part, each(elements, lambda tensor, lead: tensor.index_select(lead, rows))


def _with_rows(element: Element, some: Element, rows: Tensor) -> Element:
    """An element with some rows of the batch in the place of its own."""
    parts = some.tensors()
    changed = {
        name: tensor.index_copy(PARTS[name], rows, parts[name].to(tensor)) for name, tensor in element.tensors().items()
    }
    return Element.rotation(changed["matrix"]) if element.is_rotation else Element(**changed)


def _moved(before: Mapping[int, Element], after: Mapping[int, Element], tree: Tree) -> Tensor:
    """Rows of the batch in which the elements of a tree are others than before: (P,)."""
    moved = []
    for number in tree.ids() & after.keys():
        earlier = before[number].tensors() if number in before else {}
        for name, tensor in after[number].tensors().items():
            lead = PARTS[name]
            changed = tensor != earlier[name] if name in earlier else torch.ones_like(tensor, dtype=torch.bool)
            moved.append(changed.movedim(lead, 0).flatten(1).any(1))
    return torch.stack(moved).any(0)


def _first(first: Tree, others: list[Tree], table: Table, batch: int) -> dict[int, Element]:
    """Where the alternation starts: from the relaxation, or, among matrices alone, from the identity."""
    if first.space.is_matrix:
        eye = torch.eye(first.space.size).to(next(iter(table.values())))
        return {first.space.id: Element.rotation(eye.expand(batch, *eye.shape))}
    on = {key: correlation for key, correlation in table.items() if first.space.id in spaces_of(key)}
    start = _single(Tree(first.space, (*first.children, *others)), on, batch)
    return {number: element for number, element in start.elements.items() if number in first.ids()}


def _restrict(table: Table, tree: Tree, fixed: Mapping[int, Element], known: set[int]) -> Table:
    """The table of one tree with its siblings fixed; correlations with a sibling not yet known are left out."""
    restricted: Table = {}
    for key, correlation in table.items():
        spaces = spaces_of(key)
        if not spaces & tree.ids() or spaces & known - fixed.keys():
            continue
        add_to(restricted, *contract(key, correlation, fixed))
    return restricted


def contract(key: Key, correlation: Tensor, fixed: Mapping[int, Element]) -> tuple[Key, Tensor]:
    """Sums a correlation over the pairs of positions that fixed elements match."""
    met = spaces_of(key)
    for space, element in fixed.items():
        if space not in met:
            continue
        at = _place(key, space)
        moved = correlation.movedim((1 + 2 * at, 2 + 2 * at), (1, 2))
        if element.matrix is not None:
            weights = element.matrix.reshape(*element.matrix.shape, *[1] * (moved.dim() - 3))
            correlation = (moved * weights).sum((1, 2))
        elif element.index is not None:
            rows = torch.arange(moved.shape[0], device=correlation.device).unsqueeze(1)
            matched = moved[rows, torch.arange(moved.shape[1], device=correlation.device), element.index]
            sign = element.diagonal((), key[at][1], dual=False)
            if sign is not None:
                matched = matched * sign.reshape(*sign.shape, *[1] * (matched.dim() - 2))
            correlation = matched.sum(1)
        key = _without(key, at)
    return key, correlation


def _value(table: Table, elements: Mapping[int, Element]) -> Tensor:
    total = _sum(contract(key, correlation, elements)[1] for key, correlation in table.items())
    return torch.zeros(1) if total is None else total
