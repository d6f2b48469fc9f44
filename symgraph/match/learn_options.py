"""How to learn: steps, rates, what moves, where between the models."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.measure.mixture import dirichlet
from symgraph.orbit.motion import MotionOptions

Progress = Callable[[str], None]
SAMPLERS = ("uniform", "normal", "dirichlet")
SCHEDULES = ("cosine", "constant")
ESTIMATES = ("even", "worst")


@dataclass(frozen=True, slots=True)
class LearnOptions:
    """How to learn.

    `dual`: the first model moves as well. `optimiser`: any of `torch.optim` that needs no closure. `schedule`:
    "cosine" or "constant", after `warmup` steps. `sampler`, `lambdas`: "uniform" between the two, or "normal" with this
    mean and standard deviation, clipped to [0, 1]; both for two models. "dirichlet", for any number: weights from the
    symmetric Dirichlet distribution with this `concentration`. `check_every`: steps between two estimates on validation
    data; after `patience` of them without a better one it stops (0: never). `retract_every`: steps between two
    recentrings. `tightening`: how much the price of slack rises in a step for each unit that is left, where something
    is relaxed. `estimate`: what stopping goes by, "even", the barrier of the even mixture, or "worst", the largest of
    those of the even mixture and of each pair's midpoint.

    Raises:
        UsageError: an option has a value that makes no sense; which one, and what does.
    """

    steps: int = 1000
    optimiser: str = "Adam"
    lr: float = 1e-2
    schedule: str = "cosine"
    warmup: int = 20
    sampler: str = "uniform"
    lambdas: tuple[float, float] = (0.4, 0.6)
    concentration: float = 0.1
    dual: bool = False
    seed: int = 0
    check_every: int = 50
    patience: int = 10
    retract_every: int = 10
    tightening: float = 0.02
    estimate: str = "even"
    motion: MotionOptions = field(default_factory=MotionOptions)

    def __post_init__(self) -> None:
        for name in ("steps", "warmup", "patience"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("check_every", "retract_every"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "1 or more")
        for name in ("lr", "tightening"):
            _require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "a positive number")
        _require(self.schedule in SCHEDULES, "schedule", self.schedule, " or ".join(SCHEDULES))
        _require(self.estimate in ESTIMATES, "estimate", self.estimate, " or ".join(ESTIMATES))
        _require(self.sampler in SAMPLERS, "sampler", self.sampler, " or ".join(SAMPLERS))
        _require(_is_range(self.sampler, self.lambdas), "lambdas", self.lambdas, _RANGES)
        _require(0 < self.concentration < math.inf, "concentration", self.concentration, "a positive number")
        _optimiser_class(self.optimiser)

    def rate(self, step: int) -> float:
        """The factor on the learning rate at a step, counted from 0."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        return rise * (0.5 + 0.5 * math.cos(math.pi * step / self.steps)) if self.schedule == "cosine" else rise

    def weights(self, models: int, generator: torch.Generator) -> tuple[float, ...]:
        """Random weights of so many models.

        Raises:
            UsageError: the sampler is one of two models, and there are more.
        """
        if self.sampler == "dirichlet":
            seed = int(torch.randint(2**31, (), generator=generator))
            return dirichlet(models, self.concentration, 1, seed)[0]
        if models != 2:
            remedy = "pass sampler='dirichlet'"
            raise UsageError(f"the sampler {self.sampler!r} draws between 2 models, not {models}", remedy=remedy)
        first, second = self.lambdas
        if self.sampler == "normal":
            drawn = first + second * float(torch.randn((), generator=generator))
            x = min(max(drawn, 0.0), 1.0)
        else:
            x = first + (second - first) * float(torch.rand((), generator=generator))
        return 1 - x, x


_RANGES = "two numbers, uniform: 0 <= low <= high <= 1; normal: a mean in [0, 1] and a deviation of 0 or more"


def _is_range(sampler: str, lambdas: tuple[float, ...]) -> bool:
    if len(lambdas) != 2 or not all(isinstance(x, int | float) and math.isfinite(x) for x in lambdas):
        return False
    first, second = lambdas
    return 0 <= first <= 1 and (second >= 0 if sampler == "normal" else first <= second <= 1)


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise UsageError(f"learned matching: {name} is {value!r}", remedy=f"give {wanted}")


def _optimiser_class(name: str) -> type[torch.optim.Optimizer]:
    found = getattr(torch.optim, name, None)
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer) and name not in ("Optimizer", "LBFGS"):
        return found
    raise UsageError(
        f"torch.optim has no optimiser {name!r} that can be used here",
        remedy="Adam, AdamW, SGD, or another one that takes lr and needs no closure",
    )


def optimiser(options: LearnOptions, latents: list[Tensor]) -> torch.optim.Optimizer:
    kind: Any = _optimiser_class(options.optimiser)
    # The landscape turns with the element: a memory of a thousand steps was seen to diverge where a hundred does not.
    settings = {"betas": (0.9, 0.99)} if "betas" in inspect.signature(kind).parameters else {}
    found: torch.optim.Optimizer = kind(latents, lr=options.lr, **settings)
    return found
