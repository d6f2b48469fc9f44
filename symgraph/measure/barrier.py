"""The loss barrier between two models of one architecture.

    B_lambda = L((1 - lambda) A + lambda B) - ((1 - lambda) L(A) + lambda L(B)),   B = max over lambda.

Source: Theus et al., arXiv 2506.22712, section 2 (loss barrier); Frankle et al. 2020, arXiv 1912.05671 (error barrier
along a linear path).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import nn

from symgraph.errors import UsageError
from symgraph.measure.curve import Curve
from symgraph.measure.evaluate import Progress
from symgraph.measure.forward import evaluating
from symgraph.measure.loss_curve import LossBarrier
from symgraph.measure.losses import LOSS, Metric, PerExample
from symgraph.measure.survey import Endpoint, Survey, described, endpoint_state, evaluator_of, network_of, repeatable
from symgraph.rules.book import RuleBook, default_rules
from symgraph.symmetry.graph import SymmetryGraph

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
    recalibrate: Iterable[Any] | None = None,
    product: SymmetryGraph | None = None,
    book: RuleBook | None = None,
) -> LossBarrier:
    """Loss and metrics at points on the segment between the parameters of `a` and `b`, and their barriers.

    The interpolated parameters go through one module; beside the two endpoints there is one more set of weights at a
    time. Buffers of integers are taken from `a`; half precision is computed in float32 unless `dtype` says otherwise.
    `loss` maps outputs and batch to a value per example or one for the batch. `progress` gets done and total steps.
    With `refine`, three more points are placed around the largest barrier. `recalibrate`: batches of the training
    split, on which the stored statistics of norms are computed anew at every point between the endpoints. With
    `product`, the symmetry of the models (inferred with the rules of `book`), what lies inside of heads is mixed in
    product form: a model of more than the architecture's rank, for comparison alone.

    Raises:
        CheckpointError: the endpoints are of different architectures or have no weights.
        DataError: there are no batches, they do not fit the model, or a loss is not finite.
        UsageError: the points, the loss, a metric or the device do not exist.

    Source: Theus et al., arXiv 2506.22712; Frankle et al. 2020.
    """
    grid = _grid(points)
    network = network_of((a, b), module)
    data = repeatable(batches)
    states = [endpoint_state(e, network, f"endpoint {name}") for e, name in ((a, "A"), (b, "B"))]
    total = len(grid) + _REFINEMENTS * refine
    form = None if product is None else (product, book or default_rules())
    evaluator = evaluator_of(network, states, data, total, loss, metrics, device, dtype, progress, recalibrate, form)
    with evaluating(network):
        line = _Line(evaluator)
        for x in (0.0, 1.0, *grid[1:-1]):
            line.at(x)
        for _ in range(_REFINEMENTS * refine):
            line.at(line.next_point())
    return line.result(data)


class _Line(Survey):
    """The points visited so far, by lambda."""

    def at(self, x: float) -> None:
        self.visit((1 - x, x), f"lambda {x:g}")

    def next_point(self) -> float:
        curve = self._curve(LOSS, LOSS)
        lambdas, barriers = curve.lambdas, curve.barriers
        i = min(max(barriers.index(max(barriers)), 1), len(lambdas) - 2)
        left, middle, right = lambdas[i - 1], lambdas[i], lambdas[i + 1]
        towards = right if right - middle >= middle - left else left
        return middle + _GOLDEN * (towards - middle)

    def result(self, data: Any) -> LossBarrier:
        loss, *metrics = (self._curve(key, name) for key, name in self.names())
        return LossBarrier(loss, tuple(metrics), self.evaluator.examples, *described(data), self.evaluator.recalibrated)

    def _curve(self, key: str, name: str) -> Curve:
        points = {weights[1]: found for weights, found in self.found.items()}
        lambdas = tuple(sorted(points))
        values, errors = zip(*(points[x][key] for x in lambdas), strict=True)
        return Curve(name, lambdas, values, errors, self.higher_is_better(key))


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
