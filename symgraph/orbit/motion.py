"""A trained symmetry of one model: a chart on each of its spaces that has something to train, and its gauge.

It acts on a model in canonical form, and is an exact symmetry of it at every step. Gains of norms and constants of
biases, which their readers make up for, are one and zero there. They can be trained as well (`gauge`): the mean of two
models is then another one. But the way back into the reference's own gauge starts at one and zero, so that both results
then stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch

import torch
from torch import Tensor

from symgraph.errors import UsageError, argument, either
from symgraph.groups.charts import Assigned, Chart, ChartPlan, Rotation
from symgraph.orbit.action import GroupElement
from symgraph.orbit.constant_steps import Shift
from symgraph.orbit.descent_options import MotionOptions
from symgraph.orbit.relaxed import Relaxed
from symgraph.orbit.step import Step
from symgraph.orbit.steps import Act, State, Transform, rescale
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space


class Motion:
    """Latents of one moving model, and the symmetry that they stand for."""

    def __init__(self, symmetry: SymmetryGraph, options: MotionOptions, dtype: torch.dtype, device: torch.device):
        self.symmetry = symmetry
        self.charts = {space.id: _chart(symmetry, space, options, dtype, device) for space in moving(symmetry, options)}
        self.loose = [chart for chart in self.charts.values() if isinstance(chart, Relaxed)]
        if options.relaxed and not self.loose:
            raise UsageError(
                f"no space that {', '.join(options.relaxed)} matches can start in a larger class",
                cause="only rotations and permutations that are trained can",
                remedy=f"name the residual, or train permutations as well: {_permutations()}",
            )
        self.moves = tuple(constant for constant in symmetry.constants if constant.moves) if options.gauge else ()
        sizes = {f"gain {gain}": symmetry.shapes[gain] for gain in symmetry.gain_sites if options.gauge}
        sizes |= {f"move {number}": (constant.source.piece.size,) for number, constant in enumerate(self.moves)}
        self.free = {
            name: torch.zeros(shape, dtype=dtype, device=device, requires_grad=True) for name, shape in sizes.items()
        }

    def latents(self) -> dict[str, Tensor]:
        """Every trained tensor by name."""
        return {
            f"{space}.{part}": tensor for space, chart in self.charts.items() for part, tensor in chart.latents.items()
        } | self.free

    def on(self, state: State, *, exact: bool = False) -> State:
        """The moved model: differentiable in the latents; tensors that nothing moves are passed through.

        Args:
            exact: by a symmetry, where a relaxed element would be none.
        """
        charts = {
            space: chart.exact if exact and isinstance(chart, Relaxed) else chart
            for space, chart in self.charts.items()
        }
        moved = Act(GroupElement(self.symmetry, {space: chart.moved() for space, chart in charts.items()})).apply(state)
        for step in self._gauge(self.free):
            moved = step.apply(moved)
        return moved

    def _gauge(self, free: Mapping[str, Tensor]) -> list[Step]:
        """Gains, by the readers that carry their inverse, then constants, by what the readers make of them."""
        gains = {name.removeprefix("gain "): tensor for name, tensor in free.items() if name.startswith("gain ")}
        steps: list[Step] = [
            rescale(self.symmetry, self.symmetry.gain_sites[gain], log.exp()) for gain, log in gains.items()
        ]
        return steps + [
            Shift(self.symmetry, constant, free[f"move {number}"]) for number, constant in enumerate(self.moves)
        ]

    def penalty(self) -> Tensor | float:
        """What slack costs, where something is relaxed."""
        return sum((chart.penalty() for chart in self.loose), 0.0)

    def tighten(self, rate: float) -> None:
        """After a step: what slack is left costs more."""
        for chart in self.loose:
            chart.tighten(rate)

    def slack(self) -> float:
        """The largest slack that is left."""
        return max((float(chart.slack.detach()) for chart in self.loose), default=0.0)

    def retract(self) -> None:
        """Recentres every chart at its element; the symmetry stays the same."""
        for chart in self.charts.values():
            chart.retract()

    def transform(self, like: Tensor) -> Transform:
        """The symmetry as steps on a model in canonical form, computed in float64; given where and as `like` is."""
        element = GroupElement(self.symmetry, {space: chart.element() for space, chart in self.charts.items()})
        gauge = self._gauge({name: tensor.detach().double().to(like) for name, tensor in self.free.items()})
        return Transform((Act(element.to(dtype=like.dtype, device=like.device)), *gauge))

    def held(self) -> dict[str, Tensor]:
        """All that defines the symmetry right after `retract`, as copies."""
        held = {
            f"{space}.{part}": tensor.clone()
            for space, chart in self.charts.items()
            for part, tensor in chart.held().items()
        }
        return held | {name: tensor.detach().clone() for name, tensor in self.free.items()}

    @torch.no_grad()
    def hold(self, held: Mapping[str, Tensor]) -> None:
        """Takes up what `held` gave, with latents as they are after `retract`."""
        self.retract()
        for space, chart in self.charts.items():
            chart.hold({name.split(".", 1)[1]: tensor for name, tensor in held.items() if name.startswith(f"{space}.")})
        for name, tensor in self.free.items():
            tensor.copy_(held[name])


def moving(symmetry: SymmetryGraph, options: MotionOptions) -> list[Space]:
    """The spaces that have something to train.

    Raises:
        UsageError: there is none among those that the patterns name.
    """
    named = [space for space in symmetry.active if any(fnmatch(space.name, pattern) for pattern in options.spaces)]
    chosen = [space for space in named if space.maps.chart(symmetry.index_set(space), options) is not None]
    if chosen or (options.gauge and (symmetry.gains or any(constant.moves for constant in symmetry.constants))):
        return chosen
    learn = [f"permutations: {_permutations()}"]
    if not options.full:
        learn.append(either("scales: " + argument("full", True, within="learning"), "scales: leave out --compact"))
    raise UsageError(
        f"no space that {', '.join(options.spaces)} matches has anything to learn",
        cause="permutations and signs stay as they were matched",
        remedy=f"match by weights or activations alone, or learn {'; or '.join(learn)}",
    )


def _permutations() -> str:
    return argument("permutations", True, within="learning")


def _plan(symmetry: SymmetryGraph, space: Space, options: MotionOptions) -> ChartPlan:
    """The chart of a space that has something to train."""
    plan = space.maps.chart(symmetry.index_set(space), options)
    if plan is None:
        raise UsageError(f"{space.name} has nothing to learn", remedy="leave it out")
    return plan


def _chart(
    symmetry: SymmetryGraph, space: Space, options: MotionOptions, dtype: torch.dtype, device: torch.device
) -> Chart:
    """The chart of one space about the identity."""
    plan = _plan(symmetry, space, options)
    chart = plan.make(dtype, device)
    return Relaxed(chart) if isinstance(chart, Rotation | Assigned) and _relaxed(space, plan, options) else chart


def chart_name(symmetry: SymmetryGraph, space: Space, options: MotionOptions) -> str:
    """What the plan calls the chart of a space."""
    plan = _plan(symmetry, space, options)
    return plan.name + (", relaxed at first" if _relaxed(space, plan, options) else "")


def _relaxed(space: Space, plan: ChartPlan, options: MotionOptions) -> bool:
    """Whether it is to start in a larger class, and there is one."""
    return plan.relaxable and any(fnmatch(space.name, pattern) for pattern in options.relaxed)
