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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from symgraph.groups.assignment import best_signs
from symgraph.groups.elements import Element, IndexSet
from symgraph.groups.index_maps import IndexMaps
from symgraph.groups.map_class import DenseMaps
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
        return {self.space.id}.union(*(c.ids() for c in self.children)) if self.children else {self.space.id}


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
        ids = set().union(*(t.ids() for t in group))
        part = {k: v for k, v in table.items() if {s for s, _ in k} & ids}
        found = _single(group[0], part, batch) if len(group) == 1 else _alternate(group, part, batch)
        elements |= found.elements
        total = total + found.value
    return Optimum(elements, total)


def _coupled(trees: Sequence[Tree], table: Table) -> list[list[Tree]]:
    """Siblings in groups that share a correlation."""
    groups: list[list[Tree]] = [[t] for t in trees]
    for key in table:
        on = {s for s, _ in key}
        together = [g for g in groups if any(t.ids() & on for t in g)]
        if len(together) > 1:
            groups = [g for g in groups if g not in together] + [[t for g in together for t in g]]
    return groups


def decoupled(tree: Tree, table: Table) -> bool:
    """Whether what is found of a tree is the optimum: no correlation joins siblings, which take turns."""
    apart = all(sum(bool(c.ids() & {s for s, _ in key}) for c in tree.children) <= 1 for key in table)
    return apart and all(decoupled(c, table) for c in tree.children)


def _single(tree: Tree, table: Table, batch: int) -> Optimum:
    maps = tree.space.maps
    if isinstance(maps, IndexMaps) and table:
        return _index(tree, maps, table, batch)
    c = _sum(table)
    if c is None or not isinstance(maps, DenseMaps):
        return Optimum({}, torch.zeros(batch))
    matrix, value = maps.optimum(c.double(), tree.space.layout)
    return Optimum({tree.space.id: Element.rotation(matrix)}, value)


def permutes(space: Space) -> bool:
    """Whether positions of the space change places."""
    return isinstance(space.maps, IndexMaps) and space.maps.permutes


def _sum(table: Table) -> Tensor | None:
    found: Tensor | None = None
    for c in table.values():
        found = c if found is None else found + c
    return found


def _index(tree: Tree, maps: IndexMaps, table: Table, batch: int) -> Optimum:
    """Inner optimum for every pair of positions, then one assignment."""
    space, n = tree.space, tree.space.size
    own: dict[tuple[int, ...], Tensor] = {}
    inner: Table = {}
    for key, c in table.items():
        at = next(i for i, (s, _) in enumerate(key) if s == space.id)
        moved = c.movedim((1 + 2 * at, 2 + 2 * at), (1, 2))
        rest = key[:at] + key[at + 1 :]
        if rest:
            inner[rest] = inner[rest] + moved if rest in inner else moved
        else:
            own[key[at][1]] = own[key[at][1]] + moved if key[at][1] in own else moved
    on = IndexSet(n, space.layout, (), space.scales, space.signs)
    if not inner:
        chosen = maps.assign(on, own, None)
        return Optimum({space.id: Element(chosen.index, None, chosen.sign)}, chosen.value)
    flat = {k: c.reshape(batch * n * n, *c.shape[3:]) for k, c in inner.items()}
    if _apart(tree.children, flat):
        # What each pair is worth costs less than its optimum, which only the matched ones need.
        worth = _worth(tree.children, flat).reshape(batch, n, n)
        chosen = maps.assign(on, own, worth)
        matched = {k: _picked(chosen.index, c, 0).flatten(0, 1) for k, c in flat.items()}
        found = best(tree.children, matched, batch * n)
        elements = {
            i: e.mapped(lambda x, lead: torch.unflatten(x, lead, (batch, n))) for i, e in found.elements.items()
        }
        ahead = found.value - torch.gather(worth, 2, chosen.index.unsqueeze(2)).flatten()
        value = chosen.value + ahead.reshape(batch, n).sum(1)
    else:
        found = best(tree.children, flat, batch * n * n)
        chosen = maps.assign(on, own, found.value.reshape(batch, n, n))
        value = chosen.value
        elements = {i: e.mapped(partial(_picked, chosen.index)) for i, e in found.elements.items()}
    elements[space.id] = Element(chosen.index, None, chosen.sign)
    return Optimum(elements, value)


def _apart(trees: Sequence[Tree], table: Table) -> bool:
    """Whether the optimum is that of one matrix for each of the trees."""
    return all(isinstance(t.space.maps, DenseMaps) for t in trees) and all(len(key) == 1 for key in table)


def _worth(trees: Sequence[Tree], table: Table) -> Tensor:
    """What the optimum of such trees is worth: (P,)."""
    found: Tensor | None = None
    for tree in trees:
        c = _sum({k: x for k, x in table.items() if k[0][0] == tree.space.id})
        if c is not None and isinstance(tree.space.maps, DenseMaps):
            value = tree.space.maps.worth(c, tree.space.layout)
            found = value if found is None else found + value
    if found is None:
        raise ValueError("a table without a correlation of its trees")
    return found


