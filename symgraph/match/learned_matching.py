"""Learned matching: elements of the symmetry group trained on the task loss between two models or more.

    min over g of  E over lambda, batch  L( sum_m lambda_m g_m . A_m )

Only elements move; all models are in canonical form and stay what they are. Once per step the weights between the
models are built through the group's action, differentiably, and the user's own module computes its own loss on them.
What is kept are the best elements on validation data, by the barrier of the even mixture, the start included.

Source: learned matching of Theus et al., arXiv 2506.22712, section 4 (one model moves; many models with mixtures from a
Dirichlet distribution); Li and Shen, arXiv 2606.23607 (both move). Where only elements that act linearly on all
parameters move, g_A is redundant in what it can reach, since g_A . A and g_B . B are between them what A and
g_A^-1 g_B . B are; it doubles the step and gives another path.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import DataError, UsageError
from symgraph.match.feed import Feed, divided
from symgraph.match.learning_checkpoint import Checkpoint
from symgraph.match.match_options import LearnOptions, Progress
from symgraph.measure.batches import repeatable
from symgraph.measure.forward import fixed_tensors, usual_dtype
from symgraph.measure.losses import PerExample
from symgraph.measure.mixture import dirichlet, is_shared_mask, weighted_mean
from symgraph.measure.objective import Objective
from symgraph.orbit.motion import Motion
from symgraph.orbit.steps import State, Transform
from symgraph.rules.book import RuleBook
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.wrap import evaluating


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned on: the network, training and validation batches, the loss, and where to leave checkpoints.

    Without `validation` every tenth batch of `training` is set apart. `loss`: as for `loss_barrier`. `checkpoint`: a
    file that is written at every estimate; with `resume` it is taken up where it exists. `book`: the rules, for
    activation matching, which infers the spaces of the model once more at the shape of the batches.
    """

    network: nn.Module
    training: Any
    validation: Any = None
    loss: str | PerExample = "cross-entropy"
    checkpoint: str | Path | None = None
    resume: bool = False
    dtype: torch.dtype | None = None
    device: str | torch.device = "cpu"
    book: RuleBook | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """The symmetries found, as steps on canonical forms, None for a model that stays and can end in its own gauge.

    `history` has the step and the estimate on validation data, from step 0 on: the barrier of the even mixture, or the
    largest of several mixtures (`worst`);
    `best` is the step whose elements are kept; `ended` says why it ended.
    """

    transforms: tuple[Transform | None, ...]
    history: tuple[tuple[int, float], ...]
    best: int
    steps: int
    ended: str
    worst: bool = False

    def __str__(self) -> str:
        found = dict(self.history)
        middle = "at lambda 0.5" if len(self.transforms) == 2 else "of the even mixture"
        middle = "of the worst mixture" if self.worst else middle
        return (
            f"learned over {self.steps} steps ({self.ended}): validation barrier {middle} "
            f"{found[0]:.4f} -> {found[self.best]:.4f} (kept: step {self.best})"
        )


def learn(
    symmetry: SymmetryGraph,
    states: Sequence[Mapping[str, Tensor]],
    lesson: Lesson,
    options: LearnOptions | None = None,
    progress: Progress | None = None,
) -> Learned:
    """Trains symmetries of all models but the first (or of that too) so that the loss between them is small.

    Args:
        states: models in canonical form, all matched to the first or to their mean.
        options: those of `LearnOptions` where none are given.

    Raises:
        UsageError: nothing has anything to learn, the sampler is not for so many models, or a checkpoint is that of
            another run.
        DataError: batches do not fit the model, there are none, or a model's own loss is not finite.

    Source: Theus et al., arXiv 2506.22712, section 4; arXiv 2606.23607.
    """
    run = _Run(symmetry, states, lesson, options or LearnOptions())
    with evaluating(lesson.network):
        return run.result(run.all_steps(progress))


