"""What is measured at mixtures of models, whether on a segment or on a simplex: endpoints, batches, standard errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import CheckpointError, DataError, UsageError, one_line, shorten
from symgraph.io.checkpoint import canonical_state, check_same_architecture, read_state
from symgraph.io.data import from_batches
from symgraph.io.models import Model
from symgraph.measure.evaluate import Evaluator, Mixtures, ProductMixtures, Progress, Sample
from symgraph.measure.losses import LOSS, Metric, PerExample, named_loss, named_metrics
from symgraph.rules.book import RuleBook
from symgraph.symmetry.graph import SymmetryGraph

Endpoint = Model | nn.Module | Mapping[str, Tensor]


class Survey:
    """The mixtures visited so far, the models first; of the samples only those of the models are kept."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.ends: list[dict[str, Sample]] = []
        self.found: dict[tuple[float, ...], dict[str, tuple[float, float]]] = {}
        self.curves: dict[str, Metric | None] = {LOSS: None, **evaluator.metrics}

    def visit(self, weights: tuple[float, ...], where: str) -> None:
        """Evaluate one mixture, which messages call `where`."""
        samples = self.evaluator.at(weights, where)
        if len(self.ends) < len(weights):
            self.ends.append(samples)
        self.found[weights] = {name: self._summary(samples, weights, name, m) for name, m in self.curves.items()}

    def names(self) -> list[tuple[str, str]]:
        """Every quantity, the loss first: its key, and what it is called."""
        return [(key, self.evaluator.loss_name if key == LOSS else key) for key in self.curves]

    def higher_is_better(self, key: str) -> bool:
        """Whether a quantity is to be large."""
        metric = self.curves[key]
        return metric.higher_is_better if metric else False

    def _summary(
        self, samples: Mapping[str, Sample], weights: tuple[float, ...], name: str, metric: Metric | None
    ) -> tuple[float, float]:
        """The value of one quantity, and the standard error of its distance from the mean of the models'."""
        key = name if name in samples else LOSS
        found = samples[key]
        value = metric.summary(found.mean) if metric else found.mean
        if max(weights) == 1.0:
            return value, 0.0
        # A transform of the mean is, near each of the means, its slope there times the values.
        found, *ends = (s.scaled(_slope(metric, s.mean)) for s in (found, *(e[key] for e in self.ends)))
        return value, found.standard_error(ends, weights)


def evaluator_of(
    network: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    data: Any,
    points: int,
    loss: str | PerExample,
    metrics: Any,
    device: str | torch.device,
    dtype: torch.dtype | None,
    progress: Progress | None,
    recalibrate: Iterable[Any] | None,
    product: tuple[SymmetryGraph, RuleBook] | None = None,
) -> Evaluator:
    """What evaluates mixtures of these states, with `product` in product form; `points` mixtures are expected.

    Raises:
        UsageError: the loss, a metric or the device do not exist, or statistics would be recalibrated in product form.
        DataError: there are no batches to recalibrate on.
    """
    training = None if recalibrate is None else repeatable(recalibrate, "to recalibrate on")
    if product is not None and training is not None:
        remedy = "leave out one of the two"
        raise UsageError("statistics are not recalibrated in product form", remedy=remedy)
    mixtures: Mixtures | ProductMixtures
    if product is None:
        mixtures = Mixtures(network, states, _device(device), dtype, own=training is not None)
    else:
        mixtures = ProductMixtures(*product, network, states, _device(device), dtype)
    total = points * len(data)
    return Evaluator(network, data, named_loss(loss), named_metrics(metrics), mixtures, progress, total, training)


def described(data: Any) -> tuple[str, str]:
    """Where data is from, and which split of it, as far as it says so."""
    return getattr(data, "source", ""), getattr(data, "split", "")


def repeatable(batches: Iterable[Any], what: str = "to evaluate on") -> Any:
    """The batches themselves if they can be gone through again, or all of them held in memory.

    Raises:
        DataError: there are none.
    """
    if isinstance(batches, Iterator | Mapping | Tensor | str):
        return list(from_batches(batches))
    try:
        count = len(batches)  # type: ignore[arg-type]
    except TypeError:
        return list(from_batches(batches))
    if not count:
        raise DataError(f"no batches {what}", remedy="check the length of the data loader")
    return batches


def network_of(endpoints: Sequence[Endpoint], module: nn.Module | None) -> nn.Module:
    """The network that is evaluated: `module`, or that of the first endpoint that has one.

    Raises:
        UsageError: none of them has one.
        CheckpointError: models are of different architectures, or the network has buffers without values.
    """
    models = [e for e in endpoints if isinstance(e, Model)]
    for other in models[1:]:
        check_same_architecture(models[0], other)
    candidates = (module, *(e.module if isinstance(e, Model) else e for e in endpoints))
    found = next((c for c in candidates if isinstance(c, nn.Module)), None)
    if found is None:
        many = "two" if len(endpoints) == 2 else str(len(endpoints))
        raise UsageError(f"{many} states do not say which network they belong to", remedy="pass it as module=")
    saved = found.state_dict()
    if any(t.is_meta for n, t in found.named_buffers() if n not in saved):
        remedy = "pass a module built with weights"
        raise CheckpointError("the network has buffers without values", cause="it was built without", remedy=remedy)
    return found


def endpoint_state(endpoint: Endpoint, network: nn.Module, name: str) -> Mapping[str, Tensor]:
    """The state of an endpoint, which messages call `name`.

    Raises:
        CheckpointError: it does not fit the network, or has no weights.
    """
    if isinstance(endpoint, Model):
        state: Mapping[str, Tensor] = read_state(endpoint)
    else:
        state = endpoint.state_dict() if isinstance(endpoint, nn.Module) else endpoint
    state = canonical_state(network, state, name)
    if empty := [n for n, t in state.items() if t.is_meta]:
        raise CheckpointError(
            f"{name} has no weights", cause=f"no values for {shorten(empty)}", remedy="load it with weights"
        )
    return state


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as e:
        raise UsageError(f"device {device} cannot be used", cause=one_line(e), remedy="pass --device cpu") from e


def _slope(metric: Metric | None, mean: float) -> float:
    if metric is None or metric.transform is None:
        return 1.0
    step = 1e-6 * max(1.0, abs(mean))
    try:
        return (metric.transform(mean + step) - metric.transform(mean - step)) / (2 * step)
    except (ValueError, ArithmeticError):
        # At the border of where the transform is defined, such as a square root at zero.
        return (metric.transform(mean + step) - metric.transform(mean)) / step
