"""The loss, and other quantities, of every example through one network at tensors in the place of its own.

One engine for all that is measured or trained: points between models, candidates of a match, steps of learned matching.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import DataError, argument, either, one_line, shorten
from symgraph.io.data import batch_length
from symgraph.measure.batches import Batch, placed
from symgraph.measure.forward import Point, usual_dtype
from symgraph.measure.losses import (
    LOSS,
    Metrics,
    Named,
    NoLossFits,
    PerExample,
    Scored,
    model_loss,
    named_loss,
    named_metrics,
    scored,
)
from symgraph.measure.mixture import Mixtures, vertex

_REMEDY = "check that the data is the kind the model takes (shapes, vocabulary, number of classes)"


@dataclass(frozen=True, slots=True)
class Sample:
    """One quantity at one point: a value and a weight for every example."""

    values: Tensor
    weights: Tensor

    @property
    def mean(self) -> float:
        """The weighted mean."""
        return float((self.values * self.weights).sum() / self.weights.sum())

    def scaled(self, factor: float) -> Sample:
        """The same with every value times a factor."""
        return Sample(self.values * factor, self.weights)

    def standard_error(self, ends: Sequence[Sample], weights: Sequence[float]) -> float:
        """Of the mean of each example's own distance from the weighted mean of what it has at the ends."""
        distance = self.values - sum(weight * end.values for end, weight in zip(ends, weights, strict=True))
        share = self.weights / self.weights.sum()
        count = int((share > 0).sum())
        if count < 2:
            return 0.0
        spread = (share * (distance - (share * distance).sum())).square().sum()
        return float((spread * count / (count - 1)).sqrt())


