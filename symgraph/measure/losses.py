"""Losses and metrics per example, from the outputs of a model and its batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from symgraph.errors import UsageError, either
from symgraph.io.columns import IGNORED
from symgraph.io.example import LABEL_KEYS
from symgraph.measure.own_function import OwnFunction

LOSS = "loss"
# Probabilities of all classes for each example, in the place of labels.
SOFT = "soft_labels"
# The same of the next token at each position: (N, T, C).
SOFT_NEXT = "soft_next_tokens"

Scored = tuple[Tensor, Tensor]
"""Values of the examples and their weights, both (N,): for sequences the weight is the number of counted tokens."""

PerExample = Callable[[Any, Mapping[str, Tensor]], "Tensor | Scored"]


class NoLossFits(Exception):
    """The outputs and the batch do not say what the loss is."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A quantity per example beside the loss; without `per_example` it is a transform of the mean loss."""

    per_example: PerExample | None
    higher_is_better: bool = True
    transform: Callable[[float], float] | None = None

    def summary(self, mean: float) -> float:
        """The metric of all examples, from the mean over them."""
        return self.transform(mean) if self.transform else mean


def cross_entropy(outputs: Any, batch: Mapping[str, Tensor]) -> Scored:
    """Cross-entropy of integer labels or of probabilities, or the squared error of floating-point labels.

    Labels that repeat the `input_ids` are those of a causal language model: each position predicts the next token.
    Probabilities are `soft_labels` of examples, or `soft_next_tokens` of what comes after each position.

    Shapes:
        logits (N, C), (N, T, C) or (N, C, ...) with labels (N,), (N, T) or (N, ...); floats: both alike.

    Raises:
        NoLossFits: there are no logits or labels, or their shapes do not go together.
    """
    logits, labels = logits_of(outputs), _labels(batch)
    if SOFT in batch:
        return scored(functional.cross_entropy(logits, batch[SOFT].to(logits), reduction="none"), batch)
    if SOFT_NEXT in batch:
        return scored(-(batch[SOFT_NEXT].to(logits) * logits.log_softmax(-1)).sum(-1), batch)
    if labels is not None and labels.is_floating_point():
        return _squared_error(logits, labels)
    flat, targets = _flat_targets(logits, labels, batch)
    losses = functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="none")
    return _per_example(losses, targets)


def accuracy(outputs: Any, batch: Mapping[str, Tensor]) -> Scored:
    """The share of labels, or of next tokens, that have the largest logit.

    Shapes:
        as for `cross_entropy`.

    Raises:
        NoLossFits: as for `cross_entropy`.
    """
    given, targets = guesses(outputs, batch)
    return _per_example((given == targets).flatten().to(torch.get_default_dtype()), targets)


