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
        found = dict(self.history)
        return f"{self.steps} steps ({self.ended}): {found[0]:.6g} -> {found[self.best]:.6g} (kept: step {self.best})"


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
    canonical = [canonicalise(symmetry, s) for s in given]
    moving = [i for i in range(len(given)) if i not in still]
    run = Descent(symmetry, [c.state for c in canonical], moving, options or DescentOptions())

    @torch.no_grad()
    def estimate() -> float:
        return float(objective(*run.states(exact=True)))

    def loss() -> Tensor:
        found: Any = objective(*run.states())
        if not isinstance(found, Tensor):
            what = f"the objective gave a {type(found).__name__}"
            raise UsageError(what, remedy="give a tensor of one number, computed from the states by torch")
        if not found.requires_grad:
            raise UsageError("the objective depends on nothing that moves", remedy="name other spaces, or another one")
        return found

    run.measure(estimate, progress)
    if not math.isfinite(run.history[0][1]):
        remedy = "give an objective that is finite at the canonical form of each model"
        raise UsageError("the objective is not finite at the start", cause=f"it is {run.history[0][1]}", remedy=remedy)
    ended = run.run(loss, estimate, progress)
    transforms = run.transforms(Transform())
    moved = tuple(t.apply(c.state) for t, c in zip(transforms, canonical, strict=True))
    whole = tuple(c.transform.then(t) for t, c in zip(transforms, canonical, strict=True))
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
        first = next(t for t in states[0].values() if t.is_floating_point())
        self.like = first if like is None else like
        self.motions = {i: Motion(symmetry, options, first.dtype, first.device) for i in sorted(moving)}
        latents = [t for m in self.motions.values() for t in m.latents().values()]
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
        return tuple(self.state(i, exact=exact) for i in range(len(self.given)))

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
                for m in self.motions.values():
                    m.retract()
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
        slack = max(m.slack() for m in self.motions.values())
        left = f", slack {slack:.2f}" if slack else ""
        text = f"step {self.step} of {self.options.steps}: {self.estimated}{value:.4f}{left}"
        tell(_log, progress, text, self.step, self.options.steps)

    def take(self, loss: Callable[[], Tensor]) -> bool:
        """One step, if the loss before it is finite."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.lr * self.options.rate(self.step)
        self.optimiser.zero_grad()
        found = loss()
        if not math.isfinite(float(found.detach())):
            return False
        whole = found + sum(m.penalty() for m in self.motions.values())
        whole.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        for m in self.motions.values():
            m.tighten(self.options.tightening)
        self.step += 1
        return True

    def _tired(self) -> bool:
        since = sum(1 for step, _ in self.history if step > self.best[0])
        return 0 < self.options.patience <= since

    def held(self) -> dict[str, Tensor]:
        """All that defines where the models are, right after a recentring."""
        return {f"{i}.{n}": t for i, m in self.motions.items() for n, t in m.held().items()}

    def hold(self, held: Mapping[str, Tensor]) -> None:
        """Takes up what `held` gave."""
        for i, m in self.motions.items():
            head = f"{i}."
            m.hold({n.removeprefix(head): t for n, t in held.items() if n.startswith(head)})

    def transforms(self, stays: Transform) -> tuple[Transform, ...]:
        """The best symmetry of each model; `stays` for one that does not move."""
        self.hold(self.best[2])
        found = {i: m.transform(self.like) for i, m in self.motions.items()}
        return tuple(found.get(i, stays) for i in range(len(self.given)))


def _optimiser(options: DescentOptions, latents: list[Tensor]) -> torch.optim.Optimizer:
    kind: Any = getattr(torch.optim, options.optimiser)
    # The landscape turns with the element: a memory of a thousand steps was seen to diverge where a hundred does not.
    settings = {"betas": (0.9, 0.99)} if "betas" in inspect.signature(kind).parameters else {}
    found: torch.optim.Optimizer = kind(latents, lr=options.lr, **settings)
    return found
