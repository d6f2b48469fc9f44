"""What a name means that `inspect` prints: a space, a parameter, a family, a class, an operator, or a folded name.

`KINDS` lists what is asked in turn. Each kind answers with a text for a reader and with data that holds all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from symgraph.errors import UsageError, near
from symgraph.groups.lattice import classes, maps
from symgraph.symmetry.account import space_plain
from symgraph.symmetry.coverage import gaps, report
from symgraph.symmetry.dimension import Family, Part, dimension
from symgraph.symmetry.edges import axes_of
from symgraph.symmetry.explain import explain
from symgraph.symmetry.fold import fold, unfold, wrapped
from symgraph.symmetry.present import SENTENCES
from symgraph.symmetry.structure import Structure

LETTERS = "ABCDEFGH"
MOST_SPACES = 12


@dataclass(frozen=True, slots=True)
class Answer:
    """What was asked about: its kind, the names it stands for, a text, and the same as plain data."""

    kind: str
    names: tuple[str, ...]
    text: str
    plain: dict[str, Any]


def look_up(symmetry: Structure, name: str) -> Answer:
    """Everything known about what a name stands for; of a folded name, about the first that it folds.

    Raises:
        UsageError: nothing has that name; near names are suggested.
    """
    asked = unfold(name)
    for kind in KINDS:
        known = kind.names(symmetry)
        if all(one in known for one in asked):
            return _answer(symmetry, kind, name, asked)
    known = [one for kind in KINDS for one in kind.names(symmetry)]
    folded = [pattern.pattern for pattern in fold(known)]
    remedy = near(name, [*known, *folded], "`symgraph inspect MODEL --rigid --no-fold` prints all names", count=3)
    raise UsageError(f"no space, parameter, family, class or operator is called {name!r}", remedy=remedy)


def _answer(symmetry: Structure, kind: Kind, name: str, asked: Sequence[str]) -> Answer:
    text, plain = kind.text(symmetry, asked[0]), kind.plain(symmetry, asked[0])
    if len(asked) > 1:
        text = f"{name}: {len(asked)} of a kind; this is the first of them\n\n{text}"
        plain = {"kind": kind.name, "pattern": name, "members": [kind.plain(symmetry, one) for one in asked]}
    return Answer(kind.name, tuple(asked), text, plain)


def _space(symmetry: Structure, name: str) -> dict[str, Any]:
    return space_plain(symmetry, symmetry.space(name), dimension(symmetry))


# -- parameters --------------------------------------------------------------------------------------------------------


def _parameters(symmetry: Structure) -> list[str]:
    return [*symmetry.graph.state, *symmetry.graph.tied]


def _parameter_text(symmetry: Structure, name: str) -> str:
    plain = _parameter(symmetry, name)
    shape = plain["shape"]
    lines = [f"{name}: {plain['what']} {shape}"]
    if plain["tied_to"]:
        lines.append(f"  one tensor with {plain['tied_to']}")
    lines.append(f"  {plain['law']}")
    for letter, axis in zip(LETTERS, plain["axes"], strict=False):
        held = ", ".join(f"{space}: {cls}" for space, cls in axis["classes"].items())
        what = f"{axis['term']}  ({held})" if held else "stays as it is"
        lines += wrapped(f"{letter}, axis {axis['axis']} of size {axis['size']}: {what}", "    ")
    if plain["families"]:
        lines += ["", "families"]
        lines += [line for part in plain["families"] for line in wrapped(f"{part['family']}: {part['about']}", "  ")]
    return "\n".join(lines)


def _parameter(symmetry: Structure, name: str) -> dict[str, Any]:
    first = symmetry.graph.tied.get(name, name)
    node, axes = symmetry.graph.state[first], axes_of(symmetry, symmetry.terms_of(first))
    listed = [
        {
            "axis": number,
            "size": axis.size,
            "term": axis.term,
            "classes": dict(zip(axis.spaces, axis.classes, strict=True)),
        }
        for number, axis in enumerate(axes)
    ]
    parts = [part for part in dimension(symmetry).parts if first in _members(part)]
    return {
        "kind": "parameter",
        "name": name,
        "what": str(node.kind),
        "shape": list(node.shape),
        "tied_to": first if first != name else "",
        "law": _law([bool(axis.spaces) for axis in axes]),
        "axes": listed,
        "families": [_part(symmetry, part) for part in parts],
    }


def _law(moved: Sequence[bool]) -> str:
    """How the axes of a tensor move together: `W -> A W B^T`."""
    letters = [letter if moves else "" for letter, moves in zip(LETTERS, moved, strict=False)]
    if not any(letters):
        return "nothing acts on it"
    if len(moved) == 1:
        return "b -> A b"
    if len(moved) == 2:
        return " ".join(filter(None, ("W ->", letters[0], "W", f"{letters[1]}^T" if letters[1] else "")))
    return f"W -> W with {', '.join(filter(None, letters))} along its axes"


# -- families ----------------------------------------------------------------------------------------------------------


def _members(part: Part) -> set[str]:
    """The parameters that the name of a part speaks about."""
    return set() if part.family is Family.SPACE else {side.partition("[")[0] for side in part.name.split(" <-> ")}


def _families(symmetry: Structure) -> list[str]:
    return [part.name for part in dimension(symmetry).parts if part.family is not Family.SPACE]


def _kinds_of_families(symmetry: Structure) -> list[str]:
    return list(
        dict.fromkeys(str(part.family) for part in dimension(symmetry).parts if part.family is not Family.SPACE)
    )


def _part(symmetry: Structure, part: Part) -> dict[str, Any]:
    forward = part.family is not Family.GAIN or symmetry.gain_sites[part.name][0].forward
    formula = str(part.expression)
    about = f"{SENTENCES[part.family, forward][0]}: dimension {part.number:,}"
    about += "" if part.expression.is_Integer else f" = {formula}"
    plain = {"name": part.name, "family": str(part.family), "about": about, "dimension": part.number}
    return {**plain, "formula": formula, "parameters": sorted(_members(part))}


def _family(symmetry: Structure, name: str) -> dict[str, Any]:
    parts = [_part(symmetry, part) for part in dimension(symmetry).parts if part.name == name]
    return {"kind": "family", "name": name, "parts": parts}


def _family_text(symmetry: Structure, name: str) -> str:
    parts = _family(symmetry, name)["parts"]
    return "\n".join([name, *(line for part in parts for line in wrapped(f"{part['family']}: {part['about']}", "  "))])


def _whole_family(symmetry: Structure, name: str) -> dict[str, Any]:
    parts = [part for part in dimension(symmetry).parts if str(part.family) == name]
    return {"kind": "family", "name": name, "parts": [_part(symmetry, part) for part in parts]}


def _whole_family_text(symmetry: Structure, name: str) -> str:
    parts = _whole_family(symmetry, name)["parts"]
    total = sum(part["dimension"] for part in parts)
    folded = ", ".join(pattern.pattern for pattern in fold(part["name"] for part in parts))
    said = parts[0]["about"].partition(":")[0]
    return "\n".join(
        [f"{name}: {len(parts)} in this model, dimension {total:,}", f"  {said}", *wrapped(folded, "    ")]
    )


# -- classes -----------------------------------------------------------------------------------------------------------


def _class(symmetry: Structure, name: str) -> dict[str, Any]:
    cls = next(known for known in classes() if known == name)
    spaces = [space for space in symmetry.spaces if space.group is cls]
    return {
        "kind": "class",
        "name": name,
        "contains": list(maps(cls).contains),
        "inside": [str(known) for known in classes() if cls in maps(known).contains] + list(maps(cls).inside),
        "group": maps(cls).group,
        "spaces": [space.name for space in spaces],
        "meaning": maps(cls).meaning(symmetry.index_set(spaces[0])) if spaces else "",
    }


def _class_text(symmetry: Structure, name: str) -> str:
    plain = _class(symmetry, name)
    lines = [f"{name}: a class of maps" + ("" if plain["group"] else " without inverses of its kind")]
    if plain["meaning"]:
        lines.append(f"  of {plain['spaces'][0]}: {plain['meaning']}")
    lines += wrapped(f"contains {', '.join(plain['contains'])}", "  ")
    lines += wrapped(f"is inside of {', '.join(dict.fromkeys(plain['inside'])) or 'nothing'}", "  ")
    folded = [pattern.pattern for pattern in fold(plain["spaces"])]
    more = f", and {len(folded) - MOST_SPACES} more" if len(folded) > MOST_SPACES else ""
    return "\n".join([*lines, *wrapped(f"here it acts on {', '.join(folded[:MOST_SPACES]) or 'no space'}{more}", "  ")])


# -- operators ---------------------------------------------------------------------------------------------------------


def _operators(symmetry: Structure) -> list[str]:
    return list(dict.fromkeys(call.operator for call in symmetry.uncovered))


def _operator_text(symmetry: Structure, name: str) -> str:
    gap = next(gap for gap in gaps(symmetry) if gap.operator == name)
    lines = list(report([call for call in symmetry.uncovered if call.operator == name]))
    return "\n".join([*lines, f"it freezes {gap.frozen:,} of {symmetry.graph.size:,} parameters"])


def _operator(symmetry: Structure, name: str) -> dict[str, Any]:
    gap = next(gap for gap in gaps(symmetry) if gap.operator == name)
    places = [call.where for call in symmetry.uncovered if call.operator == name]
    return {"kind": "operator", "name": name, "calls": places, "frozen": gap.frozen, "todo": gap.todo}


# -- what there is -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing that has a name: all its names, and a text and data about one of them."""

    name: str
    names: Callable[[Structure], Sequence[str] | Mapping[str, Any]]
    text: Callable[[Structure, str], str]
    plain: Callable[[Structure, str], dict[str, Any]]


KINDS = (
    Kind("space", lambda symmetry: symmetry.by_name, explain, _space),
    Kind("parameter", _parameters, _parameter_text, _parameter),
    Kind("family", _families, _family_text, _family),
    Kind("family", _kinds_of_families, _whole_family_text, _whole_family),
    Kind("class", lambda symmetry: list(map(str, classes())), _class_text, _class),
    Kind("operator", _operators, _operator_text, _operator),
)
