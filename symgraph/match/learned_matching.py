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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import DataError, UsageError, argument
from symgraph.io.options import values_of
from symgraph.match.feed import Feed, divided
from symgraph.match.match_options import LearnOptions
from symgraph.match.run_file import Opened
from symgraph.measure.batches import repeatable
from symgraph.measure.forward import fixed_tensors, usual_dtype
from symgraph.measure.losses import Named
from symgraph.measure.mixture import dirichlet, is_shared_mask, weighted_mean
from symgraph.measure.objective import Objective
from symgraph.orbit.descend import Descent
from symgraph.orbit.steps import State, Transform
from symgraph.rules.book import RuleBook
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.progress import Progress
from symgraph.tracing.sampling import first_floating
from symgraph.tracing.wrap import evaluating

_ESTIMATED = "validation barrier "


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned on: the network, training and validation batches, and the loss.

    Without `validation` every tenth batch of `training` is set apart. `loss`: as for `loss_barrier`. `book`: the rules,
    for activation matching, which infers the spaces of the model once more at the shape of the batches.
    """

    network: nn.Module
    training: Any
    validation: Any = None
    loss: Named = "cross-entropy"
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
    opened: Opened | None = None,
) -> Learned:
    """Trains symmetries of all models but the first (or of that too) so that the loss between them is small.

    Args:
        states: models in canonical form, all matched to the first or to their mean.
        options: those of `LearnOptions` where none are given.
        opened: the place in a file that is written at every estimate, and taken up where something is there.

    Raises:
        UsageError: nothing has anything to learn, the sampler is not for so many models, or a checkpoint is that of
            another run.
        DataError: batches do not fit the model, there are none, or a model's own loss is not finite.

    Source: Theus et al., arXiv 2506.22712, section 4; arXiv 2606.23607.
    """
    run = _Run(symmetry, states, lesson, options or LearnOptions(), opened)
    with evaluating(lesson.network):
        return run.learned(progress)


class _Run:
    """A descent of the loss on batches, at mixtures of the models."""

    def __init__(
        self,
        symmetry: SymmetryGraph,
        states: Sequence[Mapping[str, Tensor]],
        lesson: Lesson,
        options: LearnOptions,
        opened: Opened | None = None,
    ) -> None:
        self.symmetry, self.options, self.lesson = symmetry, options, lesson
        self.dtype = lesson.dtype or usual_dtype(lesson.network)
        self.device = torch.device(lesson.device)
        self.objective = Objective(lesson.network, lesson.loss, self.dtype)
        training, validation = lesson.training, lesson.validation
        if validation is None:
            training, validation = divided(training, other="validation")
        self.validation = repeatable(validation, "validation data")
        self.generator = torch.Generator().manual_seed(options.seed)
        self.feed = Feed(training, self.generator)
        # What is found is composed with what the states came from.
        like = first_floating(states[0])
        self.states = [self._placed(state) for state in states]
        first = self.states[0]
        # Infinite entries of a mask would become NaN on the way from one to the same.
        masks = {name for name in first if is_shared_mask([state[name] for state in self.states])}
        self.rest = {name: tensor for name, tensor in first.items() if name in masks}
        self.buffers = {name for name, _ in lesson.network.named_buffers()}
        self.rest |= fixed_tensors(lesson.network, first, self.dtype, self.device)
        moving = range(0 if options.dual else 1, len(states))
        self.descent = Descent(symmetry, self.states, moving, options, like, _ESTIMATED)
        self.mixtures = _mixtures(len(states), options.estimate)
        self.section = None if opened is None else opened(self._identity())

    def _placed(self, state: Mapping[str, Tensor]) -> State:
        floating = ((name, tensor) for name, tensor in state.items() if tensor.is_floating_point())
        return {name: tensor.detach().to(self.device, self.dtype) for name, tensor in floating}

    def learned(self, progress: Progress | None) -> Learned:
        """Steps until there is a reason to end, and what is kept."""
        losses, descent = self._ends(), self.descent

        @torch.no_grad()
        def estimate() -> float:
            barriers = [self._barrier(weights, losses) for weights in self.mixtures]
            return max(barriers) if all(map(math.isfinite, barriers)) else math.inf

        if not self._resumed():
            descent.measure(estimate, progress)
        ended = descent.run(self._loss, estimate, progress, self._checkpoint)
        stays = Transform() if self.options.gauge else None
        found = enumerate(descent.transforms(Transform()))
        transforms = tuple(transform if model in descent.motions else stays for model, transform in found)
        worst = len(self.mixtures) > 1
        return Learned(transforms, tuple(descent.history), descent.best[0], descent.step, ended, worst)

    def _loss(self) -> Tensor:
        batch, weights = self.feed.next(), drawn(self.options, len(self.states), self.generator)
        tensors = self.between(weights)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.autocast):
            loss, _ = self.objective.mean(tensors, batch, f"step {self.descent.step + 1}")
        return loss

    def between(self, weights: Sequence[float], *, exact: bool = False) -> dict[str, Tensor]:
        """The tensors of the network at a mixture, differentiable in the latents."""
        counted = {model: weight for model, weight in enumerate(weights) if weight}
        moved = [self.descent.state(model, exact=exact) for model in counted]
        names = [name for name in moved[0] if name not in self.rest]
        found = {name: weighted_mean([state[name] for state in moved], list(counted.values())) for name in names}
        # Statistics of norms have no gradient in torch; they move with the element all the same.
        return self.rest | {name: mean.detach() if name in self.buffers else mean for name, mean in found.items()}

    def _ends(self) -> list[float]:
        """The losses of all models on validation data."""
        losses = [self.objective.over(self.rest | state, self.validation, "validation data") for state in self.states]
        for model, value in enumerate(losses):
            if not math.isfinite(value):
                raise DataError(
                    f"the loss of {_name(model)} on validation data is not finite",
                    cause=f"it is {value}",
                    remedy="look for NaN or huge values in the data, or compute in a wider dtype",
                )
        return losses

    def _barrier(self, weights: Sequence[float], losses: Sequence[float]) -> float:
        found = self.objective.over(self.between(weights, exact=True), self.validation, "validation data")
        return found - sum(weight * loss for weight, loss in zip(weights, losses, strict=True))

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        # Digits that rounding in another order, as on more threads, does not reach.
        tensors = (tensor for state in self.states for tensor in state.values() if tensor.isfinite().all())
        sizes = [f"{float(tensor.double().norm()):.5e}" for tensor in tensors]
        options = values_of(self.options, LearnOptions)
        return {"symmetry": self.symmetry.fingerprint, "options": options, "models": sizes}

    def _checkpoint(self) -> None:
        if self.section is None:
            return
        descent = self.descent
        self.section.keep(
            step=descent.step,
            history=tuple(descent.history),
            best=descent.best,
            held=descent.held(),
            optimiser=descent.optimiser.state_dict(),
            generator=self.generator.get_state(),
            feed=self.feed.state(),
        )

    def _resumed(self) -> bool:
        """Takes up what the file has, if there is anything."""
        if self.section is None or not self.section.content:
            return False
        found, descent = self.section.content, self.descent
        descent.step, descent.history, descent.best = found["step"], list(found["history"]), found["best"]
        descent.hold(found["held"])
        descent.optimiser.load_state_dict(found["optimiser"])
        self.generator.set_state(found["generator"])
        self.feed.load(found["feed"])
        return True


def _mixtures(models: int, estimate: str) -> list[tuple[float, ...]]:
    """The mixtures that are looked at: the even one, and each pair's midpoint where the worst counts."""
    even = (1 / models,) * models
    if estimate == "even" or models == 2:
        return [even]
    pairs = combinations(range(models), 2)
    return [even, *(tuple(0.5 if model in pair else 0.0 for model in range(models)) for pair in pairs)]


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
        remedy = argument("sampler", "dirichlet", within="learning")
        raise UsageError(f"the sampler {options.sampler!r} draws between 2 models, not {models}", remedy=remedy)
    first, second = options.lambdas
    if options.sampler == "normal":
        share = min(max(first + second * float(torch.randn((), generator=generator)), 0.0), 1.0)
    else:
        share = first + (second - first) * float(torch.rand((), generator=generator))
    return 1 - share, share
