"""Fibres: by which other spaces an element may vary (design section 4)."""

from __future__ import annotations

from collections import Counter

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.blocks import ref_blocks
from symgraph.inference.resolve import MATRIX, Draft, SpaceDraft


def fibres(d: Draft, drafts: list[SpaceDraft], space_of: dict[int, int]) -> dict[int, tuple[int, ...]]:
    """For every space, the spaces that stand beside it in each block of each value and parameter it occurs in.

    A space is dropped from a fibre where some operator mixes its positions and keeps them (softmax, norms), and where
    its own group mixes positions (a rotation of the heads would leave no head to be fibred over), and where it stands
    twice beside (a map from heads to heads leaves open which of the two is meant).
    """
    beside: dict[int, set[int]] = {}
    pointers, origins = _Pointers(d, space_of), dict[tuple[int, int], set[str]]()
    for blocks in d.blocks.values():
        for block in blocks:
            inside = Counter(space_of[d.root(r)] for r in block)
            once = {i for i, n in inside.items() if n == 1}
            via = pointers.at(inside)
            for i in inside:
                others = (once | via.keys()) - {i}
                for space, origin in via.items():
                    origins.setdefault((i, space), set()).add(origin)
                beside[i] = beside[i] & others if i in beside else others
    # Two routers may point at one space differently: what both pick from cannot depend on the position.
    for (i, space), found in origins.items():
        if len(found) > 1:
            beside[i].discard(space)
    for axes, mixed in d.eq.apart:
        over = {space_of[d.root(x)] for x in d.eq.store.leaves(mixed) if d.eq.store.size(x) != 1}
        for ref in axes:
            for x in d.eq.store.leaves(ref):
                if d.eq.store.size(x) != 1:
                    beside.get(space_of[d.root(x)], set()).difference_update(over)
    order = sorted(range(len(drafts)), key=lambda i: (drafts[i].group in MATRIX, i))
    rank = {space: k for k, space in enumerate(order)}
    outer = {i: _outer(i, beside, drafts, rank) for i in range(len(drafts))}
    return {i: tuple(sorted(o, key=lambda j: (len(outer[j]), rank[j]))) for i, o in outer.items()}


class _Pointers:
    """Axes whose positions point along another space, by the rarest of their leaves."""

    def __init__(self, d: Draft, space_of: dict[int, int]) -> None:
        found = []
        for p in d.eq.pointers:
            if len(d.eq.store.parts(p.target)) > 1:
                continue
            target = [space_of[d.root(x)] for x in d.eq.store.leaves(p.target) if d.eq.store.size(x) != 1]
            blocks = {frozenset(space_of[d.root(x)] for x in block) for block in ref_blocks(d.eq.store, p.axes)}
            found += [(spaces, t, p.origin) for spaces in blocks for t in target]
        counts = Counter(space for spaces, _, _ in found for space in spaces)
        self._by_leaf: dict[int, list[tuple[frozenset[int], int, str]]] = {}
        for entry in found:
            if entry[0]:
                self._by_leaf.setdefault(min(entry[0], key=lambda s: (counts[s], s)), []).append(entry)

    def at(self, inside: Counter[int]) -> dict[int, str]:
        """The spaces that a block with these spaces points at, and what found the positions."""
        found: dict[int, str] = {}
        for space in inside:
            for spaces, target, origin in self._by_leaf.get(space, ()):
                if spaces <= inside.keys() and target not in inside:
                    found[target] = origin if found.get(target, origin) == origin else f"{found[target]}, {origin}"
        return found


def _outer(i: int, beside: dict[int, set[int]], drafts: list[SpaceDraft], rank: dict[int, int]) -> list[int]:
    if drafts[i].group is SymmetryClass.IDENTITY:
        return []
    return [
        j for j in beside.get(i, ()) if drafts[j].group not in MATRIX and not (i in beside[j] and rank[i] < rank[j])
    ]
