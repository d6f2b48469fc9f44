"""Descent of any differentiable objective over the orbit of one model or of several.

    min over g_1, ..., g_m of the group  L( g_1 . A_1, ..., g_m . A_m )

Every model on the way computes what it computed. Elements are trained in charts (`symgraph.orbit.motion`), recentred
every few steps; what is kept are the best ones by an estimate that is made now and then, the start included.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.io.shown import Shown
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.descent_options import DescentOptions
from symgraph.orbit.motion import Motion
from symgraph.orbit.steps import State, Transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.progress import Progress, tell
from symgraph.tracing.sampling import first_floating

Objective = Callable[..., Tensor]


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class Descended(Shown):
    """What a descent came to: the models where it ended, and what led each there from where it was.

    `history` has the step and the objective there, from step 0 on, where all models are in canonical form; `best` is
    the step that is kept, `ended` says why it ended.
    """

    states: tuple[State, ...]
    transforms: tuple[Transform, ...]
    history: tuple[tuple[int, float], ...]
    best: int
    steps: int
    ended: str

    def __str__(self) -> str:
        values = dict(self.history)
        return f"{self.steps} steps ({self.ended}): {values[0]:.6g} -> {values[self.best]:.6g} (kept: step {self.best})"


def descend(
    symmetry: SymmetryGraph,
    states: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    objective: Objective,
    options: DescentOptions | None = None,
    *,
    still: Collection[int] = (),
    progress: Progress | None = None,
) -> Descended:
    """Minimises a function of models over their orbits: their functions stay as they are.

    Args:
        states: one model, or several of one architecture, in any gauge; they start from their canonical form.
        objective: of as many states as there are models; a number that can be differentiated in their tensors.
        options: what moves, and how.
        still: the numbers of models that stay in canonical form.

    Raises:
        UsageError: nothing has anything to train, or the objective is not finite at the start, or depends on nothing
            that moves.
        CheckpointError: a gain has a zero where its bias has not.
    """
    given = [states] if isinstance(states, Mapping) else list(states)
    canonical = [canonicalise(symmetry, state) for state in given]
    moving = [number for number in range(len(given)) if number not in still]
    run = Descent(symmetry, [form.state for form in canonical], moving, options or DescentOptions())

    @torch.no_grad()
    def estimate() -> float:
        return float(objective(*run.states(exact=True)))

    def loss() -> Tensor:
        value: Any = objective(*run.states())
        if not isinstance(value, Tensor):
            what = f"the objective gave a {type(value).__name__}"
            raise UsageError(what, remedy="give a tensor of one number, computed from the states by torch")
        if not value.requires_grad:
            raise UsageError("the objective depends on nothing that moves", remedy="name other spaces, or another one")
        return value

    run.measure(estimate, progress)
    if not math.isfinite(run.history[0][1]):
        remedy = "give an objective that is finite at the canonical form of each model"
        raise UsageError("the objective is not finite at the start", cause=f"it is {run.history[0][1]}", remedy=remedy)
    ended = run.run(loss, estimate, progress)
    transforms = run.transforms(Transform())
    moved = tuple(transform.apply(form.state) for transform, form in zip(transforms, canonical, strict=True))
    whole = tuple(form.transform.then(transform) for transform, form in zip(transforms, canonical, strict=True))
    return Descended(moved, whole, tuple(run.history), run.best[0], run.step, ended)


class Descent:
    """Some of several models on their way down, between two steps; all are in canonical form.

    `like`: what transforms are given as, by default the tensors of the first model. `estimated`: what is told in front
    of an estimate.
    """

    def __init__(
        self,
        symmetry: SymmetryGraph,
        states: Sequence[State],
        moving: Collection[int],
        options: DescentOptions,
        like: Tensor | None = None,
        estimated: str = "",
    ) -> None:
        self.given, self.options, self.estimated = tuple(states), options, estimated
        first = first_floating(states[0])
        self.like = first if like is None else like
        self.motions = {number: Motion(symmetry, options, first.dtype, first.device) for number in sorted(moving)}
        latents = [latent for motion in self.motions.values() for latent in motion.latents().values()]
        self.optimiser = _optimiser(options, latents)
        self.step = 0
        self.history: list[tuple[int, float]] = []
        self.best: tuple[int, float, dict[str, Tensor]] = (0, math.inf, {})

    def state(self, number: int, *, exact: bool = False) -> State:
        """One model where it is, differentiable; with `exact` by a symmetry where a relaxed element would be none."""
        state = self.given[number]
        return self.motions[number].on(state, exact=exact) if number in self.motions else state

    def states(self, *, exact: bool = False) -> tuple[State, ...]:
        """All models where they are."""
        return tuple(self.state(number, exact=exact) for number in range(len(self.given)))

    def run(
        self,
        loss: Callable[[], Tensor],
        estimate: Callable[[], float],
        progress: Progress | None = None,
        after: Callable[[], None] = lambda: None,
    ) -> str:
        """Steps until there is a reason to end, which is returned; `after` is called after every estimate."""
        while self.step < self.options.steps:
            if self._tired():
                return f"no better for {self.options.patience} estimates"
            if not self.take(loss):
                return f"the loss is not finite at step {self.step + 1}"
            tell(_log, None, f"step {self.step} of {self.options.steps}", self.step, self.options.steps)
            check = self.step == self.options.steps or self.step % self.options.check_every == 0
            if check or self.step % self.options.retract_every == 0:
                for motion in self.motions.values():
                    motion.retract()
            if check:
                self.measure(estimate, progress)
                after()
        return "all steps"

    def measure(self, estimate: Callable[[], float], progress: Progress | None = None) -> None:
        """An estimate of where it is, which is held if it is the best."""
        value = estimate()
        self.history.append((self.step, value))
        if not self.best[2] or value < self.best[1]:
            self.best = (self.step, value if math.isfinite(value) else math.inf, self.held())
        slack = max(motion.slack() for motion in self.motions.values())
        left = f", slack {slack:.2f}" if slack else ""
        text = f"step {self.step} of {self.options.steps}: {self.estimated}{value:.4f}{left}"
        tell(_log, progress, text, self.step, self.options.steps)

    def take(self, loss: Callable[[], Tensor]) -> bool:
        """One step, if the loss before it is finite."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.lr * self.options.rate(self.step)
        self.optimiser.zero_grad()
        value = loss()
        if not math.isfinite(float(value.detach())):
            return False
        whole = value + sum(motion.penalty() for motion in self.motions.values())
        whole.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        for motion in self.motions.values():
            motion.tighten(self.options.tightening)
        self.step += 1
        return True

    def _tired(self) -> bool:
        since = sum(1 for step, _ in self.history if step > self.best[0])
        return 0 < self.options.patience <= since

    def held(self) -> dict[str, Tensor]:
        """All that defines where the models are, right after a recentring."""
        return {
            f"{number}.{name}": tensor
            for number, motion in self.motions.items()
            for name, tensor in motion.held().items()
        }

    def hold(self, held: Mapping[str, Tensor]) -> None:
        """Takes up what `held` gave."""
        for number, motion in self.motions.items():
            head = f"{number}."
            motion.hold({name.removeprefix(head): tensor for name, tensor in held.items() if name.startswith(head)})

    def transforms(self, stays: Transform) -> tuple[Transform, ...]:
        """The best symmetry of each model; `stays` for one that does not move."""
        self.hold(self.best[2])
        by_number = {number: motion.transform(self.like) for number, motion in self.motions.items()}
        return tuple(by_number.get(number, stays) for number in range(len(self.given)))


def _optimiser(options: DescentOptions, latents: list[Tensor]) -> torch.optim.Optimizer:
    kind: Any = getattr(torch.optim, options.optimiser)
    # The landscape turns with the element: a memory of a thousand steps was seen to diverge where a hundred does not.
    settings = {"betas": (0.9, 0.99)} if "betas" in inspect.signature(kind).parameters else {}
    optimiser: torch.optim.Optimizer = kind(latents, lr=options.lr, **settings)
    return optimiser
