"""Losses and metrics along the segment between two models, and the barriers that follow from them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from symgraph.errors import DataError, UsageError, one_line, shorten
from symgraph.measure.curve import Curve
from symgraph.measure.plots import barrier_plot


@dataclass(frozen=True, slots=True)
class LossBarrier:
    """The loss, and any metrics, along the segment between two models.

    `recalibrated` names the data that stored statistics between the models were computed on, if they were.
    """

    loss: Curve
    metrics: tuple[Curve, ...] = ()
    examples: int = 0
    source: str = ""
    split: str = ""
    recalibrated: str = ""

    @property
    def lambdas(self) -> tuple[float, ...]:
        """The evaluated points."""
        return self.loss.lambdas

    @property
    def losses(self) -> tuple[float, ...]:
        """The mean loss at each point."""
        return self.loss.values

    @property
    def barriers(self) -> tuple[float, ...]:
        """B_lambda at each point."""
        return self.loss.barriers

    @property
    def barrier(self) -> float:
        """The loss barrier: the largest B_lambda."""
        return self.loss.barrier

    @property
    def argmax(self) -> float:
        """The lambda of the largest B_lambda."""
        return self.loss.argmax

    @property
    def standard_error(self) -> float:
        """The standard error of the loss barrier, over the examples."""
        return self.loss.standard_error

    @property
    def interior_min(self) -> float:
        """The smallest B_lambda strictly between the endpoints."""
        return self.loss.interior_min

    @property
    def midpoint(self) -> float | None:
        """B_lambda at one half, or None if that point was not evaluated."""
        return self.loss.midpoint

    def metric(self, name: str) -> Curve:
        """The curve of one metric.

        Raises:
            UsageError: it was not evaluated.
        """
        for curve in self.metrics:
            if curve.name == name:
                return curve
        known = shorten(c.name for c in self.metrics) or "none"
        raise UsageError(f"no metric {name!r} was evaluated", cause=f"there is {known}", remedy="name it in `metrics`")

    def to_json(self) -> str:
        """Everything that `from_json` needs, and the derived figures for readers."""
        derived = {c.name: _figures(c) for c in (self.loss, *self.metrics)}
        return json.dumps({**asdict(self), "summary": derived}, indent=2)

    @classmethod
    def from_json(cls, text: str | Path) -> LossBarrier:
        """What `to_json` wrote, from its text or from the path of a file.

        Raises:
            DataError: it is something else.
        """
        try:
            found = json.loads(text.read_text(encoding="utf-8") if isinstance(text, Path) else text)
            found.pop("summary", None)
            loss, *metrics = map(_curve, [found.pop("loss"), *found.pop("metrics")])
            count, source, split = (found.pop(k) for k in ("examples", "source", "split"))
            recalibrated = found.pop("recalibrated", "")
            if found:
                raise ValueError(f"unknown: {shorten(found)}")
            return cls(loss, tuple(metrics), int(count), str(source), str(split), str(recalibrated))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as e:
            where = text if isinstance(text, Path) else "the text"
            remedy = "give the JSON that `symgraph barrier --json` prints"
            raise DataError(f"{where} holds no loss barrier", cause=one_line(e), remedy=remedy) from e

    def plot(self, path: str | Path, *, title: str = "", overwrite: bool = False) -> Path:
        """Draw the curves into a PNG, SVG or PDF file."""
        return barrier_plot({self.loss.name: self}, path, title=title, overwrite=overwrite)

    def __str__(self) -> str:
        names = [c.name for c in self.metrics]
        rows = [["lambda", self.loss.name, "barrier", "std.err.", *names]]
        for i, x in enumerate(self.lambdas):
            figures = (self.losses[i], self.barriers[i], self.loss.standard_errors[i])
            rows.append([f"{x:.3f}", *(f"{v:.4f}" for v in (*figures, *(c.values[i] for c in self.metrics)))])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*table, "", *map(_sentence, (self.loss, *self.metrics)), self._data()])

    def _data(self) -> str:
        return data_line(self.examples, self.source, self.split, self.recalibrated)


def data_line(examples: int, source: str, split: str, recalibrated: str) -> str:
    """What was measured on, as a line of text."""
    where = f"{f' of {source}' if source else ''}{f', split {split}' if split else ''}"
    return f"over {examples} examples{where}{f', statistics of {recalibrated}' if recalibrated else ''}"


def _curve(found: dict[str, Any]) -> Curve:
    lambdas, values, errors = (tuple(map(float, found[k])) for k in ("lambdas", "values", "standard_errors"))
    if not len(lambdas) == len(values) == len(errors) > 2:
        raise ValueError("the points and their values do not match")
    if (lambdas[0], lambdas[-1]) != (0.0, 1.0) or any(x >= y for x, y in pairwise(lambdas)):
        raise ValueError("the points do not ascend from 0 to 1")
    if not all(map(math.isfinite, (*lambdas, *values, *errors))):
        raise ValueError("a value is not finite")
    return Curve(str(found["name"]), lambdas, values, errors, bool(found["higher_is_better"]))


def _figures(curve: Curve) -> dict[str, Any]:
    names = ("barriers", "barrier", "argmax", "standard_error", "interior_min", "midpoint")
    return {name: getattr(curve, name) for name in names}


def _sentence(curve: Curve) -> str:
    middle = "" if curve.midpoint is None else f", midpoint {curve.midpoint:.4f}"
    peak = f"{curve.barrier:.4f} \u00b1 {curve.standard_error:.4f} at lambda {curve.argmax:.3f}"
    return f"{curve.name} barrier {peak} (interior minimum {curve.interior_min:.4f}{middle})"
