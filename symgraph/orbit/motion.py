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
        self.charts = {s.id: _chart(symmetry, s, options, dtype, device) for s in moving(symmetry, options)}
        self.loose = [c for c in self.charts.values() if isinstance(c, Relaxed)]
        if options.relaxed and not self.loose:
            raise UsageError(
                f"no space that {', '.join(options.relaxed)} matches can start in a larger class",
                cause="only rotations and permutations that are trained can",
                remedy=f"name the residual, or train permutations as well: {_permutations()}",
            )
        self.moves = tuple(c for c in symmetry.constants if c.moves) if options.gauge else ()
        sizes = {f"gain {g}": symmetry.graph.state[g].shape for g in symmetry.gain_sites if options.gauge}
        sizes |= {f"move {i}": (m.source.piece.size,) for i, m in enumerate(self.moves)}
        self.free = {n: torch.zeros(s, dtype=dtype, device=device, requires_grad=True) for n, s in sizes.items()}

    def latents(self) -> dict[str, Tensor]:
        """Every trained tensor by name."""
        return {f"{i}.{part}": t for i, c in self.charts.items() for part, t in c.latents.items()} | self.free

    def on(self, state: State, *, exact: bool = False) -> State:
        """The moved model: differentiable in the latents; tensors that nothing moves are passed through.

        Args:
            exact: by a symmetry, where a relaxed element would be none.
        """
        charts = {i: c.exact if exact and isinstance(c, Relaxed) else c for i, c in self.charts.items()}
        found = Act(GroupElement(self.symmetry, {i: c.moved() for i, c in charts.items()})).apply(state)
        for step in self._gauge(self.free):
            found = step.apply(found)
        return found

    def _gauge(self, free: Mapping[str, Tensor]) -> list[Step]:
        """Gains, by the readers that carry their inverse, then constants, by what the readers make of them."""
        gains = {n.removeprefix("gain "): t for n, t in free.items() if n.startswith("gain ")}
        steps: list[Step] = [rescale(self.symmetry, self.symmetry.gain_sites[g], t.exp()) for g, t in gains.items()]
        return steps + [Shift(m, free[f"move {i}"]) for i, m in enumerate(self.moves)]

    def penalty(self) -> Tensor | float:
        """What slack costs, where something is relaxed."""
        return sum((c.penalty() for c in self.loose), 0.0)

    def tighten(self, rate: float) -> None:
        """After a step: what slack is left costs more."""
        for c in self.loose:
            c.tighten(rate)

    def slack(self) -> float:
        """The largest slack that is left."""
        return max((float(c.slack.detach()) for c in self.loose), default=0.0)

    def retract(self) -> None:
        """Recentres every chart at its element; the symmetry stays the same."""
        for c in self.charts.values():
            c.retract()

    def transform(self, like: Tensor) -> Transform:
        """The symmetry as steps on a model in canonical form, computed in float64; given where and as `like` is."""
        element = GroupElement(self.symmetry, {i: c.element() for i, c in self.charts.items()})
        gauge = self._gauge({n: t.detach().double().to(like) for n, t in self.free.items()})
        return Transform((Act(element.to(dtype=like.dtype, device=like.device)), *gauge))

    def held(self) -> dict[str, Tensor]:
        """All that defines the symmetry right after `retract`, as copies."""
        found = {f"{i}.{part}": t.clone() for i, c in self.charts.items() for part, t in c.held().items()}
        return found | {n: t.detach().clone() for n, t in self.free.items()}

    @torch.no_grad()
    def hold(self, held: Mapping[str, Tensor]) -> None:
        """Takes up what `held` gave, with latents as they are after `retract`."""
        self.retract()
        for i, c in self.charts.items():
            c.hold({n.split(".", 1)[1]: t for n, t in held.items() if n.startswith(f"{i}.")})
        for n, t in self.free.items():
            t.copy_(held[n])


def moving(symmetry: SymmetryGraph, options: MotionOptions) -> list[Space]:
    """The spaces that have something to train.

    Raises:
        UsageError: there is none among those that the patterns name.
    """
    named = [s for s in symmetry.active if any(fnmatch(s.name, p) for p in options.spaces)]
    chosen = [s for s in named if s.maps.chart(symmetry.index_set(s), options) is not None]
    if chosen or (options.gauge and (symmetry.gains or any(c.moves for c in symmetry.constants))):
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
    found = space.maps.chart(symmetry.index_set(space), options)
    if found is None:
        raise UsageError(f"{space.name} has nothing to learn", remedy="leave it out")
    return found


def _chart(
    symmetry: SymmetryGraph, space: Space, options: MotionOptions, dtype: torch.dtype, device: torch.device
) -> Chart:
    """The chart of one space about the identity."""
    plan = _plan(symmetry, space, options)
    found = plan.make(dtype, device)
    return Relaxed(found) if isinstance(found, Rotation | Assigned) and _relaxed(space, plan, options) else found


def chart_name(symmetry: SymmetryGraph, space: Space, options: MotionOptions) -> str:
    """What the plan calls the chart of a space."""
    plan = _plan(symmetry, space, options)
    return plan.name + (", relaxed at first" if _relaxed(space, plan, options) else "")


def _relaxed(space: Space, plan: ChartPlan, options: MotionOptions) -> bool:
    """Whether it is to start in a larger class, and there is one."""
    return plan.relaxable and any(fnmatch(space.name, p) for p in options.relaxed)
