"""The loss barrier between two models of one architecture.

    B_lambda = L((1 - lambda) A + lambda B) - ((1 - lambda) L(A) + lambda L(B)),   B = max over lambda.

Source: Theus et al., arXiv 2506.22712, section 2 (loss barrier); Frankle et al. 2020, arXiv 1912.05671 (error barrier
along a linear path).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.checkpoint import canonical_state, check_same_architecture, read_state
from symgraph.curve import Curve
from symgraph.data import from_batches
from symgraph.errors import CheckpointError, DataError, UsageError
from symgraph.evaluation import Evaluator, ProductSegment, Progress, Sample, Segment
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.loss_curve import LossBarrier
from symgraph.losses import LOSS, Metric, PerExample, named_loss, named_metrics
from symgraph.messages import one_line, shorten
from symgraph.models import Model
from symgraph.rules.book import RuleBook, default_rules

Endpoint = Model | nn.Module | Mapping[str, Tensor]
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
    product: SymmetryGraph | None = None,
    book: RuleBook | None = None,
) -> LossBarrier:
    """Loss and metrics at points on the segment between the parameters of `a` and `b`, and their barriers.

    The interpolated parameters go through one module; beside the two endpoints there is one more set of weights at a
    time. Buffers of integers are taken from `a`; half precision is computed in float32 unless `dtype` says otherwise.
    `loss` maps outputs and batch to a value per example or one for the batch. `progress` gets done and total steps.
    With `refine`, three more points are placed around the largest barrier. With `product`, the symmetry of the models
    (inferred with the rules of `book`), what lies inside of heads is mixed in product form: a model of more than the
    architecture's rank, for comparison alone.

    Raises:
        CheckpointError: the endpoints are of different architectures or have no weights.
        DataError: there are no batches, they do not fit the model, or a loss is not finite.
        UsageError: the points, the loss, a metric or the device do not exist.

    Source: Theus et al., arXiv 2506.22712; Frankle et al. 2020.
    """
    grid = _grid(points)
    network = _network(a, b, module)
    data = _repeatable(batches)
    ends = _state(a, network, "A"), _state(b, network, "B")
    segment: Segment | ProductSegment = Segment(network, *ends, _device(device), dtype)
    if product is not None:
        segment = ProductSegment(product, book or default_rules(), network, *ends, _device(device), dtype)
    total = (len(grid) + _REFINEMENTS * refine) * len(data)
    evaluator = Evaluator(network, data, named_loss(loss), named_metrics(metrics), segment, progress, total)
    with _evaluation(network):
        survey = _Survey(evaluator)
        for x in (0.0, 1.0, *grid[1:-1]):
            survey.visit(x)
        for _ in range(_REFINEMENTS * refine):
            survey.visit(survey.next_point())
    return survey.result(data)


class _Survey:
    """The points visited so far; of the samples only those of the endpoints are kept."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.ends: list[dict[str, Sample]] = []
        self.means: dict[float, dict[str, tuple[float, float]]] = {}
        self.curves: dict[str, Metric | None] = {LOSS: None, **evaluator.metrics}

    def visit(self, x: float) -> None:
        samples = self.evaluator.at(x)
        if len(self.ends) < 2:
            self.ends.append(samples)
        self.means[x] = {name: self._summary(samples, x, name, metric) for name, metric in self.curves.items()}

    def _summary(
        self, samples: Mapping[str, Sample], x: float, name: str, metric: Metric | None
    ) -> tuple[float, float]:
        """The value of one curve at one point, and the standard error of its distance from the chord."""
        key = name if name in samples else LOSS
        found, a, b = (s[key] for s in (samples, self.ends[0], self.ends[-1]))
        value = metric.summary(found.mean) if metric else found.mean
        if x in (0.0, 1.0):
            return value, 0.0
        # A transform of the mean is, near each of the three means, its slope there times the values.
        found, a, b = (s.scaled(_slope(metric, s.mean)) for s in (found, a, b))
        return value, found.standard_error(a, b, x)

    def next_point(self) -> float:
        curve = self._curve(LOSS, LOSS)
        lambdas, barriers = curve.lambdas, curve.barriers
        i = min(max(barriers.index(max(barriers)), 1), len(lambdas) - 2)
        left, middle, right = lambdas[i - 1], lambdas[i], lambdas[i + 1]
        towards = right if right - middle >= middle - left else left
        return middle + _GOLDEN * (towards - middle)

    def result(self, data: Any) -> LossBarrier:
        loss, *metrics = (self._curve(key, self.evaluator.loss_name if key == LOSS else key) for key in self.curves)
        source, split = getattr(data, "source", ""), getattr(data, "split", "")
        return LossBarrier(loss, tuple(metrics), self.evaluator.examples, source, split)

    def _curve(self, key: str, name: str) -> Curve:
        lambdas = tuple(sorted(self.means))
        values, errors = zip(*(self.means[x][key] for x in lambdas), strict=True)
        metric = self.curves[key]
        return Curve(name, lambdas, values, errors, metric.higher_is_better if metric else False)


def _repeatable(batches: Iterable[Any]) -> Any:
    """The batches themselves if they can be gone through again, or all of them held in memory."""
    if isinstance(batches, Iterator | Mapping | Tensor | str):
        return list(from_batches(batches))
    try:
        count = len(batches)  # type: ignore[arg-type]
    except TypeError:
        return list(from_batches(batches))
    if not count:
        raise DataError("no batches to evaluate on", remedy="check the length of the data loader")
    return batches


def _grid(points: int | Sequence[float]) -> tuple[float, ...]:
    chosen: Any = points
    if isinstance(chosen, Integral):
        last = int(chosen) - 1
        chosen = [i / last for i in range(1, last)]
    try:
        inside = {float(x) for x in chosen}
    except (TypeError, ValueError):
        inside = set()
    grid = tuple(sorted({0.0, 1.0} | inside))
    if len(grid) < 3 or not all(0 <= x <= 1 for x in grid):
        remedy = "pass a number of points from 3, or values between 0 and 1 with at least one strictly inside"
        raise UsageError(f"points {points!r} of lambda give no loss barrier", remedy=remedy)
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


@contextmanager
def _evaluation(network: nn.Module) -> Iterator[None]:
    training = [m for m in network.modules() if m.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _slope(metric: Metric | None, mean: float) -> float:
    if metric is None or metric.transform is None:
        return 1.0
    step = 1e-6 * max(1.0, abs(mean))
    try:
        return (metric.transform(mean + step) - metric.transform(mean - step)) / (2 * step)
    except (ValueError, ArithmeticError):
        # At the border of where the transform is defined, such as a square root at zero.
        return (metric.transform(mean + step) - metric.transform(mean)) / step