def guesses(outputs: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Where the largest logit is, and where it should be (`IGNORED` where nothing counts), of one shape.

    Raises:
        NoLossFits: as for `cross_entropy`.
    """
    labels = _labels(batch)
    if labels is not None and labels.is_floating_point():
        raise NoLossFits("accuracy needs class numbers, and the labels are floats")
    flat, targets = _flat_targets(logits_of(outputs), labels, batch)
    return flat.argmax(-1).view(targets.shape), targets


def model_loss(outputs: Any, batch: Mapping[str, Tensor]) -> Scored:
    """The loss that the model itself returns: one value for the batch.

    Raises:
        NoLossFits: the outputs have none.
    """
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if loss is None:
        raise NoLossFits("the model returns no loss")
    return scored(loss, batch)


def mean_squared_error(outputs: Any, batch: Mapping[str, Tensor]) -> Scored:
    """The squared error of numbers.

    Shapes:
        outputs and labels alike.

    Raises:
        NoLossFits: there are no labels, or their shape is another one.
    """
    labels = _labels(batch)
    if labels is None:
        raise NoLossFits("the batch has no labels")
    outputs = logits_of(outputs)
    return _squared_error(outputs, labels.to(outputs.dtype))


Named = str | Callable[..., Any]
"""A loss or a metric by name, or a user's own function of outputs and labels, or of outputs and the batch."""
Metrics = Named | Iterable[Named] | Mapping[str, Callable[..., Any] | Metric] | None

LOSSES: dict[str, PerExample] = {"cross-entropy": cross_entropy, "mse": mean_squared_error, "model": model_loss}
METRICS = {
    "accuracy": Metric(accuracy),
    "perplexity": Metric(None, higher_is_better=False, transform=lambda mean: math.exp(min(mean, 700.0))),
}
_OWN = (cross_entropy, mean_squared_error, model_loss, accuracy)


def named_loss(loss: Named | Any) -> tuple[str, PerExample]:
    """A loss and its name, from either.

    Raises:
        UsageError: there is no such loss.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise UsageError(
                f"no loss {loss!r}", remedy=f"use one of {', '.join(LOSSES)}" + either(", or pass a function", "")
            )
        return loss, LOSSES[loss]
    if not callable(loss):
        what = f"a {type(loss).__name__} is no loss"
        raise UsageError(what, remedy=f"use one of {', '.join(LOSSES)}, or a function of outputs and labels")
    if loss in _OWN:
        return next((name for name, known in LOSSES.items() if known is loss), "accuracy"), loss
    own = OwnFunction(loss)
    return own.name, own


def named_metrics(metrics: Metrics) -> dict[str, Metric]:
    """Metrics under their names, from names and functions, or from a mapping to functions or `Metric`s.

    Raises:
        UsageError: there is no such metric, or its name is taken.
    """
    if not isinstance(metrics, Mapping):
        single = isinstance(metrics, str) or callable(metrics)
        listed = [metrics] if single else list(metrics or ())  # type: ignore[arg-type]
        return named_metrics(dict(map(_named_metric, listed)))
    if LOSS in metrics:
        raise UsageError(f"a metric cannot be called {LOSS!r}", remedy="give it another name")
    return {
        name: metric if isinstance(metric, Metric) else Metric(metric if metric in _OWN else OwnFunction(metric))
        for name, metric in metrics.items()
    }


def _named_metric(given: Any) -> tuple[str, Metric]:
    if isinstance(given, str) and given in METRICS:
        return given, METRICS[given]
    if not isinstance(given, str) and callable(given):
        own = OwnFunction(given)
        return own.name if own.name != LOSS else "metric", Metric(given if given in _OWN else own)
    remedy = f"use {', '.join(METRICS)}" + either(", a function, or a mapping from names to functions", "")
    raise UsageError(f"no metric {given!r}", remedy=remedy)


def scored(result: Any, batch: Mapping[str, Tensor]) -> Scored:
    """Values and weights of a batch; a single value for the whole batch weighs as much as its examples.

    Raises:
        NoLossFits: values and weights are not of one length.
    """
    if isinstance(result, tuple):
        values, weights = map(torch.as_tensor, result)
        if values.ndim != 1 or values.shape != weights.shape:
            shapes = f"values {tuple(values.shape)} with weights {tuple(weights.shape)}"
            raise NoLossFits(f"{shapes} are not one of each for an example")
        return values, weights
    values = torch.as_tensor(result)
    # Counts beyond 256 have no place in the halves.
    values = values if values.is_floating_point() and values.dtype.itemsize > 2 else values.float()
    if values.ndim:
        values = values.flatten(1).mean(1) if values.ndim > 1 else values
        return values, torch.ones_like(values)
    length = next((len(tensor) for tensor in batch.values() if tensor.ndim), 1)
    return values[None], torch.full_like(values[None], length)


def logits_of(outputs: Any) -> Tensor:
    """The logits among the outputs of a model: they themselves, the first of several, or what is called so.

    Raises:
        NoLossFits: there are none.
    """
    logits = outputs
    if isinstance(outputs, Mapping):
        logits = outputs.get("logits")
    elif isinstance(outputs, tuple) and outputs:
        logits = outputs[0]
    elif not isinstance(outputs, Tensor):
        logits = getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor) or not logits.ndim:
        raise NoLossFits("the outputs have no logits")
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _labels(batch: Mapping[str, Tensor]) -> Tensor | None:
    return next((batch[key] for key in LABEL_KEYS if key in batch), None)


def _flat_targets(logits: Tensor, labels: Tensor | None, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    targets = _next_tokens(labels, batch) if logits.ndim == 3 else None
    if targets is None:
        targets = labels
    if targets is None:
        raise NoLossFits("the batch has no labels")
    if targets.shape == logits.shape[:-1]:
        return logits.reshape(-1, logits.shape[-1]), targets
    if logits.ndim > 2 and targets.shape == (logits.shape[0], *logits.shape[2:]):
        return logits.movedim(1, -1).reshape(-1, logits.shape[1]), targets
    raise NoLossFits(f"logits {tuple(logits.shape)} and labels {tuple(targets.shape)} do not go together")


def _next_tokens(labels: Tensor | None, batch: Mapping[str, Tensor]) -> Tensor | None:
    """Labels moved by one position, so that the logits need not be copied; None if the labels are no input tokens."""
    ids = batch.get("input_ids")
    if ids is None:
        return None
    if labels is None:
        labels = ids.masked_fill(batch["attention_mask"] == 0, IGNORED) if "attention_mask" in batch else ids
    if labels.shape != ids.shape or not bool(((labels == ids) | (labels == IGNORED)).all()):
        return None
    moved = torch.full_like(labels, IGNORED)
    moved[:, :-1] = labels[:, 1:]
    return moved


def _per_example(values: Tensor, targets: Tensor) -> Scored:
    if targets.ndim == 1:
        return values, (targets != IGNORED).to(values.dtype)
    counted = (targets != IGNORED).flatten(1)
    counts = counted.sum(1)
    totals = (values.view(counted.shape) * counted).sum(1)
    return totals / counts.clamp(min=1), counts.to(values.dtype)


def _squared_error(logits: Tensor, labels: Tensor) -> Scored:
    if logits.shape != labels.shape and logits.shape[:1] == labels.shape[:1] and logits.numel() == labels.numel():
        labels = labels.reshape(logits.shape)
    if logits.shape != labels.shape:
        raise NoLossFits(f"outputs {tuple(logits.shape)} and targets {tuple(labels.shape)} do not go together")
    values = (logits - labels).square().flatten(1).mean(1) if logits.ndim > 1 else (logits - labels).square()
    return values, torch.ones_like(values)