class _Run:
    """The state of a run between two steps."""

    def __init__(
        self, symmetry: SymmetryGraph, states: Sequence[Mapping[str, Tensor]], lesson: Lesson, o: LearnOptions
    ) -> None:
        self.symmetry, self.options, self.lesson = symmetry, o, lesson
        self.dtype = lesson.dtype or usual_dtype(lesson.network)
        self.device = torch.device(lesson.device)
        self.objective = Objective(lesson.network, lesson.loss, self.dtype)
        training, validation = (
            (lesson.training, lesson.validation) if lesson.validation is not None else divided(lesson.training)
        )
        self.validation = repeatable(validation, "validation data")
        self.generator = torch.Generator().manual_seed(o.seed)
        self.feed = Feed(training, self.generator)
        # What is found is composed with what the states came from.
        self.like = next(t for t in states[0].values() if t.is_floating_point())
        self.states = {_name(i): self._placed(s) for i, s in enumerate(states)}
        first, *others = self.states.values()
        # Infinite entries of a mask would become NaN on the way from one to the same.
        self.rest = {n: t for n, t in first.items() if is_shared_mask([t, *(s[n] for s in others)])}
        self.buffers = {n for n, _ in lesson.network.named_buffers()}
        self.rest |= fixed_tensors(lesson.network, first, self.dtype, self.device)
        moving = list(self.states)[0 if o.dual else 1 :]
        self.motions = {s: Motion(symmetry, o, self.dtype, self.device) for s in moving}
        self.latents = {f"{s}.{n}": t for s, m in self.motions.items() for n, t in m.latents().items()}
        self.optimiser = optimiser(o, list(self.latents.values()))
        self.step = 0
        self.history: list[tuple[int, float]] = []
        self.best: tuple[int, float, dict[str, Tensor]] = (0, math.inf, {})
        self.losses: tuple[float, ...] = ()
        self.mixtures = _mixtures(len(states), o.estimate)

    def _placed(self, state: Mapping[str, Tensor]) -> State:
        floating = ((n, t) for n, t in state.items() if t.is_floating_point())
        return {n: t.detach().to(self.device, self.dtype) for n, t in floating}

    # -- one point -----------------------------------------------------------------------------------------------

    def between(self, weights: Sequence[float], *, exact: bool = False) -> dict[str, Tensor]:
        """The tensors of the network at a mixture, differentiable in the latents."""
        moved = [
            (self.motions[name].on(state, exact=exact) if name in self.motions else state, weight)
            for (name, state), weight in zip(self.states.items(), weights, strict=True)
            if weight
        ]
        names = [n for n in moved[0][0] if n not in self.rest]
        found = {n: weighted_mean([s[n] for s, _ in moved], [w for _, w in moved]) for n in names}
        # Statistics of norms have no gradient in torch; they move with the element all the same.
        return self.rest | {n: t.detach() if n in self.buffers else t for n, t in found.items()}

    def _take(self) -> float:
        """One step; the loss before it."""
        batch, weights = self.feed.next(), drawn(self.options, len(self.states), self.generator)
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.lr * self.options.rate(self.step)
        self.optimiser.zero_grad()
        loss, _ = self.objective.mean(self.between(weights), batch, f"step {self.step + 1}")
        value = float(loss.detach())
        if math.isfinite(value):
            whole = loss + sum(m.penalty() for m in self.motions.values())
            whole.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            for m in self.motions.values():
                m.tighten(self.options.tightening)
            self.step += 1
        return value

    # -- the whole -----------------------------------------------------------------------------------------------

    def all_steps(self, progress: Progress | None) -> str:
        """Steps until there is a reason to end, which is returned."""
        self.losses = self._ends()
        if not self._resumed():
            self._estimate(progress)
        while self.step < self.options.steps:
            if self._tired():
                return f"no better for {self.options.patience} estimates"
            if not math.isfinite(self._take()):
                return f"the loss is not finite at step {self.step + 1}"
            last = self.step == self.options.steps
            check = last or self.step % self.options.check_every == 0
            if check or self.step % self.options.retract_every == 0:
                for m in self.motions.values():
                    m.retract()
            if check:
                self._estimate(progress)
                self._checkpoint()
        return "all steps"

    def _ends(self) -> tuple[float, ...]:
        """The losses of all models on validation data."""
        losses = {
            n: self.objective.over(self.rest | s, self.validation, "validation data") for n, s in self.states.items()
        }
        for name, value in losses.items():
            if not math.isfinite(value):
                raise DataError(
                    f"the loss of {name} on validation data is not finite",
                    cause=f"it is {value}",
                    remedy="look for NaN or huge values in the data, or compute in a wider dtype",
                )
        return tuple(losses.values())

    @torch.no_grad()
    def _estimate(self, progress: Progress | None) -> None:
        barriers = [self._barrier(weights) for weights in self.mixtures]
        barrier = max(barriers) if all(map(math.isfinite, barriers)) else math.inf
        self.history.append((self.step, barrier))
        if not self.best[2] or barrier < self.best[1]:
            self.best = (self.step, barrier if math.isfinite(barrier) else math.inf, self._held())
        if progress is not None:
            slack = max(m.slack() for m in self.motions.values())
            left = f", slack {slack:.2f}" if slack else ""
            progress(f"step {self.step} of {self.options.steps}: validation barrier {barrier:.4f}{left}")

    def _barrier(self, weights: Sequence[float]) -> float:
        found = self.objective.over(self.between(weights, exact=True), self.validation, "validation data")
        return found - sum(w * x for w, x in zip(weights, self.losses, strict=True))

    def _tired(self) -> bool:
        since = sum(1 for step, _ in self.history if step > self.best[0])
        return 0 < self.options.patience <= since

    def _held(self) -> dict[str, Tensor]:
        return {f"{s}.{n}": t for s, m in self.motions.items() for n, t in m.held().items()}

    def _hold(self, held: Mapping[str, Tensor]) -> None:
        for s, m in self.motions.items():
            m.hold({n.removeprefix(f"{s}."): t for n, t in held.items() if n.startswith(f"{s}.")})

    def result(self, ended: str) -> Learned:
        """What is kept, with why the run ended."""
        self._hold(self.best[2])
        found = {s: m.transform(self.like) for s, m in self.motions.items()}
        stays = Transform() if self.options.gauge else None
        transforms = tuple(found.get(s, stays) for s in self.states)
        return Learned(transforms, tuple(self.history), self.best[0], self.step, ended, len(self.mixtures) > 1)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        # Digits that rounding in another order, as on more threads, does not reach.
        tensors = (t for s in self.states.values() for t in s.values() if t.isfinite().all())
        sizes = [f"{float(t.double().norm()):.5e}" for t in tensors]
        return {
            "symmetry": self.symmetry.fingerprint,
            "options": {f.name: getattr(self.options, f.name) for f in fields(LearnOptions)},
            "models": sizes,
        }

    def _checkpoint(self) -> None:
        if self.lesson.checkpoint is None:
            return
        Checkpoint(
            self._identity(),
            self.step,
            tuple(self.history),
            self.best,
            self._held(),
            self.optimiser.state_dict(),
            self.generator.get_state(),
            self.feed.state(),
        ).save(self.lesson.checkpoint)

    def _resumed(self) -> bool:
        """Takes up the checkpoint, if there is one and it is wanted."""
        path = self.lesson.checkpoint
        if path is None or not self.lesson.resume or not Path(path).exists():
            return False
        found = Checkpoint.load(path, self._identity())
        self.step, self.history, self.best = found.step, list(found.history), found.best
        self._hold(found.held)
        self.optimiser.load_state_dict(found.optimiser)
        self.generator.set_state(found.generator)
        self.feed.load(found.feed)
        return True


