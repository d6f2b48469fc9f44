"""The loss barrier between two models of one architecture.

    B_lambda = L((1 - lambda) A + lambda B) - ((1 - lambda) L(A) + lambda L(B)),   B = max over lambda.

Source: Theus et al., arXiv 2506.22712, section 2 (loss barrier); Frankle et al. 2020, arXiv 1912.05671 (error barrier
along a linear path).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.checkpoint import canonical_state, check_same_architecture, read_state
from symgraph.data import batch_length, from_batches
from symgraph.errors import CheckpointError, DataError, UsageError
from symgraph.loss_curve import Curve, LossBarrier
from symgraph.losses import (
    LABEL_KEYS,
    LOSS,
    Metric,
    NoLossFits,
    PerExample,
    Scored,
    model_loss,
    named_loss,
    named_metrics,
    scored,
)
from symgraph.messages import one_line, shorten
from symgraph.models import Model

Endpoint = Model | nn.Module | Mapping[str, Tensor]
Progress = Callable[[int, int], object]

_GOLDEN = (3 - math.sqrt(5)) / 2
_REFINEMENTS = 3


def loss_barrier(
    a: Endpoint,
    b: Endpoint,
    batches: Iterable[Any],
    *,
    module: nn.Module | None = None,
    points: int | Sequence[float] = 11,
    loss: str | PerExample = "cross-entropy",
    metrics: Iterable[str] | Mapping[str, PerExample | Metric] = (),
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    refine: bool = False,
) -> LossBarrier:
    """Loss and metrics at points on the segment between the parameters of `a` and `b`, and their barriers.

    The interpolated parameters go through one module; beside the two endpoints there is one more set of weights at a
    time. Buffers of integers are taken from `a`; half precision is computed in float32 unless `dtype` says otherwise.
    `loss` maps outputs and batch to a value per example or one for the batch. `progress` gets done and total steps.
    With `refine`, three more points are placed around the largest barrier.

    Raises:
        CheckpointError: the endpoints are of different architectures or have no weights.
        DataError: there are no batches, they do not fit the model, or a loss is not finite.
        UsageError: the points, the loss, a metric or the device do not exist.

    Source: Theus et al., arXiv 2506.22712; Frankle et al. 2020.
    """
    grid = _grid(points)
    network = _network(a, b, module)
    data: Any = batches if hasattr(batches, "__len__") and not _is_one_batch(batches) else from_batches(batches)
    if not len(data):
        raise DataError("no batches to evaluate on", remedy="check the length of the data loader")
    segment = _Segment(network, _state(a, network, "A"), _state(b, network, "B"), _device(device), dtype)
    total = (len(grid) + _REFINEMENTS * refine) * len(data)
    evaluator = _Evaluator(network, data, named_loss(loss), named_metrics(metrics), segment, progress, total)
    with _evaluation(network):
        survey = _Survey(evaluator)
        for x in (0.0, 1.0, *grid[1:-1]):
            survey.visit(x)
        for _ in range(_REFINEMENTS * refine):
            survey.visit(survey.next_point())
    return survey.result(data)


@dataclass(frozen=True, slots=True)
class _Sample:
    """One quantity at one point: a value and a weight for every example."""

    values: Tensor
    weights: Tensor

    @property
    def mean(self) -> float:
        return float((self.values * self.weights).sum() / self.weights.sum())

    def standard_error(self, a: _Sample, b: _Sample, x: float) -> float:
        """Of the mean of each example's own distance from its chord."""
        distance = self.values - (1 - x) * a.values - x * b.values
        share = self.weights / self.weights.sum()
        count = int((share > 0).sum())
        if count < 2:
            return 0.0
        spread = (share * (distance - (share * distance).sum())).square().sum()
        return float((spread * count / (count - 1)).sqrt())


class _Survey:
    """The points visited so far; of the samples only those of the endpoints are kept."""

    def __init__(self, evaluator: _Evaluator) -> None:
        self.evaluator = evaluator
        self.ends: list[dict[str, _Sample]] = []
        self.means: dict[float, dict[str, tuple[float, float]]] = {}

    def visit(self, x: float) -> None:
        samples = self.evaluator.at(x)
        if len(self.ends) < 2:
            self.ends.append(samples)
        self._require_same_examples(samples)
        a, b = self.ends[0], self.ends[-1]
        at_end = x in (0.0, 1.0)
        self.means[x] = {
            name: (s.mean, 0.0 if at_end else s.standard_error(a[name], b[name], x)) for name, s in samples.items()
        }

    def next_point(self) -> float:
        curve = self._curve(LOSS, "loss", None)
        lambdas, barriers = curve.lambdas, curve.barriers
        i = min(max(barriers.index(max(barriers)), 1), len(lambdas) - 2)
        left, middle, right = lambdas[i - 1], lambdas[i], lambdas[i + 1]
        towards = right if right - middle >= middle - left else left
        return middle + _GOLDEN * (towards - middle)

    def result(self, data: Any) -> LossBarrier:
        metrics = self.evaluator.metrics
        curves = tuple(self._curve(name, name, metric) for name, metric in metrics.items())
        source, split = getattr(data, "source", ""), getattr(data, "split", "")
        return LossBarrier(
            self._curve(LOSS, self.evaluator.loss_name, None), curves, self.evaluator.examples, source, split
        )

    def _curve(self, key: str, name: str, metric: Metric | None) -> Curve:
        lambdas = tuple(sorted(self.means))
        found = [self.means[x][key if metric is None or metric.per_example else LOSS] for x in lambdas]
        values = tuple(metric.summary(mean) if metric else mean for mean, _ in found)
        # The standard error of a transformed mean follows by the slope of the transform there.
        errors = tuple(e * _slope(metric, mean) for mean, e in found)
        return Curve(name, lambdas, values, errors, metric.higher_is_better if metric else False)

    def _require_same_examples(self, samples: Mapping[str, _Sample]) -> None:
        first, now = (len(s[LOSS].values) for s in (self.ends[0], samples))
        if first != now:
            cause = f"{first} values in the first pass and {now} in a later one"
            raise DataError("the batches change between passes", cause=cause, remedy="use a loader without sampling")


