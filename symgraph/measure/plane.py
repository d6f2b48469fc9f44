"""The loss on the plane through three models, and along the path from one to the next.

A point of the plane is an affine mixture: weights that sum to one and may be negative. Its coordinates are lengths in
the space of parameters, the first model at the origin and the second on the first axis, so that a picture is true to
scale.

Source: Garipov et al. 2018, arXiv 1802.10026 (the plane through three points, with the path between two of them).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.inference.sources import Source
from symgraph.io.shown import Shown
from symgraph.measure.barrier import usable
from symgraph.measure.barrier_options import PlaneOptions
from symgraph.measure.batches import counted
from symgraph.measure.endpoints import Endpoint, Endpoints, endpoints
from symgraph.measure.losses import Metrics, Named
from symgraph.measure.measured import Measured
from symgraph.measure.mixture import Mixture, Mixtures, moves, vertex
from symgraph.measure.objective import Objective
from symgraph.measure.plots import barrier_plot
from symgraph.measure.result import LossBarrier
from symgraph.measure.survey import Survey
from symgraph.tracing.deferred import made
from symgraph.tracing.progress import Progress

# Three models whose plane is thinner than this, beside their distance, are on one line.
FLAT = 1e-6
# Points of each leg of the path, its ends included.
LEG = 9
Coordinates = tuple[float, float]


@dataclass(frozen=True, slots=True, repr=False)
class LossPlane(Shown):
    """The loss, and any metrics, on the plane through three models and on the path through them in their order.

    `corners` are the coordinates of the models, in units of length of the parameters; `axes` those of the columns and
    of the rows of the grid. All points are among the mixtures of `loss` and of `metrics`.
    """

    loss: Measured
    metrics: tuple[Measured, ...]
    corners: tuple[Coordinates, ...]
    axes: tuple[tuple[float, ...], tuple[float, ...]]
    models: tuple[str, ...]
    examples: int = 0
    source: str = ""
    split: str = ""
    recalibrated: str = ""
    remarks: tuple[str, ...] = ()

    def grid(self, measured: Measured) -> list[list[float]]:
        """A quantity on the grid, row by row."""
        value_at = dict(zip(measured.mixtures, measured.values, strict=True))
        columns, rows = self.axes
        return [[value_at[weights_at(self.corners, (column, row))] for column in columns] for row in rows]

    def path(self, measured: Measured) -> list[tuple[float, float, float]]:
        """A quantity on the way through the models: how far along (1 for each leg), its value and standard error."""
        index_of = {mixture: index for index, mixture in enumerate(measured.mixtures)}
        on = [(place, index_of[mixture]) for place, mixture in path_points(len(self.models))]
        return [(place, measured.values[index], measured.value_errors[index]) for place, index in on]

    def levels(self, measured: Measured, count: int = 8) -> list[float]:
        """Values between which a picture changes its colour: close together near the best, as losses rise steeply."""
        values = sorted(value for row in self.grid(measured) for value in row if math.isfinite(value))
        sign = -1.0 if measured.higher_is_better else 1.0
        best = values[-1] if measured.higher_is_better else values[0]
        above = sorted(sign * (value - best) for value in values)
        # A few points far outside may be huge: they are shown as the last level.
        outside = len(above) // 20
        low = above[outside] or above[-1] / 100
        high = above[-1 - outside]
        if not 0 < low < high:
            return []
        return [best + sign * low * (high / low) ** (level / (count - 1)) for level in range(count)]

    def to_plain(self) -> dict[str, Any]:
        """All figures as plain data; a value that is not finite is None."""
        quantities = [
            {
                "name": measured.name,
                "higher_is_better": measured.higher_is_better,
                "grid": [[_finite(value) for value in row] for row in self.grid(measured)],
                "path": [list(map(_finite, point)) for point in self.path(measured)],
                "levels": self.levels(measured),
            }
            for measured in (self.loss, *self.metrics)
        ]
        said = {name: getattr(self, name) for name in ("examples", "source", "split", "recalibrated")}
        places = {"corners": [list(corner) for corner in self.corners], "axes": [list(axis) for axis in self.axes]}
        return {"models": list(self.models), **places, "quantities": quantities, **said, "remarks": list(self.remarks)}

    def plot(self, path: str | Path, *, barrier: LossBarrier | None = None, overwrite: bool = False) -> Path:
        """Draws its levels and the path into a PNG, SVG or PDF file, beside the simplex where its `barrier` is given.

        Raises:
            OutputError: the file exists or cannot be written.
        """
        results = {} if barrier is None else {barrier.loss.name: barrier}
        return barrier_plot(results, path, plane=self, overwrite=overwrite)

    def __str__(self) -> str:
        columns, rows = (len(axis) for axis in self.axes)
        lines = [f"plane through {', '.join(self.models)}: {columns} by {rows} points"]
        for measured in (self.loss, *self.metrics):
            worst = (min if measured.higher_is_better else max)(value for _, value, _ in self.path(measured))
            ends = ", ".join(f"{end:.4f}" for end in measured.ends)
            lines.append(f"{measured.name} of the models {ends}; worst on the path {worst:.4f}")
        return "\n".join(lines)


def loss_plane(
    models: Sequence[Endpoint],
    batches: Iterable[Any],
    *,
    plane: int = 21,
    margin: float = 0.25,
    module: Source = None,
    names: Sequence[str] | None = None,
    loss: Named = "cross-entropy",
    metrics: Metrics = (),
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    recalibrate: Iterable[Any] | None = None,
) -> LossPlane:
    """Loss and metrics on the plane through three models, and along the path through them in their order.

    Args:
        models: three, in any form, or states of `module`.
        plane: how many points the grid has in each direction; `margin`: how far it goes beyond the models.
        names, loss, metrics, device, dtype, progress, recalibrate: as for `loss_barrier`.

    Shapes: plane^2 points on the grid, and 9 on each of the two legs of the path.

    Raises:
        UsageError: there are not three models, or they lie on one line.
        CheckpointError, DataError: as for `loss_barrier`.

    >>> nets = [torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)) for _ in "abc"]
    >>> batches = [(torch.randn(16, 6), torch.randint(0, 3, (16,)))]
    >>> found = symgraph.loss_plane(nets, batches, plane=3, loss=torch.nn.functional.cross_entropy)
    >>> len(found.grid(found.loss)), found.corners[0]
    (3, (0.0, 0.0))

    Source: Garipov et al. 2018, arXiv 1802.10026.
    """
    PlaneOptions(plane=plane, margin=margin)
    if len(models) != 3:
        raise UsageError(f"a plane goes through three models, not {len(models)}", remedy="name three models")
    ends = endpoints(models, module, names)
    corners = corners_of(ends)
    axes = _axes(corners, plane, margin)
    data = counted(batches, "to evaluate on")
    training = None if recalibrate is None else counted(recalibrate, "to recalibrate on")
    point = Mixtures(ends.network, ends.states, usable(device), dtype, own=training is not None)
    survey = Survey(Objective(ends.network, loss, metrics=metrics), point, data, training, progress, finite=False)
    survey.visit_all(_looked_at(corners, axes))
    surveyed = survey.result(ends.names)
    said = [field.name for field in fields(LossPlane) if field.name not in ("corners", "axes")]
    return LossPlane(corners=corners, axes=axes, **{name: getattr(surveyed, name) for name in said})


def _looked_at(corners: Sequence[Coordinates], axes: tuple[tuple[float, ...], tuple[float, ...]]) -> list[Mixture]:
    """The models, the points of the path through them and those of the grid, each once."""
    path = [mixture for _, mixture in path_points(3)]
    grid = [weights_at(corners, (column, row)) for row in axes[1] for column in axes[0]]
    return list(dict.fromkeys([*(vertex(model, 3) for model in range(3)), *path, *grid]))


def corners_of(ends: Endpoints) -> tuple[Coordinates, ...]:
    """Where three models are on their plane: the first at the origin, the second on the first axis.

    Raises:
        UsageError: they are on one line.
    """
    names = [name for name, _ in ends.network.named_parameters()]
    second, third = (_squared(ends.states, names, 0, model) for model in (1, 2))
    between = _squared(ends.states, names, 1, 2)
    length = math.sqrt(second)
    across = (second + third - between) / (2 * length) if length else 0.0
    up = math.sqrt(max(third - across * across, 0.0))
    if not length > 0 or up <= FLAT * length:
        cause = "two of them are equal, or one is a mixture of the others"
        raise UsageError("three models on one line have no plane", cause=cause, remedy="name three that differ")
    return (0.0, 0.0), (length, 0.0), (across, up)


def _squared(states: Sequence[Mapping[str, Tensor]], names: Sequence[str], one: int, other: int) -> float:
    """The squared distance of two models over the parameters, each tensor read once."""
    moving = [name for name in names if name in states[one] and moves(states[one][name])]
    changes = (made(states[one][name]).double() - made(states[other][name]).double() for name in moving)
    return sum(float(change.square().sum()) for change in changes)


def weights_at(corners: Sequence[Coordinates], place: Coordinates) -> Mixture:
    """The affine mixture at a place of the plane."""
    (_, _), (length, _), (across, up) = corners
    third = place[1] / up
    second = (place[0] - third * across) / length
    return (1.0 - second - third, second, third)


def path_points(models: int) -> list[tuple[float, Mixture]]:
    """Points of the path through models in their order, each with how far along it is, one for each leg."""
    points: dict[float, Mixture] = {}
    for leg, (start, end) in enumerate(pairwise(vertex(model, models) for model in range(models))):
        for share in (step / (LEG - 1) for step in range(LEG)):
            pairs = zip(start, end, strict=True)
            points[leg + share] = tuple((1 - share) * near + share * far for near, far in pairs)
    return list(points.items())


def _axes(corners: Sequence[Coordinates], count: int, margin: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The columns and rows of a grid around the models, with the same room on all sides."""
    across, along = zip(*corners, strict=True)
    room = margin * max(max(places) - min(places) for places in (across, along))

    def evenly(places: Sequence[float]) -> tuple[float, ...]:
        low, high = min(places) - room, max(places) + room
        return tuple(low + (high - low) * step / (count - 1) for step in range(count))

    return evenly(across), evenly(along)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
