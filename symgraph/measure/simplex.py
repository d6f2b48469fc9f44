"""Losses and metrics at mixtures of many models, and the barriers that follow from them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from symgraph.errors import DataError, one_line, shorten
from symgraph.measure.curve import Surface
from symgraph.measure.loss_curve import data_line
from symgraph.measure.plots import simplex_plot


@dataclass(frozen=True, slots=True)
class SimplexBarrier:
    """The loss, and any metrics, at mixtures of models; `models` are their names."""

    loss: Surface
    metrics: tuple[Surface, ...] = ()
    models: tuple[str, ...] = ()
    examples: int = 0
    source: str = ""
    split: str = ""
    recalibrated: str = ""

    @property
    def barrier(self) -> float:
        """The loss barrier: the largest distance above the weighted mean of the models' own losses."""
        return self.loss.barrier

    @property
    def argmax(self) -> tuple[float, ...]:
        """The mixture of the loss barrier."""
        return self.loss.argmax

    @property
    def standard_error(self) -> float:
        """The standard error of the loss barrier, over the examples."""
        return self.loss.standard_error

    def to_json(self) -> str:
        """Everything that `from_json` needs, and the derived figures for readers."""
        derived = {c.name: _figures(c) for c in (self.loss, *self.metrics)}
        return json.dumps({**asdict(self), "summary": derived}, indent=2)

    @classmethod
    def from_json(cls, text: str | Path) -> SimplexBarrier:
        """What `to_json` wrote, from its text or from the path of a file.

        Raises:
            DataError: it is something else.
        """
        try:
            found = json.loads(text.read_text(encoding="utf-8") if isinstance(text, Path) else text)
            found.pop("summary", None)
            loss, *metrics = map(_surface, [found.pop("loss"), *found.pop("metrics")])
            names, count = tuple(map(str, found.pop("models"))), int(found.pop("examples"))
            texts = [str(found.pop(k)) for k in ("source", "split", "recalibrated")]
            if found or len(names) != loss.models:
                raise ValueError(f"unknown: {shorten(found)}" if found else "names and models do not match")
            return cls(loss, tuple(metrics), names, count, *texts)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
            where = text if isinstance(text, Path) else "the text"
            remedy = "give the JSON that `symgraph barrier A B C --json` prints"
            raise DataError(f"{where} holds no loss barrier of many models", cause=one_line(e), remedy=remedy) from e

    def plot(self, path: str | Path, *, title: str = "", overwrite: bool = False) -> Path:
        """Draw it into a PNG, SVG or PDF file: three models as a triangle, others from each model to the middle."""
        return simplex_plot((self.loss, *self.metrics), self.models, path, title=title, overwrite=overwrite)

    def __str__(self) -> str:
        names = [c.name for c in self.metrics]
        rows = [["mixture", self.loss.name, "barrier", "std.err.", *names]]
        for i, weights in enumerate(self.loss.mixtures):
            figures = (self.loss.values[i], self.loss.barriers[i], self.loss.standard_errors[i])
            rows.append(
                [mixture_text(weights), *(f"{v:.4f}" for v in (*figures, *(c.values[i] for c in self.metrics)))]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*table, "", *map(_sentence, (self.loss, *self.metrics)), self._data()])

    def _data(self) -> str:
        return data_line(self.examples, self.source, self.split, self.recalibrated)


def mixture_text(weights: tuple[float, ...]) -> str:
    """The weights of a mixture, as text."""
    return " ".join(f"{w:.3g}" for w in weights)


def _surface(found: dict[str, Any]) -> Surface:
    mixtures = tuple(tuple(map(float, m)) for m in found["mixtures"])
    values, errors = (tuple(map(float, found[k])) for k in ("values", "standard_errors"))
    models = len(mixtures[0]) if mixtures else 0
    if not models < len(mixtures) == len(values) == len(errors) or {len(m) for m in mixtures} != {models}:
        raise ValueError("the mixtures and their values do not match")
    if any(m != vertex(i, models) for i, m in enumerate(mixtures[:models])):
        raise ValueError("the models themselves do not come first")
    if not all(map(math.isfinite, (*values, *errors, *(w for m in mixtures for w in m)))):
        raise ValueError("a value is not finite")
    return Surface(str(found["name"]), mixtures, values, errors, bool(found["higher_is_better"]))


def vertex(model: int, models: int) -> tuple[float, ...]:
    """The mixture that is one model alone."""
    return tuple(float(i == model) for i in range(models))


def _figures(surface: Surface) -> dict[str, Any]:
    names = ("barriers", "barrier", "argmax", "standard_error", "interior_min", "centroid")
    return {name: getattr(surface, name) for name in names}


def _sentence(surface: Surface) -> str:
    middle = "" if surface.centroid is None else f", even mixture {surface.centroid:.4f}"
    peak = f"{surface.barrier:.4f} \u00b1 {surface.standard_error:.4f} at {mixture_text(surface.argmax)}"
    return f"{surface.name} barrier {peak} (interior minimum {surface.interior_min:.4f}{middle})"
