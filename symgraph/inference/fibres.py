"""Fibres: by which other spaces an element may vary (design section 4).

The query-key map of a model may differ from head to head, because the heads stand beside it in every block of every
value and parameter: its fibre is the space of heads.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from symgraph.groups.lattice import SymmetryClass, maps
from symgraph.inference.blocks import ref_blocks
from symgraph.inference.claims import Ref
from symgraph.inference.spaces import Spaces


def fibres(spaces: Spaces) -> dict[int, tuple[int, ...]]:
    """For every space, the spaces that stand beside it in each block of each value and parameter it occurs in.

    A space is dropped from a fibre where some operator mixes its positions and keeps them (softmax, norms), and where
    its own group mixes positions (a rotation of the heads would leave no head to be fibred over), and where it stands
    twice beside (a map from heads to heads leaves open which of the two is meant).
    """
    beside = _Beside(spaces).found
    for axes, mixed in spaces.draft.eq.apart:
        over = set(_places(spaces, mixed))
        for place in (place for axis in axes for place in _places(spaces, axis)):
            beside.get(place, set()).difference_update(over)
    drafts = spaces.drafts
    # Spaces of single positions are outside of spaces of matrices, and earlier ones outside of later ones.
    order = sorted(range(len(drafts)), key=lambda place: (maps(drafts[place].group).dense, place))
    rank = {place: number for number, place in enumerate(order)}

    def is_outer(outer: int, place: int) -> bool:
        mutual = place in beside[outer]
        return not maps(drafts[outer].group).dense and not (mutual and rank[place] < rank[outer])

    moving = [place for place, draft in enumerate(drafts) if draft.group is not SymmetryClass.IDENTITY]
    outer = {place: [o for o in beside.get(place, ()) if is_outer(o, place)] for place in moving}
    depth = {place: len(outer.get(place, ())) for place in rank}
    return {place: tuple(sorted(outer.get(place, ()), key=lambda o: (depth[o], rank[o]))) for place in rank}


def _places(spaces: Spaces, axis: Ref) -> Iterator[int]:
    """The spaces of an axis."""
    store = spaces.draft.eq.store
    return (spaces.space_of[leaf >> 1] for leaf in store.leaves(axis) if store.size(leaf) != 1)


class _Beside:
    """For every space those that stand beside it everywhere, or are pointed at from there."""

    def __init__(self, spaces: Spaces) -> None:
        self.found: dict[int, set[int]] = {}
        self.pointers = _Pointers(spaces)
        self.origins: dict[tuple[int, int], set[str]] = defaultdict(set)
        blocks = dict.fromkeys(block for several in spaces.draft.blocks.values() for block in several)
        for beside in dict.fromkeys(tuple(spaces.space_of[spaces.draft.root(leaf)] for leaf in b) for b in blocks):
            self._add(Counter(beside))
        # Two routers may point at one space differently: what both pick from cannot depend on the position.
        for (place, target), origins in self.origins.items():
            if len(origins) > 1:
                self.found[place].discard(target)

    def _add(self, block: Counter[int]) -> None:
        once = {place for place, count in block.items() if count == 1}
        pointed = self.pointers.at(block)
        for place in block:
            others = (once | pointed.keys()) - {place}
            self.found[place] = self.found.get(place, others) & others
            for target, origin in pointed.items():
                self.origins[place, target].add(origin)


@dataclass(frozen=True, slots=True)
class _Arrow:
    """A block with these spaces holds positions along `target`, found by the node `origin`."""

    spaces: frozenset[int]
    target: int
    origin: str


class _Pointers:
    """Axes whose positions point along another space, by the rarest of their leaves."""

    def __init__(self, spaces: Spaces) -> None:
        arrows = [arrow for arrow in _arrows(spaces) if arrow.spaces]
        counts = Counter(place for arrow in arrows for place in arrow.spaces)
        self._by_leaf: dict[int, list[_Arrow]] = defaultdict(list)
        for arrow in arrows:
            self._by_leaf[min(arrow.spaces, key=lambda place: (counts[place], place))].append(arrow)

    def at(self, block: Counter[int]) -> dict[int, str]:
        """The spaces that a block with these spaces points at, and what found the positions."""
        origins: dict[int, str] = {}
        for arrow in (arrow for place in block for arrow in self._by_leaf.get(place, ())):
            if arrow.spaces <= block.keys() and arrow.target not in block:
                known = origins.get(arrow.target, arrow.origin)
                origins[arrow.target] = known if known == arrow.origin else f"{known}, {arrow.origin}"
        return origins


def _arrows(spaces: Spaces) -> Iterator[_Arrow]:
    draft, store = spaces.draft, spaces.draft.eq.store
    for pointer in draft.eq.pointers:
        if len(store.parts(pointer.target)) > 1:
            continue
        blocks = {frozenset(spaces.space_of[draft.root(leaf)] for leaf in b) for b in ref_blocks(store, pointer.axes)}
        targets = list(_places(spaces, pointer.target))
        yield from (_Arrow(block, target, pointer.origin) for block in blocks for target in targets)
