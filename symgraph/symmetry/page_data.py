"""What a page of a symmetry graph says, as plain data: the same words as in the terminal, repeated layers once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from html import escape
from typing import Any

from symgraph.groups.lattice import RIGID
from symgraph.io.pages import page
from symgraph.symmetry.account import account
from symgraph.symmetry.coverage import report
from symgraph.symmetry.dimension import Dimension, Family, Part, dimension
from symgraph.symmetry.edges import axes_of
from symgraph.symmetry.fold import fold
from symgraph.symmetry.glossary import glossary
from symgraph.symmetry.links import home, link
from symgraph.symmetry.notation import law
from symgraph.symmetry.present import NOTHING, SENTENCES, family_kind, group_text, headline, kind
from symgraph.symmetry.repeated import FIRST_MARK, Repeated, repeated
from symgraph.symmetry.structure import Structure

Plain = dict[str, Any]
VIEW = "symmetry"
# Above this many pieces of evidence for one class a page shows the first, and says how many there are.
MOST_STEPS = 200


def to_html(symmetry: Structure) -> str:
    """One page that shows the whole graph, to open from disk."""
    return page(f"Symmetries of {symmetry.graph.model or 'a model'}", page_data(symmetry), VIEW)


def short_html(symmetry: Structure) -> str:
    """A table of what acts on the spaces, for a notebook."""
    counted = dimension(symmetry)
    heads = "".join(f"<th>{title}</th>" for title in ("space", "size", "class", "dimension", "count"))
    rows = "".join(_html_row(one) for one in repeated(_active_rows(symmetry, counted)))
    body = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>" if rows else f"<p>{NOTHING}</p>"
    return f"<p>{escape(headline(symmetry, counted))}</p>{body}"


def _active_rows(symmetry: Structure, counted: Dimension) -> list[Plain]:
    return [
        {
            "name": space.name,
            "size": f"{space.size:,}",
            "group": group_text(space),
            "dimension": f"{counted.of(space.name).number:,}",
            "meaning": space.maps.meaning(symmetry.index_set(space)),
        }
        for space in symmetry.spaces
        if not space.rigid
    ]


def _html_row(one: Repeated) -> str:
    said = one.record
    times = f"\N{MULTIPLICATION SIGN}{len(one.rows)}" if len(one.rows) > 1 else ""
    cells = (one.name, said["size"], said["group"], said["dimension"], times)
    inside = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr title="{escape(said["meaning"])}">{inside}</tr>'


def page_data(symmetry: Structure) -> Plain:
    """Everything that the page says; `spaces`, `parameters` and `families` are records as `repeated` makes them."""
    counted = dimension(symmetry)
    return {
        "model": symmetry.graph.model or "model",
        "headline": " ".join(headline(symmetry, counted).split()),
        "first_mark": FIRST_MARK,
        "spaces": _folded(space_records(symmetry, counted)),
        "parameters": _folded(parameter_records(symmetry, counted)),
        "families": _folded(_family_records(symmetry, counted)),
        "sizes": [{"name": name, "size": size} for name, size in counted.sizes],
        "formula": str(counted.expression),
        "uncovered": list(report(symmetry.uncovered)),
        "notes": list(symmetry.notes),
        "nothing": _nothing(symmetry),
        "glossary": [asdict(entry) for entry in glossary()],
    }


def _folded(records: list[Plain]) -> list[Plain]:
    return [{"name": one.name, "rows": one.rows, "record": one.record} for one in repeated(records)]


# -- spaces --------------------------------------------------------------------------------------------------------


def space_records(symmetry: Structure, counted: Dimension) -> list[Plain]:
    """What is said of every space, with its class, what kind of class that is, and the module that it belongs to."""
    return [
        {
            **_shortened(asdict(account(symmetry, space, counted))),
            "class": str(space.group),
            "kind": kind(space.maps),
            "home": home(symmetry, space),
            "tensors": len(symmetry.parameters_of[space.id]),
        }
        for space in symmetry.spaces
    ]


def _shortened(said: Plain) -> Plain:
    steps = said["evidence"]
    return said | {"evidence": steps[:MOST_STEPS], "further": max(len(steps) - MOST_STEPS, 0)}


# -- parameters ----------------------------------------------------------------------------------------------------


def parameter_records(symmetry: Structure, counted: Dimension) -> list[Plain]:
    """What is said of every parameter and buffer: how it moves, between which spaces it leads, and its families."""
    taken = _memberships(symmetry, counted)
    names: dict[str, list[str]] = {}
    for other, name in symmetry.graph.tied.items():
        names.setdefault(name, []).append(other)
    return [
        {
            "name": name,
            "kind": str(symmetry.graph.state[name].kind),
            "shape": list(symmetry.graph.state[name].shape),
            **asdict(law(symmetry, name)),
            "axes": [asdict(axis) for axis in axes_of(symmetry, terms)],
            "link": link(symmetry, name).plain,
            "gain": name in symmetry.gain_sites,
            "families": taken.get(name, []),
            "tied": names.get(name, []),
        }
        for name, terms in symmetry.terms.items()
    ]


def _memberships(symmetry: Structure, counted: Dimension) -> dict[str, list[Plain]]:
    memberships: dict[str, list[Plain]] = {}
    for part in _members(counted):
        said = {"family": str(part.family), "sentence": _sentence(symmetry, part), "member": part.name}
        for name in part.tensors:
            memberships.setdefault(name, []).append(said)
    return memberships


# -- families ------------------------------------------------------------------------------------------------------


def _members(counted: Dimension) -> Iterator[Part]:
    return (part for part in counted.parts if part.family is not Family.SPACE)


def _sentence(symmetry: Structure, part: Part) -> str:
    return SENTENCES[family_kind(symmetry, part)][0]


def _family_records(symmetry: Structure, counted: Dimension) -> list[Plain]:
    return [
        {
            "name": part.name,
            "family": str(part.family),
            "sentence": _sentence(symmetry, part),
            "dimension": part.number,
            "formula": "" if part.expression.is_Integer else str(part.expression),
            "tensors": list(part.tensors),
        }
        for part in _members(counted)
    ]


# -- nothing -------------------------------------------------------------------------------------------------------


def _nothing(symmetry: Structure) -> Plain | None:
    """Where nothing but the identity acts: that it is so, and every reason why."""
    if symmetry.active:
        return None
    causes: dict[tuple[str, str], list[str]] = {}
    for space in symmetry.spaces:
        for reason in space.evidence:
            if reason.bound == RIGID:
                causes.setdefault((reason.rule, reason.reason), []).append(reason.where)
    return {
        "text": NOTHING,
        "causes": [
            {"rule": rule, "because": because, "places": [one.pattern for one in fold(dict.fromkeys(places))]}
            for (rule, because), places in causes.items()
        ],
    }
