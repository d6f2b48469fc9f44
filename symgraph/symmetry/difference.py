"""What two symmetry graphs do not share: spaces and families that are in one alone, or larger in one; layers folded.

Spaces are the same where they stand on the same places of the same parameters; what is left is matched by name, so that
two sizes of one architecture, and one model under two sets of rules, are compared alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from symgraph.symmetry.dimension import Family, Part, dimension
from symgraph.symmetry.fold import fold, wrapped
from symgraph.symmetry.present import group_text
from symgraph.symmetry.structure import Space, Structure
from symgraph.symmetry.terms import Concat, Leaf, Product, Term

Place = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class Side:
    """What one of the graphs says of a space or of a member of a family; empty where it has none."""

    name: str = ""
    group: str = ""
    size: int = 0
    dimension: int = 0

    def __str__(self) -> str:
        if not self.name:
            return "nothing"
        told = f"{self.group}, dimension {self.dimension:,}"
        return f"{told}, size {self.size}" if self.size else told


@dataclass(frozen=True, slots=True)
class Change:
    """A space, or a member of a family, in both graphs; `what` is gained, lost or changed."""

    kind: str
    what: str
    before: Side
    after: Side

    @property
    def name(self) -> str:
        """What it is called, in both graphs where these differ."""
        both = dict.fromkeys(filter(None, (self.before.name, self.after.name)))
        return " -> ".join(both)

    def __str__(self) -> str:
        return f"{self.before} -> {self.after}"


@dataclass(frozen=True, slots=True)
class Difference:
    """Every change from one graph to another, the parameters that only one has, and the dimensions of both."""

    before: str
    after: str
    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    dimensions: tuple[int, int]

    def __bool__(self) -> bool:
        """Whether there is any difference."""
        return bool(self.changes or self.only_before or self.only_after)

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def to_plain(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def difference(before: Structure, after: Structure, names: tuple[str, str] = ("before", "after")) -> Difference:
    """Compares two symmetry graphs.

    Args:
        names: what the graphs are called in the text.
    """
    first, second = (dimension(symmetry) for symmetry in (before, after))
    changes = [*_spaces(before, after, *(_numbers(counted.parts) for counted in (first, second)))]
    changes += _families(first.parts, second.parts)
    kept, later = before.graph.state.keys(), after.graph.state.keys()
    only = tuple(name for name in kept if name not in later), tuple(name for name in later if name not in kept)
    return Difference(*names, tuple(changes), *only, (first.number, second.number))


def _numbers(parts: Sequence[Part]) -> dict[str, int]:
    return {part.name: part.number for part in parts if part.family is Family.SPACE}


# -- spaces ------------------------------------------------------------------------------------------------------------


def _spaces(
    before: Structure, after: Structure, first: Mapping[str, int], second: Mapping[str, int]
) -> Iterator[Change]:
    partners = _partners(before, after)
    for space in before.spaces:
        other = partners.get(space.id)
        yield from _change(_side(space, first), _side(other, second))
    taken = {other.id for other in partners.values()}
    for space in after.spaces:
        if space.id not in taken:
            yield from _change(Side(), _side(space, second))


def _side(space: Space | None, numbers: Mapping[str, int]) -> Side:
    if space is None:
        return Side()
    return Side(space.name, group_text(space), space.size, numbers.get(space.name, 0))


def _change(before: Side, after: Side) -> Iterator[Change]:
    active = [side for side in (before, after) if side.name and side.group != "identity"]
    if not active or (before.group, before.size, before.dimension) == (after.group, after.size, after.dimension):
        return
    what = "changed" if len(active) == 2 else "lost" if active == [before] else "gained"
    yield Change("space", what, before, after)


def _partners(before: Structure, after: Structure) -> dict[int, Space]:
    """The space of the second graph for each of the first that has one: by shared places, then by name."""
    sites = dict(_places(after))
    shared = Counter((space, sites[place]) for place, space in _places(before) if place in sites)
    partners: dict[int, Space] = {}
    taken: set[int] = set()
    for (space, other), _ in sorted(shared.items(), key=lambda item: (-item[1], item[0])):
        if space not in partners and other not in taken:
            partners[space] = after.spaces[other]
            taken.add(other)
    for left in before.spaces:
        named = after.by_name.get(left.name)
        if left.id not in partners and named is not None and named.id not in taken:
            partners[left.id] = named
            taken.add(named.id)
    return partners


def _places(symmetry: Structure) -> Iterator[tuple[Place, int]]:
    """Where each space stands: the parameter, the axis, the offset and the place in a product."""
    for name, axes in symmetry.terms.items():
        for axis, term in enumerate(axes):
            for offset, number, leaf in _leaves(term):
                if leaf.space >= 0:
                    yield (name, axis, offset, number), leaf.space


def _leaves(term: Term, offset: int = 0, number: int = 0) -> Iterator[tuple[int, int, Leaf]]:
    if isinstance(term, Leaf):
        yield offset, number, term
    elif isinstance(term, Product):
        for place, factor in enumerate(term.factors):
            yield from _leaves(factor, offset, number + place)
    elif isinstance(term, Concat):
        for part in term.parts:
            yield from _leaves(part, offset, number)
            offset += part.size


# -- families ----------------------------------------------------------------------------------------------------------


def _families(before: Sequence[Part], after: Sequence[Part]) -> Iterator[Change]:
    sides = [
        {(part.family, part.name): part.number for part in parts if part.family is not Family.SPACE}
        for parts in (before, after)
    ]
    for family, name in dict.fromkeys([*sides[0], *sides[1]]):
        first, second = (side.get((family, name)) for side in sides)
        if first != second:
            what = "gained" if first is None else "lost" if second is None else "changed"
            told = (
                Side() if dimension is None else Side(name, str(family), 0, dimension) for dimension in (first, second)
            )
            yield Change(str(family), what, *told)


# -- text --------------------------------------------------------------------------------------------------------------


def _lines(difference: Difference) -> Iterator[str]:
    first, second = difference.dimensions
    yield f"{difference.before} -> {difference.after}: continuous dimension {first:,} -> {second:,}"
    if not difference:
        yield "no space and no family differs"
    for what in ("gained", "lost", "changed"):
        changes = [change for change in difference.changes if change.what == what]
        if changes:
            yield ""
            yield f"{what}:"
            yield from _folded(changes)
    for where, names in ((difference.before, difference.only_before), (difference.after, difference.only_after)):
        if names:
            yield ""
            yield f"parameters and buffers of {where} alone:"
            yield from wrapped(", ".join(pattern.pattern for pattern in fold(names)), "  ")


def _folded(changes: Sequence[Change]) -> Iterator[str]:
    """One line for what changes alike in repeated layers."""
    groups: dict[tuple[str, str], list[str]] = {}
    for change in changes:
        groups.setdefault((change.kind, str(change)), []).append(change.name)
    for (_, text), names in groups.items():
        for pattern in fold(names):
            count = f"  x{pattern.count}" if pattern.count > 1 else ""
            yield f"  {pattern.pattern}{count}"
            yield from wrapped(text, "      ")
