"""What one space is and why: the parameters it touches, its class, the evidence, and what would make it larger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from textwrap import wrap

from symgraph.groups.lattice import TOP, Bound, SymmetryClass, describe, maximal
from symgraph.symmetry.dimension import dimension
from symgraph.symmetry.fold import WIDTH, fold
from symgraph.symmetry.present import group_text
from symgraph.symmetry.structure import Reason, Space, Structure
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, factors, numbered, runs

_C = SymmetryClass
MOST_TOGETHER = 3
SHOWN = 3


def explain(symmetry: Structure, name: str) -> str:
    """Everything known about one space, as text.

    Raises:
        UsageError: no space has that name; near names are suggested.
    """
    space = symmetry.space(name)
    sections = [
        list(_class(symmetry, space)),
        ["parameters", *_indented(_touched(symmetry, space))],
        list(_absorbed(symmetry, space)),
        ["evidence", *_indented(_evidence(space))],
        ["what would make it larger", *_indented(_larger(space))],
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def _indented(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        depth = len(line) - len(line.lstrip()) + 2
        yield from wrap(
            line.strip(),
            WIDTH,
            initial_indent=" " * depth,
            subsequent_indent=" " * (depth + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )


# -- the class -----------------------------------------------------------------------------------------------------


def _class(symmetry: Structure, space: Space) -> Iterator[str]:
    yield f"{space.name}: a space of size {space.size}, class {group_text(space)}"
    yield f"  {space.maps.meaning(symmetry.index_set(space))}{_pairing(space)}"
    if space.scales:
        yield f"  free positive scales of each position: {_letters('s', space.scales)}"
    if space.signs:
        yield f"  free signs of each position: {_letters('e', space.signs)}"
    if not space.rigid and _C.SEMI_PERMUTATION in space.bound:
        yield "  positions may also be split and merged (semi-permutation), which changes its size"
    if space.fibre:
        fibre = [symmetry.spaces[outer] for outer in space.fibre]
        outer = ", ".join(f"{other.name} ({other.size})" for other in fibre)
        yield f"  fibred over {outer}: another element for each position there"
    if not space.rigid:
        counted = dimension(symmetry)
        part = counted.of(space.name)
        formula = "" if part.expression.is_Integer else f" = {part.expression}"
        yield f"  dimension {part.number:,}{formula}"


def _pairing(space: Space) -> str:
    if not space.maps.paired or not space.layout:
        return ""
    if "-" in space.layout:
        return f" (coordinates are paired {space.layout})"
    second = "i + 1" if space.layout == "interleaved" else f"i + {space.size // 2}"
    return f" (coordinate i is paired with {second})"


# -- parameters ----------------------------------------------------------------------------------------------------


def _touched(symmetry: Structure, space: Space) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for name in symmetry.parameters_of[space.id]:
        shape = list(symmetry.graph.state[name].shape)
        for axis, term in enumerate(symmetry.terms[name]):
            for leaf, place in _places(symmetry, term, space.id):
                text = f"{shape}  axis {axis}{place}  {_variance(symmetry, leaf)}"
                groups.setdefault(text, []).append(name)
    for text, names in groups.items():
        for folded in fold(names):
            yield f"{folded.pattern}  {text}"


def _variance(symmetry: Structure, leaf: Leaf) -> str:
    frame, orientation = symmetry.frame(leaf.frame), -1 if leaf.dual else 1
    times = "*".join(factors(tuple(orientation * power for power in frame.scale), frame.sign))
    return ("contravariant" if leaf.dual else "covariant") + (f", times {times}" if times else "")


def _letters(letter: str, count: int) -> str:
    return ", ".join(numbered(letter, k) for k in range(count))


def _places(symmetry: Structure, term: Term, space: int) -> Iterator[tuple[Leaf, str]]:
    """Every occurrence of a space in an axis, and where in it."""
    if isinstance(term, Leaf):
        if term.space == space:
            yield term, ""
        return
    for leaf, text in _within(symmetry, term, space):
        yield leaf, f", {text}"


def _within(symmetry: Structure, term: Term, space: int, start: int = 0) -> Iterator[tuple[Leaf, str]]:
    if isinstance(term, Leaf):
        if term.space == space:
            yield term, _word(symmetry, term)
    elif isinstance(term, Product):
        for i, factor in enumerate(term.factors):
            for leaf, text in _within(symmetry, factor, space):
                words = [_word(symmetry, other) for other in term.factors]
                yield leaf, " x ".join((*words[:i], text, *words[i + 1 :]))
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


def _absorbed(symmetry: Structure, space: Space) -> Iterator[str]:
    gains = [gain for gain in symmetry.gains if symmetry.frame(gain.frame).space == space.id]
    for forward, whose in ((True, "the weights that read from it"), (False, "the weights that write into it")):
        names = list(dict.fromkeys(gain.parameter for gain in gains if gain.forward is forward))
        if names:
            yield f"gains absorbed into {whose} (one in the canonical gauge)"
            yield from _indented(iter([", ".join(folded.pattern for folded in fold(names))]))


def _evidence(space: Space) -> Iterator[str]:
    if not space.evidence:
        yield "no rule lowers its class: every operator that touches it is linear along it"
    for number, reason in enumerate(space.evidence, 1):
        partly = "" if space.group in reason.bound else " on the axes it touches"
        yield f"{number}. rule {reason.rule} admits {describe(reason.bound)}{partly}"
        yield f"   at {reason.where}"
        yield f"   because: {reason.reason}"


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
    lowest = _meet(evidence)
    for size in range(1, min(MOST_TOGETHER, len(rules)) + 1):
        sets = combinations(rules, size)
        without = {few: _meet([reason for reason in evidence if reason.rule not in few]) for few in sets}
        decisive = [(few, bound) for few, bound in without.items() if maximal(bound) != maximal(lowest)]
        if decisive:
            return decisive
    return []


def _meet(evidence: Sequence[Reason]) -> Bound:
    bound = TOP
    for reason in evidence:
        bound = bound & reason.bound
    return bound
