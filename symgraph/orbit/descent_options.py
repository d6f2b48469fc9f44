"""What moves over the orbit of a model, and how it descends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from symgraph.errors import UsageError
from symgraph.io.options import check, option

CHARTS = ("cayley", "exponential")
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionOptions:
    """What moves.

    `chart`: of rotations. `full`: invertible classes whole, radii of rotary pairs and scales as well, not the compact
    part alone. `permutations`: train permutations by straight-through assignment (scales of such a space then stay).
    `condition`: limit of the condition number of invertible matrices. `gauge`: gains of norms and constants of biases
    as well; the results then stay out of the gauge of A. `spaces`: patterns of the names of spaces. `relaxed`: patterns
    of those that start in a larger class, from which a dual variable leads back: rotations in invertible matrices,
    trained permutations in doubly stochastic ones.

    Raises:
        UsageError: there is no such chart, or the condition is not above one.
    """

    chart: str = option("cayley", "chart of rotations", choices=CHARTS)
    full: bool = option(True, "train rotations of invertible classes only, and no scales", flag="--compact")
    permutations: bool = option(
        False, "train permutations too (straight-through assignment)", flag="--learn-permutations"
    )
    condition: float = 100.0
    gauge: bool = option(
        False, "train gains of norms and constants of biases too; A in its new gauge goes to FOLDER-reference"
    )
    spaces: tuple[str, ...] = ("*",)
    relaxed: tuple[str, ...] = option(
        (),
        "start these spaces in a larger class and lead them back: rotations, and permutations that are trained",
        flag="--relax",
        metavar="PATTERN",
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.condition > 1:
            raise UsageError(f"a condition number of {self.condition:g} is no limit", remedy="give one above 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class DescentOptions(MotionOptions):
    """What moves, and how it descends.

    `optimiser`: any of `torch.optim` that needs no closure. `schedule` of the rate, after `warmup` steps.
    `check_every`: steps between two estimates; after `patience` of them without a better one it stops (0: never).
    `retract_every`: steps between two recentrings. `tightening`: how much the price of slack rises in a step for each
    unit that is left, where something is relaxed.

    Raises:
        UsageError: an option has a value that makes no sense; which one, and what does.
    """

    steps: int = option(1000, "training steps", least=0)
    optimiser: str = option("Adam", "any of torch.optim", metavar="NAME")
    lr: float = option(1e-2, "learning rate", above=0)
    schedule: str = option("cosine", "of the rate", choices=SCHEDULES)
    warmup: int = option(20, "steps in which the rate rises", least=0)
    seed: int = option(0, "of the order of the spaces, and of what is drawn")
    check_every: int = option(50, "steps between two estimates on validation data", least=1)
    patience: int = option(10, "stop after so many estimates without a better one; 0: never", least=0)
    retract_every: int = option(10, "steps between two recentrings", least=1)
    tightening: float = option(0.02, "rise of the price of slack", above=0)

    def __post_init__(self) -> None:
        MotionOptions.__post_init__(self)
        _check_optimiser(self.optimiser)

    def rate(self, step: int) -> float:
        """The factor on the learning rate at a step, counted from 0."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule != "cosine":
            return rise
        fall = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
        return rise * fall


def _check_optimiser(name: str) -> None:
    # What a command does not need is not imported: the options are read before anything is computed.
    from torch import optim

    optimiser = getattr(optim, name, None)
    if isinstance(optimiser, type) and issubclass(optimiser, optim.Optimizer) and name not in ("Optimizer", "LBFGS"):
        return
    raise UsageError(
        f"torch.optim has no optimiser {name!r} that can be used here",
        remedy="Adam, AdamW, SGD, or another one that takes lr and needs no closure",
    )