class Objective:
    """The loss of a network's outputs and a batch, and metrics beside it, example by example.

    `loss` is a name or a function as for `loss_barrier`; where no such loss fits, the network's own is used. `dtype` is
    the precision of floating inputs where tensors are given that do not say it.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Named = "cross-entropy",
        dtype: torch.dtype | None = None,
        metrics: Metrics = (),
    ) -> None:
        self.network, self.dtype = network, dtype
        self.loss_name, loss_of = named_loss(loss)
        self.metrics = named_metrics(metrics)
        self.quantities = {
            LOSS: loss_of,
            **{name: metric.per_example for name, metric in self.metrics.items() if metric.per_example},
        }

    @contextmanager
    def beside(self, name: str, quantity: PerExample) -> Iterator[None]:
        """With one more quantity."""
        before = self.quantities
        self.quantities = {**before, name: quantity}
        try:
            yield
        finally:
            self.quantities = {**before, LOSS: self.quantities[LOSS]}

    def scores(self, point: Point, batch: Batch, where: str) -> dict[str, Scored]:
        """Every quantity of every example of a batch, differentiable in the tensors of the point.

        Raises:
            DataError: the batch does not fit the model, or no loss fits its outputs.
        """
        try:
            outputs, loss = self._loss(point, batch)
            others = {name: quantity for name, quantity in self.quantities.items() if name != LOSS}
            return {LOSS: loss, **{name: scored(quantity(outputs, batch), batch) for name, quantity in others.items()}}
        except NoLossFits as e:
            cause = f"{e}; the batch has {shorten(batch)}"
            column = f"name the column of the labels, {argument('label_column', 'NAME')}"
            remedy = either("call the labels `labels`, or pass a function of outputs and batch", column)
            raise DataError(f"{where}: no loss or metric fits", cause=cause, remedy=remedy) from e
        except (IndexError, RuntimeError, ValueError, TypeError) as e:
            raise DataError(f"{where}: the model cannot be evaluated", cause=one_line(e), remedy=_REMEDY) from e

    def _loss(self, point: Point, batch: Batch) -> tuple[Any, Scored]:
        own = self.quantities[LOSS] is model_loss
        outputs = point.outputs(batch, labels=own)
        try:
            return outputs, scored(self.quantities[LOSS](outputs, batch), batch)
        except NoLossFits:
            if own or not ("labels" in batch and "labels" in point.accepted):
                raise
        self.loss_name, self.quantities[LOSS] = "model", model_loss
        return self._loss(point, batch)

    def mean(self, tensors: Mapping[str, Tensor], raw: Any, where: str) -> tuple[Tensor, float]:
        """The mean loss of a batch (a scalar that keeps its graph), and how much it weighs among other batches.

        Raises:
            DataError: the batch does not fit the model, or no loss fits its outputs.
        """
        point = Point(self.network, tensors, self.dtype)
        values, weights = self.scores(point, placed(raw, point.device, self.dtype), where)[LOSS]
        share = weights.sum()
        mean = values[0] if len(values) == 1 else (values * weights).sum() / share.clamp(min=1e-30)
        return mean, float(share)

    def samples(self, point: Point, batches: Iterable[Any], where: str, *, finite: bool = True) -> dict[str, Sample]:
        """Every quantity of all examples, without derivatives.

        Raises:
            DataError: there are none, they do not fit the model, or (if `finite`) a value is not finite.
        """
        scores: dict[str, list[Scored]] = {name: [] for name in self.quantities}
        examples = 0
        for number, raw in enumerate(batches):
            batch = placed(raw, point.device, point.dtype)
            examples += batch_length(batch)
            # Only here: what a loader makes and keeps must stay usable for training.
            with torch.inference_mode():
                results = self.scores(point, batch, f"{where}, batch {number}")
            for name, result in results.items():
                scores[name].append(result)
        if not examples:
            raise DataError("no examples to evaluate on", remedy="check the length of the data")
        if finite:
            for name, parts in scores.items():
                _require_finite(parts, f"the {name} is not finite at {where}")
        return {name: _joined(parts, f"the {name} at {where}") for name, parts in scores.items()}

    def over(self, tensors: Mapping[str, Tensor], batches: Iterable[Any], where: str) -> float:
        """The mean loss over all batches.

        Raises:
            DataError: there are none, or they do not fit the model.
        """
        return self.samples(Point(self.network, tensors, self.dtype), batches, where, finite=False)[LOSS].mean


class EvenMixture:
    """The loss barrier of the even mixture of models, whose own losses do not depend on how they are matched."""

    def __init__(self, objective: Objective, states: Sequence[Mapping[str, Tensor]], batches: Any, where: str) -> None:
        self.objective, self.batches, self.where = objective, batches, where
        models = len(states)
        ends = self._losses(states, [vertex(model, models) for model in range(models)])
        self.chord = sum(ends) / models

    def barrier(self, states: Sequence[Mapping[str, Tensor]]) -> float:
        """The loss of the mean of the models over the mean of their losses; infinite where it is not finite."""
        (middle,) = self._losses(states, [(1 / len(states),) * len(states)])
        return middle - self.chord if math.isfinite(middle) else math.inf

    def _losses(self, states: Sequence[Mapping[str, Tensor]], mixtures: Sequence[tuple[float, ...]]) -> list[float]:
        network = self.objective.network
        device = next(iter(states[0].values())).device
        point = Mixtures(network, states, device, usual_dtype(network))
        return [self._loss(point, weights) for weights in mixtures]

    def _loss(self, point: Mixtures, weights: tuple[float, ...]) -> float:
        point.move_to(weights)
        return self.objective.samples(point, self.batches, self.where, finite=False)[LOSS].mean


def _require_finite(parts: Sequence[Scored], what: str) -> None:
    for number, (values, weights) in enumerate(parts):
        bad = ~values.isfinite() & (weights != 0)
        if bool(bad.any()):
            raise DataError(
                f"{what}, batch {number}",
                cause=f"{int(bad.sum())} of {len(values)} values are NaN or infinite",
                remedy="evaluate in a wider dtype, and look for NaN or huge values in that batch",
            )


def _joined(parts: Sequence[Scored], what: str) -> Sample:
    """The values of all batches, those without weight as zeros."""
    values, weights = (torch.cat(each).double() for each in zip(*parts, strict=True))
    if not bool((weights > 0).any()):
        cause = "no example has a weight, as where every label is one that is ignored"
        raise DataError(f"{what} is that of nothing", cause=cause, remedy="check the labels")
    return Sample(values.where(weights != 0, 0.0), weights)