class _Segment:
    """The tensors of the network at a point between two states, always in the same memory."""

    def __init__(
        self,
        network: nn.Module,
        a: Mapping[str, Tensor],
        b: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        self.device = device
        self.moving: list[tuple[Tensor, Tensor, Tensor]] = []
        self.tensors: dict[str, Tensor] = {}
        buffers = {name for name, _ in network.named_buffers()}
        for name, t in (*network.named_parameters(), *network.named_buffers()):
            first, last = a.get(name, t).detach(), b.get(name, t).detach()
            if _stays(first, last, name in buffers):
                self.tensors[name] = first.to(device)
                continue
            self.tensors[name] = torch.empty(first.shape, dtype=_compute_dtype(first, dtype), device=device)
            self.moving.append((first, last, self.tensors[name]))
        self.dtype = next((t.dtype for *_, t in self.moving), dtype or torch.float32)

    @torch.inference_mode()
    def move_to(self, x: float) -> None:
        """Put the point at `x`: A at 0 and B at 1, to the bit."""
        for a, b, point in self.moving:
            torch.lerp(point.copy_(a), b.to(point), x, out=point)


class _Evaluator:
    """Every quantity at one point of the segment, over all batches."""

    def __init__(
        self,
        network: nn.Module,
        data: Iterable[Any],
        loss: tuple[str, PerExample],
        metrics: Mapping[str, Metric],
        segment: _Segment,
        progress: Progress | None,
        total: int,
    ) -> None:
        self.network, self.data, self.metrics, self.segment = network, data, metrics, segment
        self.loss_name, loss_of = loss
        self.quantities = {LOSS: loss_of, **{n: m.per_example for n, m in metrics.items() if m.per_example}}
        self.accepted = _accepted(network)
        self.progress, self.done, self.total = progress, 0, total
        self.examples = 0

    def at(self, x: float) -> dict[str, _Sample]:
        self.segment.move_to(x)
        found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.quantities}
        examples = 0
        for i, raw in enumerate(self.data):
            batch = self._prepare(raw)
            examples += batch_length(batch)
            for name, result in self._score(batch, f"lambda {x:g}, batch {i}").items():
                found[name].append(result)
            self.done += 1
            if self.progress:
                self.progress(self.done, self.total)
        if not examples:
            raise DataError("no examples to evaluate on", remedy="check the length of the data")
        self.examples = examples
        _require_finite(found[LOSS], x)
        return {name: _Sample(*(torch.cat(p).double() for p in zip(*r, strict=True))) for name, r in found.items()}

    def _prepare(self, raw: Any) -> dict[str, Tensor]:
        if isinstance(raw, list | tuple) and len(raw) == 2:
            raw = {"inputs": raw[0], "labels": raw[1]}
        if not isinstance(raw, Mapping):
            cause = f"a batch is a {type(raw).__name__}"
            raise DataError(
                "batches cannot be used", cause=cause, remedy="give dictionaries of tensors or (x, y) pairs"
            )
        dtype = self.segment.dtype
        return {
            k: t.to(self.segment.device, dtype if t.is_floating_point() else None)
            for k, t in raw.items()
            if isinstance(t, Tensor)
        }

    # Only here: what a loader makes and keeps must stay usable for training.
    @torch.inference_mode()
    def _score(self, batch: dict[str, Tensor], where: str) -> dict[str, Scored]:
        remedy = "check that the data is the kind the model takes (shapes, vocabulary, number of classes)"
        try:
            outputs, loss = self._forward_and_loss(batch)
            others = {n: f for n, f in self.quantities.items() if n != LOSS}
            return {LOSS: loss, **{n: scored(f(outputs, batch), batch) for n, f in others.items()}}
        except NoLossFits as e:
            cause = f"{e}; the batch has {shorten(batch)}"
            remedy = "name the label column, or pass a function of outputs and batch"
            raise DataError(f"{where}: no loss or metric fits", cause=cause, remedy=remedy) from e
        except (IndexError, RuntimeError, ValueError, TypeError) as e:
            raise DataError(f"{where}: the model cannot be evaluated", cause=one_line(e), remedy=remedy) from e

    def _forward_and_loss(self, batch: Mapping[str, Tensor]) -> tuple[Any, Scored]:
        outputs = self._forward(batch)
        try:
            return outputs, scored(self.quantities[LOSS](outputs, batch), batch)
        except NoLossFits:
            if self.quantities[LOSS] is model_loss or not self._has_own_loss(batch):
                raise
        self.loss_name, self.quantities[LOSS] = "model", model_loss
        outputs = self._forward(batch)
        return outputs, scored(model_loss(outputs, batch), batch)

    def _has_own_loss(self, batch: Mapping[str, Tensor]) -> bool:
        return "labels" in batch and "labels" in self.accepted

    def _forward(self, batch: Mapping[str, Tensor]) -> Any:
        own_loss = self.quantities[LOSS] is model_loss
        inputs = {k: t for k, t in batch.items() if own_loss or k not in LABEL_KEYS}
        named: dict[str, Any] = {k: t for k, t in inputs.items() if k in self.accepted}
        positional = () if named else tuple(inputs.values())
        if "use_cache" in self.accepted:
            named["use_cache"] = False
        return torch.func.functional_call(self.network, self.segment.tensors, positional, named)


