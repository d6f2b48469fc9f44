"""Fibres: by which other spaces an element may vary (design section 4)."""

from __future__ import annotations

from collections import Counter

from symgraph.groups.classes import SymmetryClass
from symgraph.infer.resolve import MATRIX, Draft, SpaceDraft


def fibres(d: Draft, drafts: list[SpaceDraft], space_of: dict[int, int]) -> dict[int, tuple[int, ...]]:
    """For every space, the spaces that stand beside it in each block of each value and parameter it occurs in.

    A space is dropped from a fibre where some operator mixes its positions and keeps them (softmax, norms), and where
    its own group mixes positions (a rotation of the heads would leave no head to be fibred over), and where it stands
    twice beside (a map from heads to heads leaves open which of the two is meant).
    """
    beside: dict[int, set[int]] = {}
    for blocks in d.blocks.values():
        for block in blocks:
            inside = Counter(space_of[d.root(r)] for r in block)
            once = {i for i, n in inside.items() if n == 1}
            for i in inside:
                others = once - {i}
                beside[i] = beside[i] & others if i in beside else others
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


def _outer(i: int, beside: dict[int, set[int]], drafts: list[SpaceDraft], rank: dict[int, int]) -> list[int]:
    if drafts[i].group is SymmetryClass.IDENTITY:
        return []
    return [
        j for j in beside.get(i, ()) if drafts[j].group not in MATRIX and not (i in beside[j] and rank[i] < rank[j])
    ]