def inside(tree: Tree, table: Table, order: Tensor) -> Optimum:
    """The optimum with the order of the tree's own space given: (n,).

    The table holds pairs (i, order_i) as its batch, under keys without that space (but for those that have it alone).
    """
    space, n = tree.space, len(order)
    inner = {k: c for k, c in table.items() if k[0][0] != space.id}
    own = {k[0][1]: c for k, c in table.items() if k[0][0] == space.id}
    value, signs = next(iter(table.values())).new_zeros(n), None
    found = best(tree.children, inner, n) if inner else Optimum({}, value)
    if own and space.signs:
        signs, value = best_signs({k: c.reshape(n, 1, 1) for k, c in own.items()}, space.signs)
        signs = signs.reshape(space.signs, 1, n)
    elif own:
        value = torch.stack(list(own.values())).sum(0)
    # What was the batch is the fibre now, with a batch of one in front of it.
    elements = {i: e.mapped(torch.unsqueeze) for i, e in found.elements.items()}
    elements[space.id] = Element(order.unsqueeze(0), None, signs)
    return Optimum(elements, (found.value + value.flatten()).sum(0, keepdim=True))


def paired(key: Key, c: Tensor, space: int, order: Tensor) -> tuple[Key, Tensor]:
    """An entry of a table, of batch one, as `inside` takes it."""
    at = next(i for i, (s, _) in enumerate(key) if s == space)
    rows = torch.arange(len(order), device=order.device)
    pairs = c[0].movedim((2 * at, 2 * at + 1), (0, 1))[rows, order]
    return key[:at] + key[at + 1 :] or key, pairs


def _picked(index: Tensor, x: Tensor, lead: int) -> Tensor:
    """Of a part for all pairs (i, j) of each batch, that with j = index_i."""
    batch, n = index.shape
    rows = torch.arange(batch, device=index.device).unsqueeze(1)
    pairs = x.reshape(*x.shape[:lead], batch, n, n, *x.shape[lead + 1 :])
    return pairs[(slice(None),) * lead + (rows, torch.arange(n, device=index.device), index)]


def _alternate(trees: list[Tree], table: Table, batch: int) -> Optimum:
    """Coupled siblings: the first index space from the relaxation, then each in turn with the others fixed."""
    trees = sorted(trees, key=lambda t: not permutes(t.space))
    first, others = trees[0], trees[1:]
    current = _first(first, others, table, batch)
    value: Tensor | None = None
    for _ in range(ROUNDS):
        for tree in [*others, first]:
            fixed = {i: e for i, e in current.items() if i not in tree.ids()}
            known = {i for t in trees if t is not tree for i in t.ids()}
            part = _restrict(table, tree, fixed, known)
            if part:
                found = _single(tree, part, batch)
                current |= found.elements
        before, value = value, _value(table, current)
        if before is not None and bool((value <= before * (1 + 1e-12)).all()):
            break
    return Optimum(current, next(iter(table.values())).new_zeros(batch) if value is None else value)


def _first(first: Tree, others: list[Tree], table: Table, batch: int) -> dict[int, Element]:
    """Where the alternation starts: from the relaxation, or, among matrices alone, from the identity."""
    if first.space.is_matrix:
        eye = torch.eye(first.space.size).to(next(iter(table.values())))
        return {first.space.id: Element.rotation(eye.expand(batch, *eye.shape))}
    on = {k: v for k, v in table.items() if first.space.id in {s for s, _ in k}}
    start = _single(Tree(first.space, (*first.children, *others)), on, batch)
    return {i: e for i, e in start.elements.items() if i in first.ids()}


def _restrict(table: Table, tree: Tree, fixed: Mapping[int, Element], known: set[int]) -> Table:
    """The table of one tree with its siblings fixed; correlations with a sibling not yet known are left out."""
    found: Table = {}
    for key, c in table.items():
        if not {s for s, _ in key} & tree.ids():
            continue
        if any(s in known and s not in fixed for s, _ in key):
            continue
        rest, contracted = contract(key, c, fixed)
        found[rest] = found[rest] + contracted if rest in found else contracted
    return found


def contract(key: Key, c: Tensor, fixed: Mapping[int, Element]) -> tuple[Key, Tensor]:
    """Sums a correlation over the pairs of positions that fixed elements match."""
    for space, e in fixed.items():
        at = next((i for i, (s, _) in enumerate(key) if s == space), None)
        if at is None:
            continue
        moved = c.movedim((1 + 2 * at, 2 + 2 * at), (1, 2))
        if e.matrix is not None:
            weights = e.matrix.reshape(*e.matrix.shape, *[1] * (moved.dim() - 3))
            c = (moved * weights).sum((1, 2))
        elif e.index is not None:
            rows = torch.arange(moved.shape[0], device=c.device).unsqueeze(1)
            matched = moved[rows, torch.arange(moved.shape[1], device=c.device), e.index]
            sign = e.diagonal((), key[at][1], dual=False)
            if sign is not None:
                matched = matched * sign.reshape(*sign.shape, *[1] * (matched.dim() - 2))
            c = matched.sum(1)
        key = key[:at] + key[at + 1 :]
    return key, c


def _value(table: Table, elements: Mapping[int, Element]) -> Tensor:
    total: Tensor | None = None
    for key, c in table.items():
        _, v = contract(key, c, elements)
        total = v if total is None else total + v
    return torch.zeros(1) if total is None else total
