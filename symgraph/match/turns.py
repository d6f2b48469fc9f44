"""In which order the units of a descent are solved, and what processes tell one another of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from symgraph.match.correlation_tables import repeats
from symgraph.match.paired_blocks import Outline
from symgraph.orbit.wreath import Tree


class Turn(NamedTuple):
    """A unit to be solved: from those blocks alone whose other units are `anchored`, or from all."""

    unit: int
    anchored: Callable[[frozenset[int]], bool] | None = None


class Outcome(NamedTuple):
    """What came of a turn, as processes tell it.

    `rested`: it was left alone. `idle`: nothing says anything of it. `whole`: it was solved from all of its blocks.
    `exact`: what was found is an optimum until something else moves. `in_order`: of some orders its own is the best.
    `step`: what moves, packed.
    """

    unit: int
    rested: bool = False
    idle: bool = False
    whole: bool = False
    exact: bool = False
    in_order: bool = False
    step: dict[str, Any] | None = None


def start(units: Sequence[Tree], outlines: Sequence[Sequence[Outline]]) -> list[Turn]:
    """Every unit once, the best anchored first, from its anchored blocks alone.

    Args:
        outlines: the blocks on each unit.
    """
    owner = owners_of(units)
    anchors = list(map(partial(_anchors, owner), range(len(units)), units, outlines))
    known: frozenset[int] = frozenset()
    turns = []
    while len(known) < len(units):
        share = {number: _share(own, known) for number, own in enumerate(anchors) if number not in known}
        # Of several with the same share the first.
        unit = max(share, key=share.__getitem__)
        turns.append(Turn(unit, known.issuperset if share[unit] > 0 else None))
        known |= {unit}
    return turns


def owners_of(units: Sequence[Tree]) -> dict[int, int]:
    """The unit that each space is in."""
    return {space: number for number, unit in enumerate(units) for space in unit.ids()}


def others(spaces: frozenset[int], unit: int, owner: Mapping[int, int]) -> frozenset[int]:
    """The other units on a block with these spaces."""
    return frozenset(owner[space] for space in spaces if space in owner) - {unit}


def _anchors(owner: Mapping[int, int], number: int, unit: Tree, on: Sequence[Outline]) -> dict[frozenset[int], int]:
    """Number of entries by the set of other units on their block."""
    found: dict[frozenset[int], int] = {}
    for block in on:
        if not repeats(block.leaves, unit.ids()):
            rest = others(block.spaces, number, owner)
            found[rest] = found.get(rest, 0) + block.entries
    return found


def _share(anchors: Mapping[frozenset[int], int], known: frozenset[int]) -> float:
    total = sum(anchors.values())
    return sum(entries for others, entries in anchors.items() if others <= known) / total if total else 0.0
