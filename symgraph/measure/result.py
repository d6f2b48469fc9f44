"""Losses and metrics at mixtures of models, and the barriers that follow from them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from symgraph.errors import DataError, UsageError, one_line, shorten
from symgraph.io.decode import decode
from symgraph.io.files import refuse_existing, write_text
from symgraph.io.shown import Shown, in_columns
from symgraph.measure.barrier_page import ShownPlane, to_html
from symgraph.measure.measured import Measured, mixture_text
from symgraph.measure.mixture import Mixture, vertex
from symgraph.measure.plots import barrier_plot


@dataclass(frozen=True, slots=True, repr=False)
class LossBarrier(Shown):
    """The loss, and any metrics, at mixtures of models: along the segment between two, over the simplex of more.

    `models` are their names; `recalibrated` names the data that stored statistics of mixtures were computed on, if they
    were. `remarks` say what was assumed of the data, and which models it hardly fits.
    """

    loss: Measured
    metrics: tuple[Measured, ...] = ()
    models: tuple[str, ...] = ("A", "B")
    examples: int = 0
    source: str = ""
    split: str = ""
    recalibrated: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def lambdas(self) -> tuple[float, ...]:
        """The evaluated points between two models.

        Raises:
            UsageError: there are more than two models.
        """
        return self.loss.lambdas

    @property
    def losses(self) -> tuple[float, ...]:
        """The mean loss at each mixture."""
        return self.loss.values

    @property
    def barriers(self) -> tuple[float, ...]:
        """The distance of each mixture above the weighted mean of the models' own losses."""
        return self.loss.barriers

    @property
    def barrier(self) -> float:
        """The loss barrier: the largest of the barriers."""
        return self.loss.barrier

    @property
    def argmax(self) -> Any:
        """Where the loss barrier is: a lambda of two models, a mixture of more."""
        return self.loss.argmax

    @property
    def standard_error(self) -> float:
        """The standard error of the loss barrier, over the examples."""
        return self.loss.standard_error

    @property
    def interior_min(self) -> float:
        """The smallest barrier of a mixture that is none of the models."""
        return self.loss.interior_min

    @property
    def midpoint(self) -> float | None:
        """The barrier of the even mixture, or None if it was not evaluated."""
        return self.loss.midpoint

    def metric(self, name: str) -> Measured:
        """One metric.

        Raises:
            UsageError: it was not evaluated.
        """
        for measured in self.metrics:
            if measured.name == name:
                return measured
        known = shorten(metric.name for metric in self.metrics) or "none"
        raise UsageError(f"no metric {name!r} was evaluated", cause=f"there is {known}", remedy="name it in `metrics`")

    def to_plain(self) -> dict[str, Any]:
        """Everything that `from_json` needs, and the derived figures for readers, as plain data."""
        plain: dict[str, Any] = {"loss": _plain(self.loss), "metrics": [_plain(metric) for metric in self.metrics]}
        if self.models != ("A", "B"):
            plain["models"] = list(self.models)
        plain |= {name: getattr(self, name) for name in ("examples", *_TEXTS)}
        if self.remarks:
            plain["remarks"] = list(self.remarks)
        return plain | {"summary": {quantity.name: _figures(quantity) for quantity in (self.loss, *self.metrics)}}

    def to_json(self) -> str:
        """What `to_plain` gives, as text."""
        return json.dumps(self.to_plain(), indent=2)

    @classmethod
    def from_json(cls, text: str | Path) -> LossBarrier:
        """What `to_json` wrote, from its text or from the path of a file.

        Raises:
            DataError: it is something else.
        """
        try:
            plain = json.loads(text.read_text(encoding="utf-8") if isinstance(text, Path) else text)
            return _from_plain(plain)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as e:
            where = text if isinstance(text, Path) else "the text"
            remedy = "give the JSON that `to_json` or `symgraph barrier --json` writes"
            raise DataError(f"{where} holds no loss barrier", cause=one_line(e), remedy=remedy) from e

    def plot(self, path: str | Path, *, title: str = "", overwrite: bool = False) -> Path:
        """Draw it into a PNG, SVG or PDF file.

        Two models give curves, three a triangle, more the way from each model to the even mixture.
        """
        return barrier_plot({self.loss.name: self}, path, title=title, overwrite=overwrite)

    def save_html(
        self,
        path: str | Path,
        *,
        label: str = "",
        beside: Mapping[str, LossBarrier] | None = None,
        plane: ShownPlane | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Writes a page that opens from disk: curves with error bands, or the simplex, and all figures in tables.

        Args:
            label: what it is called; by default its loss.
            beside: further results of two models, by their labels, in the same picture.
            plane: the loss on the plane through the three models.

        Raises:
            OutputError: something is there and `overwrite` is not set, or it cannot be written.
            UsageError: results of more than two models beside others.
        """
        refuse_existing(path, overwrite, folder=False)
        return write_text(path, to_html({label or self.loss.name: self, **(beside or {})}, plane), overwrite)

    def __str__(self) -> str:
        names = [metric.name for metric in self.metrics]
        rows = [["lambda" if self.loss.models == 2 else "mixture", self.loss.name, "barrier", "std.err.", *names]]
        columns = (self.losses, self.barriers, self.loss.standard_errors, *(metric.values for metric in self.metrics))
        for place, *figures in zip(self.loss.places, *columns, strict=True):
            rows.append([_place_text(place), *(f"{figure:.4f}" for figure in figures)])
        return "\n".join(
            [in_columns(rows, left=0), "", *map(str, (self.loss, *self.metrics)), self._data(), *self.remarks]
        )

    def _data(self) -> str:
        """What was measured on."""
        where = f"{f' of {self.source}' if self.source else ''}{f', split {self.split}' if self.split else ''}"
        statistics = f", statistics of {self.recalibrated}" if self.recalibrated else ""
        return f"over {self.examples} examples{where}{statistics}"


_TEXTS = ("source", "split", "recalibrated")


def _place_text(place: float | Mixture) -> str:
    return mixture_text(place) if isinstance(place, tuple) else f"{place:.3f}"


def _figures(measured: Measured) -> dict[str, Any]:
    names = ("barriers", "barrier", "argmax", "standard_error", "interior_min")
    middle = "midpoint" if measured.models == 2 else "centroid"
    return {name: getattr(measured, name) for name in names} | {middle: measured.midpoint}


def _plain(measured: Measured) -> dict[str, Any]:
    """With lambdas in the place of mixtures, where there are two models."""
    plain = asdict(measured)
    mixtures = plain.pop("mixtures")
    where = {"lambdas": measured.places} if measured.models == 2 else {"mixtures": mixtures}
    return {"name": plain.pop("name"), **where, **plain}


def _from_plain(plain: dict[str, Any]) -> LossBarrier:
    # What follows from the rest, for readers.
    plain.pop("summary", None)
    for quantity in (plain["loss"], *plain["metrics"]):
        if "lambdas" in quantity:
            quantity["mixtures"] = [[1 - share, share] for share in quantity.pop("lambdas")]
    result = decode(LossBarrier, {"examples": plain["examples"], **plain})
    for measured in (result.loss, *result.metrics):
        _check(measured, len(result.models))
    return result


def _check(measured: Measured, models: int) -> None:
    if not models < len(measured.mixtures) == len(measured.values) == len(measured.standard_errors):
        raise ValueError("the points and their values do not match")
    if measured.value_errors and len(measured.value_errors) != len(measured.values):
        raise ValueError("the values and their standard errors do not match")
    if {len(weights) for weights in measured.mixtures} != {models}:
        raise ValueError("names and models do not match")
    figures = chain(measured.values, measured.standard_errors, measured.value_errors, *measured.mixtures)
    if not all(map(math.isfinite, figures)):
        raise ValueError("a value is not finite")
    lambdas = [weights[1] for weights in measured.mixtures]
    ends, ascends = (lambdas[0], lambdas[-1]), all(here < there for here, there in pairwise(lambdas))
    if models == 2 and (ends != (0.0, 1.0) or not ascends):
        raise ValueError("the points do not ascend from 0 to 1")
    if models > 2 and any(weights != vertex(model, models) for model, weights in enumerate(measured.mixtures[:models])):
        raise ValueError("the models themselves do not come first")