def _mixtures(models: int, estimate: str) -> list[tuple[float, ...]]:
    """The mixtures that are looked at: the even one, and each pair's midpoint where the worst counts."""
    even = (1 / models,) * models
    if estimate == "even" or models == 2:
        return [even]
    pairs = combinations(range(models), 2)
    return [even, *(tuple(0.5 if k in pair else 0.0 for k in range(models)) for pair in pairs)]


def _name(model: int) -> str:
    """What messages call a model: A, B, and so on."""
    return chr(ord("A") + model) if model < 26 else f"model {model + 1}"


def drawn(options: LearnOptions, models: int, generator: torch.Generator) -> tuple[float, ...]:
    """Random weights of so many models.

    Raises:
        UsageError: the sampler is one of two models, and there are more.
    """
    if options.sampler == "dirichlet":
        seed = int(torch.randint(2**31, (), generator=generator))
        return dirichlet(models, options.concentration, 1, seed)[0]
    if models != 2:
        remedy = "pass sampler='dirichlet'"
        raise UsageError(f"the sampler {options.sampler!r} draws between 2 models, not {models}", remedy=remedy)
    first, second = options.lambdas
    if options.sampler == "normal":
        x = min(max(first + second * float(torch.randn((), generator=generator)), 0.0), 1.0)
    else:
        x = first + (second - first) * float(torch.rand((), generator=generator))
    return 1 - x, x


def optimiser(options: LearnOptions, latents: list[Tensor]) -> torch.optim.Optimizer:
    kind: Any = getattr(torch.optim, options.optimiser)
    # The landscape turns with the element: a memory of a thousand steps was seen to diverge where a hundred does not.
    settings = {"betas": (0.9, 0.99)} if "betas" in inspect.signature(kind).parameters else {}
    found: torch.optim.Optimizer = kind(latents, lr=options.lr, **settings)
    return found
