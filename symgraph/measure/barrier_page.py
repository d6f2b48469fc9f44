"""What a page of loss barriers says, as plain data: curves by their labels, the simplex of three models, a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from symgraph.errors import UsageError
from symgraph.io.pages import page
from symgraph.measure.measured import Measured
from symgraph.measure.plots import Plane, Result
from symgraph.symmetry.glossary import glossary

Plain = dict[str, Any]
VIEW = "barrier"


class Shown(Result, Protocol):
    """A result as a page shows it."""

    @property
    def examples(self) -> int: ...

    @property
    def source(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def recalibrated(self) -> str: ...


class ShownPlane(Plane, Protocol):
    """A plane as a page shows it."""

    def to_plain(self) -> Plain: ...


def to_html(results: Mapping[str, Shown], plane: ShownPlane | None = None, *, title: str = "") -> str:
    """One page that shows loss barriers, to open from disk.

    Raises:
        UsageError: there is nothing to show, or results of more than two models beside others.
    """
    data = page_data(results, plane)
    return page(title or f"Loss barrier: {', '.join(data['models'])}", data, VIEW)


def page_data(results: Mapping[str, Shown], plane: ShownPlane | None = None) -> Plain:
    """Everything that the page says.

    Raises:
        UsageError: as for `to_html`.
    """
    if not results:
        raise UsageError("there is no loss barrier to show", remedy="give at least one labelled loss barrier")
    first = next(iter(results.values()))
    if len(results) > 1 and any(result.loss.models > 2 for result in results.values()):
        raise UsageError("only barriers of two models go into one picture", remedy="show each by itself")
    return {
        "models": list(first.models),
        "results": [result_data(label, result) for label, result in results.items()],
        "triangles": triangles(first.loss.mixtures) if first.loss.models == 3 else [],
        "plane": None if plane is None else plane.to_plain(),
        "remarks": list(dict.fromkeys(text for result in results.values() for text in result.remarks)),
        "glossary": [asdict(entry) for entry in glossary()],
    }


def result_data(label: str, result: Shown) -> Plain:
    """One result under its label: figures of the loss and of every metric at every mixture."""
    said = {name: getattr(result, name) for name in ("examples", "source", "split", "recalibrated")}
    return {
        "label": label,
        "models": list(result.models),
        "quantities": [quantity_data(quantity) for quantity in (result.loss, *result.metrics)],
        **said,
    }


def quantity_data(quantity: Measured) -> Plain:
    """A quantity at all mixtures, with the figures that follow from it."""
    figures = ("barriers", "barrier", "standard_error", "argmax", "interior_min", "midpoint", "ends")
    plain = asdict(quantity) | {name: getattr(quantity, name) for name in figures}
    return plain | {"places": quantity.places}


def triangles(mixtures: Sequence[Sequence[float]]) -> list[list[int]]:
    """Triangles between mixtures of three models, by their numbers: a surface over all of them."""
    from scipy.spatial import Delaunay

    # A corner of the simplex at (0, 0), the others at (1, 0) and (0, 1).
    corners: list[list[int]] = Delaunay([mixture[1:] for mixture in mixtures]).simplices.tolist()
    return corners
