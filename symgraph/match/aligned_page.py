"""What a page of an alignment says, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from symgraph.io.pages import page
from symgraph.match.analysis import Analysis
from symgraph.match.helped import helped
from symgraph.match.learned_matching import Learned
from symgraph.measure.barrier_page import quantity_data, result_data
from symgraph.symmetry.glossary import glossary

Plain = dict[str, Any]
VIEW = "aligned"
# Tensors of B whose norms are listed, those that grow most first.
GROWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAlignment:
    """What a page says of an alignment beside its analysis, with `method` and `program` as text.

    `before`, `after`: distances in canonical form over |A|; `objective`: after the start and after every sweep.
    """

    models: tuple[str, str]
    before: float
    after: float
    objective: tuple[float, ...]
    learned: Learned | None
    growth: Mapping[str, float]
    method: str
    matching: str
    program: str
    notes: tuple[str, ...]


def aligned_html(shown: ShownAlignment, analysis: Analysis) -> str:
    """One page that shows an alignment, to open from disk."""
    first, second = shown.models
    return page(f"{second} aligned to {first}", page_data(shown, analysis), VIEW)


def page_data(shown: ShownAlignment, analysis: Analysis) -> Plain:
    """Everything that the page says."""
    said = {name: getattr(shown, name) for name in ("before", "after", "method", "matching", "program")}
    return {
        "models": list(shown.models),
        **said,
        "notes": list(shown.notes),
        "objective": list(shown.objective),
        "learned": None if shown.learned is None else _learned(shown.learned),
        "growth": [{"name": name, "growth": growth} for name, growth in list(shown.growth.items())[:GROWN]],
        "parameters": [_finite(asdict(parameter)) for parameter in analysis.parameters],
        "spaces": [_finite(asdict(space)) for space in analysis.spaces],
        "results": [
            result_data(f"{when} alignment", replace(found, models=shown.models))
            for when, found in analysis.barriers.items()
        ],
        "helped": _helped(analysis, shown.matching),
        "by_space": _by_space(analysis),
        "remarks": list(dict.fromkeys(text for barrier in analysis.barriers.values() for text in barrier.remarks)),
        "glossary": [asdict(entry) for entry in glossary()],
    }


def _learned(found: Learned) -> Plain:
    history = [{"step": step, "barrier": barrier} for step, barrier in found.history]
    return {"history": history, "kept": found.best, "ended": found.ended, "worst": found.worst}


def _helped(analysis: Analysis, method: str) -> Plain | None:
    found = analysis.barriers
    return helped(found["before"], found["after"], method).to_plain() if {"before", "after"} <= found.keys() else None


def _by_space(analysis: Analysis) -> Plain | None:
    found = analysis.by_space
    if found is None:
        return None
    spaces = [{"space": space.space, **quantity_data(space.measured)} for space in found.spaces]
    return {"aligned": quantity_data(found.aligned), "spaces": spaces}


def _finite(record: Plain) -> Plain:
    """A record with None in the place of what is infinite, as where A is zero and B is not."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
