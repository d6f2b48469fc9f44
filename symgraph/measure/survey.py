"""Quantities at mixtures of models, and the standard errors of their distances from the models' own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from symgraph.io.data import batch_length
from symgraph.measure.batches import Passes, batch_tensors
from symgraph.measure.chance import Chance
from symgraph.measure.grid import refined
from symgraph.measure.losses import LOSS, Metric, cross_entropy
from symgraph.measure.measured import Measured, mixture_text
from symgraph.measure.mixture import Mixture, Mixtures, is_vertex, vertex
from symgraph.measure.objective import Objective, Sample
from symgraph.measure.product_form import ProductMixtures
from symgraph.measure.recalibrate import Spreads, mean_of, recalibrate_, spreads_of
from symgraph.measure.result import LossBarrier
from symgraph.tracing.progress import Progress, tell
from symgraph.tracing.wrap import evaluating

_log = logging.getLogger(__name__)
_CHANCE = "chance"


class Survey:
    """The mixtures visited so far, the models first; of the samples only those of the models are kept.

    Args:
        data: the same batches in every pass; `training` those that statistics of norms are computed on at mixtures.
        progress: is told which of how many batches is done.
        finite: whether a value that is not finite is an error.
        like: a survey of models that compute the same: what these have by themselves is not measured again.
    """

    def __init__(
        self,
        objective: Objective,
        point: Mixtures | ProductMixtures,
        data: Any,
        training: Any = None,
        progress: Progress | None = None,
        finite: bool = True,
        like: Survey | None = None,
    ) -> None:
        self.finite = finite
        self.objective, self.point, self.data, self.training = objective, point, data, training
        self.progress, self.done, self.total = progress, 0, 0
        self.passes, self.examples, self.chance = Passes(), 0, Chance()
        self.ends: list[dict[str, Sample]] = []
        self.spreads: list[Spreads] = []
        self.found: dict[Mixture, dict[str, tuple[float, float, float]]] = {}
        if like is not None:
            self.passes, self.ends = like.passes, like.ends
            self.found = {mixture: figures for mixture, figures in like.found.items() if is_vertex(mixture)}

    def visit_all(self, places: Sequence[Mixture], refinements: int = 0) -> None:
        """Evaluate the models and mixtures of them, and then so many more around the largest barrier of two.

        Raises:
            DataError: the batches do not fit the model, are other ones than before, or a value is not finite.
        """
        self.total = (len(places) + refinements) * len(self.data)
        if self.training is not None:
            between = [weights for weights in places if not is_vertex(weights)]
            self.total += (len(between) + (len(between[0]) if between else 0)) * len(self.training)
            self.total += refinements * len(self.training)
        with evaluating(self.objective.network):
            for weights in places:
                self._visit(weights)
            for _ in range(refinements):
                so_far = self.measured()
                self._visit(refined(so_far.lambdas, so_far.barriers))

    def result(self, models: tuple[str, ...]) -> LossBarrier:
        """All that was measured, of models with these names."""
        source, split = (str(getattr(self.data, name, "")) for name in ("source", "split"))
        statistics = (
            str(getattr(self.training, "source", "") or "the training data") if self.training is not None else ""
        )
        metrics = tuple(map(self.measured, self.objective.metrics))
        remarks = (*getattr(self.data, "remarks", ()), *self.chance.remarks(models if self.chance.hits else ()))
        return LossBarrier(self.measured(), metrics, models, self.examples, source, split, statistics, remarks)

    def _visit(self, weights: Mixture) -> None:
        where = f"lambda {weights[1]:g}" if len(weights) == 2 else f"mixture {mixture_text(weights)}"
        self._move_to(weights)
        own = len(self.ends) < len(weights)
        samples = self._samples(where, watched=own and self.objective.quantities[LOSS] is cross_entropy)
        if own:
            self.ends.append(samples)
        self.found[weights] = {name: self._summary(samples, weights, name) for name in self._quantities}

    def _move_to(self, weights: Mixture) -> None:
        """To a mixture, with statistics of its own; a model itself has those of its own training."""
        if self.training is None or is_vertex(weights) or not isinstance(self.point, Mixtures):
            self.point.move_to(weights)
            return
        wanted = mean_of(self._spreads(self.point, len(weights)), weights)
        self.point.move_to(weights)
        recalibrate_(self.objective.network, self.point.tensors, self._told(self.training), wanted)

    def _spreads(self, point: Mixtures, models: int) -> list[Spreads]:
        """How norms spread what they hand on, of every model."""
        for model in range(len(self.spreads), models):
            point.move_to(vertex(model, models))
            self.spreads.append(spreads_of(self.objective.network, point.tensors, self._told(self.training)))
        return self.spreads

    def _samples(self, where: str, *, watched: bool) -> dict[str, Sample]:
        """All quantities; of a model itself it is counted what it guesses."""
        if not watched:
            return self.objective.samples(self.point, self._pass(), where, finite=self.finite)
        self.chance.begin()
        with self.objective.beside(_CHANCE, self.chance):
            return self.objective.samples(self.point, self._pass(), where)

    def _pass(self) -> Iterator[Any]:
        """The batches once more, counted."""
        self.examples = 0
        for raw in self._told(self.passes.over(self.data)):
            yield raw
            self.examples += batch_length(batch_tensors(raw))

    def _told(self, batches: Iterable[Any]) -> Iterator[Any]:
        for raw in batches:
            yield raw
            self.done += 1
            tell(_log, self.progress, f"batch {self.done} of {self.total}", self.done, self.total)

    @property
    def _quantities(self) -> dict[str, Metric | None]:
        return {LOSS: None, **self.objective.metrics}

    def measured(self, name: str = LOSS) -> Measured:
        """One quantity at all mixtures visited; those of two models by their place on the segment."""
        line = len(self.ends) == 2
        mixtures = tuple(sorted(self.found, key=lambda mixture: mixture[1]) if line else self.found)
        values, errors, alone = zip(*(self.found[mixture][name] for mixture in mixtures), strict=True)
        metric = self._quantities[name]
        called = self.objective.loss_name if name == LOSS else name
        return Measured(called, mixtures, values, errors, metric.higher_is_better if metric else False, alone)

    def _summary(self, samples: Mapping[str, Sample], weights: Mixture, name: str) -> tuple[float, float, float]:
        """One quantity, the standard error of its distance from the mean of the models', and that of itself."""
        metric, key = self._quantities[name], name if name in samples else LOSS
        here = samples[key]
        value = metric.summary(here.mean) if metric else here.mean
        # A transform of the mean is, near each of the means, its slope there times the values.
        here, *ends = (
            sample.scaled(_slope(metric, sample.mean)) for sample in (here, *(end[key] for end in self.ends))
        )
        alone = here.standard_error((), ())
        return value, 0.0 if is_vertex(weights) else here.standard_error(ends, weights), alone


def _slope(metric: Metric | None, mean: float) -> float:
    if metric is None or metric.transform is None:
        return 1.0
    step = 1e-6 * max(1.0, abs(mean))
    try:
        return (metric.transform(mean + step) - metric.transform(mean - step)) / (2 * step)
    except (ValueError, ArithmeticError):
        # At the border of where the transform is defined, such as a square root at zero.
        return (metric.transform(mean + step) - metric.transform(mean)) / step
