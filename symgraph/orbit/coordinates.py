"""All weights near a model that compute the same, by coordinates that are zero there, and their slopes.

Elements of the spaces act in the clean gauge, the freedoms without a space follow, and the model's own gauge comes
back, as when random elements are drawn. Permutations and signs are no coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

import torch
from torch import Tensor

from symgraph.groups.charts import Chart
from symgraph.groups.elements import Element
from symgraph.orbit.action import GroupElement
from symgraph.orbit.descent_options import MotionOptions
from symgraph.orbit.freedoms import freedoms, to_clean_gauge
from symgraph.orbit.step import Step
from symgraph.orbit.steps import Act, State, Transform, rescale
from symgraph.symmetry.dimension import Family
from symgraph.symmetry.graph import SymmetryGraph

# Coordinates, or what is dual to them, by the names of their parts.
Vector = dict[str, Tensor]
# How far slopes are measured: what bends counts as little there as what is rounded.
_STEP = 1e-6


class Coordinates:
    """Coordinates about one state, and the slopes of its tensors, each times a weight; in float64.

    Args:
        weights: of the tensors that are looked at, by name.

    Raises:
        SymgraphError: a gain is zero, so that the state lies on no regular orbit.
    """

    def __init__(self, symmetry: SymmetryGraph, state: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
        self.symmetry, self.weights = symmetry, weights
        out, self.clean = to_clean_gauge(symmetry, state)
        self.home = out.inverse()
        self.charts = dict(_charts(symmetry))
        # Gains come last, and by what they are divided by: readers are linear in that, whatever sign it takes.
        free = [f for f in freedoms(symmetry) if f.family is not Family.GAIN]
        self.rest = {f"freedom {k}": f for k, f in enumerate(free)}
        latents = {f"{i} {part}": t.detach() for i, c in self.charts.items() for part, t in c.latents.items()}
        shapes = {n: f.shape for n, f in self.rest.items()}
        shapes |= {f"gain {n}": (prod(symmetry.graph.state[n].shape),) for n in symmetry.gain_sites}
        self.zero: Vector = latents | {n: torch.zeros(s, dtype=torch.float64) for n, s in shapes.items()}
        self.here = self._seen(self.zero)
        # Their steps take a number: nothing can be differentiated, and there are few.
        numbers = [n for n, t in self.zero.items() if not t.shape]
        self.columns = {n: self.slope({**self.zero, n: torch.ones((), dtype=torch.float64)}) for n in numbers}
        self.smooth = {n: t.clone().requires_grad_() for n, t in self.zero.items() if n not in self.columns}
        self.moved = self._seen({**self.zero, **self.smooth})

    def point(self, at: Mapping[str, Tensor]) -> State:
        """The state at some coordinates."""
        elements = {i: _at(chart, i, at) for i, chart in self.charts.items()}
        steps: list[Step] = [Act(GroupElement(self.symmetry, elements))] if elements else []
        for name, freedom in self.rest.items():
            steps += freedom.steps(at[name])
        steps += [rescale(self.symmetry, s, 1 + at[f"gain {n}"]) for n, s in self.symmetry.gain_sites.items()]
        return Transform((*steps, *self.home.steps)).apply(self.clean)

    def _seen(self, at: Mapping[str, Tensor]) -> State:
        found = self.point(at)
        return {n: weight * found[n] for n, weight in self.weights.items()}

    def slope(self, direction: Vector) -> State:
        """How the tensors change in a direction, to first order."""
        far = max((float(t.abs().max()) for t in direction.values() if t.numel()), default=0.0)
        step = _STEP / far if far else 1.0
        there = self._seen({n: step * t for n, t in direction.items()})
        return {n: (t - self.here[n]) / step for n, t in there.items()}

    def dual(self, change: Mapping[str, Tensor]) -> Vector:
        """The inner product of a change of the tensors with the slope in every coordinate."""
        found = {n: torch.tensor(inner(column, change), dtype=torch.float64) for n, column in self.columns.items()}
        outputs = [n for n, t in self.moved.items() if t.requires_grad]
        if not outputs:
            return found
        into = list(self.smooth.values())
        against = [change[n] for n in outputs]
        slopes = torch.autograd.grad(
            [self.moved[n] for n in outputs], into, against, retain_graph=True, allow_unused=True
        )
        pairs = zip(self.smooth.items(), slopes, strict=True)
        return found | {n: torch.zeros_like(t) if s is None else s for (n, t), s in pairs}


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The inner product over all tensors of the first."""
    return sum(float((t * b[n]).sum()) for n, t in a.items())


def _charts(symmetry: SymmetryGraph) -> Iterator[tuple[int, Chart]]:
    options = MotionOptions(full=True)
    for space in symmetry.active:
        plan = space.maps.chart(symmetry.index_set(space), options)
        if plan is not None:
            yield space.id, plan.make(torch.float64, torch.device("cpu"))


def _at(chart: Chart, space: int, at: Mapping[str, Tensor]) -> Element:
    chart.latents = {part: at[f"{space} {part}"] for part in chart.latents}
    return chart.moved()
