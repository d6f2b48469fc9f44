"""What is said of one space, as data: what `explain` prints, and what a page shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from symgraph.groups.lattice import Bound, SymmetryClass, describe, maximal
from symgraph.symmetry.dimension import Dimension
from symgraph.symmetry.fold import fold
from symgraph.symmetry.present import group_text
from symgraph.symmetry.structure import Reason, Space, Structure, meet
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, factors, numbered, runs

_Site = tuple[tuple[int, ...], int, str, str]
MOST_TOGETHER = 3
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Outer:
    """A space that another one is fibred over."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Touched:
    """An axis of parameters of one shape on a space: where in the axis it stands, and how it transforms."""

    parameters: str
    shape: tuple[int, ...]
    axis: int
    place: str
    variance: str


@dataclass(frozen=True, slots=True)
class Absorbed:
    """Gains, repeated layers folded, that are absorbed into the weights that read from a space or write into it."""

    readers: bool
    gains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of the evidence for a class: the classes that a rule admits at a place.

    `partly` says that the rule touches some axes of the space alone, so that it admits less than the space has.
    """

    rule: str
    admits: str
    partly: bool
    where: str
    because: str


@dataclass(frozen=True, slots=True)
class Account:
    """Everything known about one space.

    `group` is its class with the numbers of free scales and signs, `meaning` the same in words, `scales` and `signs`
    are their letters. `dimension` is the number of continuous directions and `formula` the same over the sizes of
    spaces, empty where it says no more; `splits` whether positions may be split and merged.
    """

    name: str
    size: int
    group: str
    meaning: str
    scales: str
    signs: str
    splits: bool
    fibre: tuple[Outer, ...]
    dimension: int
    formula: str
    touched: tuple[Touched, ...]
    absorbed: tuple[Absorbed, ...]
    evidence: tuple[Step, ...]
    larger: tuple[str, ...]


def account(symmetry: Structure, space: Space, counted: Dimension) -> Account:
    """What is said of a space; `counted` is the dimension of the whole graph."""
    number, formula = _counted(space, counted)
    return Account(
        name=space.name,
        size=space.size,
        group=group_text(space),
        meaning=f"{space.maps.meaning(symmetry.index_set(space))}{_pairing(space)}",
        scales=_letters("s", space.scales),
        signs=_letters("e", space.signs),
        splits=not space.rigid and SymmetryClass.SEMI_PERMUTATION in space.bound,
        fibre=tuple(Outer(symmetry.spaces[outer].name, symmetry.spaces[outer].size) for outer in space.fibre),
        dimension=number,
        formula=formula,
        touched=tuple(_touched(symmetry, space)),
        absorbed=tuple(_absorbed(symmetry, space)),
        evidence=tuple(_steps(space)),
        larger=tuple(_larger(space)),
    )


def space_plain(symmetry: Structure, space: Space, counted: Dimension) -> dict[str, Any]:
    """The same with every parameter by itself, as plain data."""
    number, formula = _counted(space, counted)
    gains = symmetry.absorbed_on(space)
    return {
        "kind": "space",
        "space": space.name,
        "size": space.size,
        "group": str(space.group),
        "bound": sorted(space.bound),
        "meaning": space.maps.meaning(symmetry.index_set(space)),
        "scales": space.scales,
        "signs": space.signs,
        "layout": space.layout,
        "fibre": [symmetry.spaces[outer].name for outer in space.fibre],
        "dimension": number,
        "formula": formula or str(number),
        "parameters": [
            {"parameter": name, "shape": list(shape), "axis": axis, "place": place, "variance": variance}
            for name, (shape, axis, place, variance) in _sites(symmetry, space)
        ],
        "gains": [{"parameter": gain.parameter, "into": "readers" if gain.forward else "writers"} for gain in gains],
        "evidence": [
            {"rule": why.rule, "where": why.where, "reason": why.reason, "bound": sorted(why.bound)}
            for why in space.evidence
        ],
        "larger": [
            {"without": list(rules), "bound": sorted(bound)} for rules, bound in decisive_rules(space.evidence)[:SHOWN]
        ],
    }


def _counted(space: Space, counted: Dimension) -> tuple[int, str]:
    if space.rigid:
        return 0, ""
    part = counted.of(space.name)
    return part.number, "" if part.expression.is_Integer else str(part.expression)


def _pairing(space: Space) -> str:
    if not space.maps.paired or not space.layout:
        return ""
    if "-" in space.layout:
        return f" (coordinates are paired {space.layout})"
    second = "i + 1" if space.layout == "interleaved" else f"i + {space.size // 2}"
    return f" (coordinate i is paired with {second})"


# -- parameters ----------------------------------------------------------------------------------------------------


def _touched(symmetry: Structure, space: Space) -> Iterator[Touched]:
    groups: dict[_Site, list[str]] = {}
    for name, site in _sites(symmetry, space):
        groups.setdefault(site, []).append(name)
    for (shape, axis, place, variance), names in groups.items():
        for folded in fold(names):
            yield Touched(folded.pattern, shape, axis, place, variance)


def _sites(symmetry: Structure, space: Space) -> Iterator[tuple[str, _Site]]:
    """Every place of a space on a parameter: its shape, the axis, where in it, and how it transforms."""
    for name in symmetry.read_on[space.id]:
        shape = symmetry.shapes[name]
        for axis, term in enumerate(symmetry.read_terms[name]):
            for leaf, place in _places(symmetry, term, space.id):
                yield name, (shape, axis, place, _variance(symmetry, leaf))


def _variance(symmetry: Structure, leaf: Leaf) -> str:
    frame, orientation = symmetry.frame(leaf.frame), -1 if leaf.dual else 1
    times = "*".join(factors(tuple(orientation * power for power in frame.scale), frame.sign))
    return ("contravariant" if leaf.dual else "covariant") + (f", times {times}" if times else "")


def _letters(letter: str, count: int) -> str:
    return ", ".join(numbered(letter, number) for number in range(count))


def _places(symmetry: Structure, term: Term, space: int) -> Iterator[tuple[Leaf, str]]:
    """Every occurrence of a space in an axis, and where in it."""
    if isinstance(term, Leaf):
        if term.space == space:
            yield term, ""
        return
    yield from _within(symmetry, term, space)


def _within(symmetry: Structure, term: Term, space: int, start: int = 0) -> Iterator[tuple[Leaf, str]]:
    if isinstance(term, Leaf):
        if term.space == space:
            yield term, _word(symmetry, term)
    elif isinstance(term, Product):
        for place, factor in enumerate(term.factors):
            for leaf, text in _within(symmetry, factor, space):
                words = [_word(symmetry, other) for other in term.factors]
                yield leaf, " x ".join((*words[:place], text, *words[place + 1 :]))
    else:
        yield from _in_parts(symmetry, term, space, start)


def _in_parts(symmetry: Structure, term: Concat, space: int, start: int) -> Iterator[tuple[Leaf, str]]:
    places, first = term.places, 0
    for part in term.parts:
        spans = runs([start + place for place in places[first : first + part.size]])
        for leaf, text in _within(symmetry, part, space, spans[0][0]):
            inner = isinstance(part, Concat)
            where = ", ".join(f"{begin}:{end}" for begin, end in spans)
            yield leaf, text if inner else f"[{where}] = {text}"
        first += part.size


def _word(symmetry: Structure, term: Term) -> str:
    if isinstance(term, Product):
        return " x ".join(_word(symmetry, factor) for factor in term.factors)
    if isinstance(term, Leaf) and term.space >= 0:
        return symmetry.spaces[term.space].name.rpartition(".")[2]
    return str(term.size)


# -- gains and evidence --------------------------------------------------------------------------------------------


def _absorbed(symmetry: Structure, space: Space) -> Iterator[Absorbed]:
    gains = symmetry.absorbed_on(space)
    for forward in (True, False):
        names = list(dict.fromkeys(gain.parameter for gain in gains if gain.forward is forward))
        if names:
            yield Absorbed(forward, tuple(folded.pattern for folded in fold(names)))


def _steps(space: Space) -> Iterator[Step]:
    for reason in space.evidence:
        partly = space.group not in reason.bound
        yield Step(reason.rule, describe(reason.bound), partly, reason.where, reason.reason)


def _larger(space: Space) -> Iterator[str]:
    if not space.evidence:
        yield "nothing: it is the largest class there is"
        return
    decisive = decisive_rules(space.evidence)
    for rules, bound in decisive[:SHOWN]:
        which = f"rule {rules[0]}" if len(rules) == 1 else f"rules {', '.join(rules)} together"
        yield f"without {which} the other evidence would admit {describe(bound)}"
    if not decisive:
        yield f"no {MOST_TOGETHER} rules alone: the evidence above holds it in several ways at once"


def decisive_rules(evidence: Sequence[Reason]) -> list[tuple[tuple[str, ...], Bound]]:
    """The fewest rules without which the evidence admits more, and what it admits then."""
    rules = list(dict.fromkeys(reason.rule for reason in evidence))
    lowest = meet(evidence)
    for size in range(1, min(MOST_TOGETHER, len(rules)) + 1):
        sets = combinations(rules, size)
        without = {few: meet([reason for reason in evidence if reason.rule not in few]) for few in sets}
        decisive = [(few, bound) for few, bound in without.items() if maximal(bound) != maximal(lowest)]
        if decisive:
            return decisive
    return []
