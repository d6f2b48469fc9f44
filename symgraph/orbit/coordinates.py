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
        free = [freedom for freedom in freedoms(symmetry) if freedom.family is not Family.GAIN]
        self.rest = {f"freedom {number}": freedom for number, freedom in enumerate(free)}
        latents = {
            f"{space} {part}": tensor.detach()
            for space, chart in self.charts.items()
            for part, tensor in chart.latents.items()
        }
        shapes = {name: freedom.shape for name, freedom in self.rest.items()}
        shapes |= {f"gain {name}": (prod(symmetry.shapes[name]),) for name in symmetry.gain_sites}
        zeros = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        self.zero: Vector = latents | zeros
        self.here = self._seen(self.zero)
        # Their steps take a number: nothing can be differentiated, and there are few.
        numbers = [name for name, tensor in self.zero.items() if not tensor.shape]
        one = torch.ones((), dtype=torch.float64)
        self.columns = {name: self.slope({**self.zero, name: one}) for name in numbers}
        others = {name: tensor for name, tensor in self.zero.items() if name not in self.columns}
        self.smooth = {name: tensor.clone().requires_grad_() for name, tensor in others.items()}
        self.moved = self._seen({**self.zero, **self.smooth})

    def point(self, at: Mapping[str, Tensor]) -> State:
        """The state at some coordinates."""
        elements = {space: _at(chart, space, at) for space, chart in self.charts.items()}
        steps: list[Step] = [Act(GroupElement(self.symmetry, elements))] if elements else []
        for name, freedom in self.rest.items():
            steps += freedom.steps(at[name])
        for name, sites in self.symmetry.gain_sites.items():
            amounts = at[f"gain {name}"]
            factor = amounts.exp() if self.symmetry.is_positive(name) else 1 + amounts
            steps.append(rescale(self.symmetry, sites, factor))
        return Transform((*steps, *self.home.steps)).apply(self.clean)

    def _seen(self, at: Mapping[str, Tensor]) -> State:
        point = self.point(at)
        return {name: weight * point[name] for name, weight in self.weights.items()}

    def slope(self, direction: Vector) -> State:
        """How the tensors change in a direction, to first order."""
        far = max((float(tensor.abs().max()) for tensor in direction.values() if tensor.numel()), default=0.0)
        step = _STEP / far if far else 1.0
        there = self._seen({name: step * tensor for name, tensor in direction.items()})
        return {name: (tensor - self.here[name]) / step for name, tensor in there.items()}

    def dual(self, change: Mapping[str, Tensor]) -> Vector:
        """The inner product of a change of the tensors with the slope in every coordinate."""
        products = {
            name: torch.tensor(inner(column, change), dtype=torch.float64) for name, column in self.columns.items()
        }
        outputs = [name for name, tensor in self.moved.items() if tensor.requires_grad]
        if not outputs:
            return products
        into = list(self.smooth.values())
        against = [change[name] for name in outputs]
        slopes = torch.autograd.grad(
            [self.moved[name] for name in outputs], into, against, retain_graph=True, allow_unused=True
        )
        pairs = zip(self.smooth.items(), slopes, strict=True)
        return products | {
            name: torch.zeros_like(tensor) if slope is None else slope for (name, tensor), slope in pairs
        }


def inner(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The inner product over all tensors of the first."""
    return sum(float((tensor * other[name]).sum()) for name, tensor in one.items())


def _charts(symmetry: SymmetryGraph) -> Iterator[tuple[int, Chart]]:
    options = MotionOptions(full=True)
    for space in symmetry.active:
        plan = space.maps.chart(symmetry.index_set(space), options)
        if plan is not None:
            yield space.id, plan.make(torch.float64, torch.device("cpu"))


def _at(chart: Chart, space: int, at: Mapping[str, Tensor]) -> Element:
    chart.latents = {part: at[f"{space} {part}"] for part in chart.latents}
    return chart.moved()