def _grid(points: int | Sequence[float]) -> tuple[float, ...]:
    if isinstance(points, int):
        points = [i / (points - 1) for i in range(points)] if points > 2 else []
    grid = tuple(sorted({0.0, 1.0, *map(float, points)}))
    if len(grid) < 3 or grid[0] < 0 or grid[-1] > 1 or any(math.isnan(x) for x in grid):
        remedy = "pass a number of points from 3, or values between 0 and 1 with at least one strictly inside"
        raise UsageError("these points of lambda give no loss barrier", remedy=remedy)
    return grid


def _network(a: Endpoint, b: Endpoint, module: nn.Module | None) -> nn.Module:
    if isinstance(a, Model) and isinstance(b, Model):
        check_same_architecture(a, b)
    candidates = (module, *(e.module if isinstance(e, Model) else e for e in (a, b)))
    found = next((c for c in candidates if isinstance(c, nn.Module)), None)
    if found is None:
        raise UsageError("two states do not say which network they belong to", remedy="pass it as module=")
    saved = found.state_dict()
    if any(t.is_meta for n, t in found.named_buffers() if n not in saved):
        remedy = "pass a module built with weights"
        raise CheckpointError("the network has buffers without values", cause="it was built without", remedy=remedy)
    return found


def _state(endpoint: Endpoint, network: nn.Module, name: str) -> Mapping[str, Tensor]:
    if isinstance(endpoint, Model):
        state: Mapping[str, Tensor] = read_state(endpoint)
    else:
        state = endpoint.state_dict() if isinstance(endpoint, nn.Module) else endpoint
    state = canonical_state(network, state, f"endpoint {name}")
    if empty := [n for n, t in state.items() if t.is_meta]:
        cause = f"no values for {shorten(empty)}"
        raise CheckpointError(f"endpoint {name} has no weights", cause=cause, remedy="load it with weights")
    return state


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as e:
        raise UsageError(f"device {device} cannot be used", cause=one_line(e), remedy="pass --device cpu") from e


def _stays(a: Tensor, b: Tensor, is_buffer: bool) -> bool:
    if not (a.is_floating_point() or a.is_complex()):
        return True
    # Infinite entries of a mask would become NaN on the way from one to the same.
    return is_buffer and torch.equal(a, b.to(a))


def _compute_dtype(t: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    if dtype is not None and t.is_floating_point():
        return dtype
    return torch.float32 if t.dtype in (torch.float16, torch.bfloat16) else t.dtype


def _accepted(network: nn.Module) -> frozenset[str]:
    return frozenset(inspect.signature(network.forward).parameters)


def _is_one_batch(batches: Any) -> bool:
    return isinstance(batches, Mapping | Tensor | str)


@contextmanager
def _evaluation(network: nn.Module) -> Iterator[None]:
    training = [m for m in network.modules() if m.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _require_finite(results: list[tuple[Tensor, Tensor]], x: float) -> None:
    for i, (values, weights) in enumerate(results):
        if not bool((values.isfinite() | (weights == 0)).all()):
            bad = int((~values.isfinite()).sum())
            raise DataError(
                f"the loss is not finite at lambda {x:g}, batch {i}",
                cause=f"{bad} of {len(values)} examples give NaN or infinity",
                remedy="evaluate in a wider dtype, and look for NaN or huge values in that batch",
            )


def _slope(metric: Metric | None, mean: float) -> float:
    if metric is None or metric.transform is None:
        return 1.0
    step = 1e-6 * max(1.0, abs(mean))
    return abs(metric.transform(mean + step) - metric.transform(mean - step)) / (2 * step)
