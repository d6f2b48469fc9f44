"""Steps of a program that train or compare, and the part of a step that says what is done on each space."""

from __future__ import annotations

from dataclasses import dataclass, fields

from symgraph.match.learn_options import LearnOptions
from symgraph.match.weights import MatchOptions
from symgraph.orbit.motion import MotionOptions


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """One unit of the descent: a space, its group and solver, and what is fibred over it."""

    space: str
    group: str
    solver: str
    inside: tuple[UnitPlan, ...] = ()

    def lines(self, indent: int) -> list[str]:
        """The unit as text, inner spaces indented."""
        head = f"{' ' * indent}{self.space:<{max(44 - indent, 1)}} {self.group:<24} {self.solver}"
        return [head, *(line for u in self.inside for line in u.lines(indent + 2))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """What is matched, and how: the options of a match, and what they come to on each unit."""

    units: tuple[UnitPlan, ...]
    method: str = "weights"
    sweeps: int = 15
    tolerance: float = 1e-7
    weighting: str | dict[str, float] = "inputs-halved"
    seed: int = 0
    restarts: int = 0
    spaces: tuple[str, ...] = ("*",)
    alpha: float | str = "auto"
    batches: int = 30
    rows: int = 128
    observed: tuple[str, ...] = ("*",)
    outer: str = "joint"

    @property
    def reads_data(self) -> bool:
        """Whether it needs activations."""
        return self.method == "activations" or self.weighting == "inputs"

    def lines(self, head: str, more: str = "") -> str:
        """The step as text: what it does, how, and each unit."""
        share = " with the best share of several" if self.alpha == "auto" else f" with a share of {self.alpha}"
        how = f"by {self.method}{share if self.method == 'activations' else ''}{more}"
        limits = f"at most {self.sweeps} sweeps, tolerance {self.tolerance:g}, seed {self.seed}"
        return "\n".join([f"{head} ({how}, {limits})", *(line for u in self.units for line in u.lines(6))])

    def options(self) -> MatchOptions:
        """The options of the descent."""
        return MatchOptions(**{f.name: getattr(self, f.name) for f in fields(MatchOptions)})


@dataclass(frozen=True, slots=True)
class MatchStep(Matching):
    """Find the element of the compact group that brings one canonical model nearest to another."""

    moving: str
    reference: str
    into: str
    op: str = "match"

    def __str__(self) -> str:
        return self.lines(f"{self.op:<13} {self.moving} to {self.reference} -> {self.into}")


@dataclass(frozen=True, slots=True)
class Join(Matching):
    """Find the elements that bring any number of canonical models nearest to the mean of the others.

    `reference`: the model whose gauge all end in; without one the first whose gauge has an inverse, in the order of the
    hashes of their weights.
    """

    models: tuple[str, ...]
    into: str
    rounds: int = 10
    reference: str = ""
    op: str = "join"

    def __str__(self) -> str:
        head = f"{self.op:<13} {', '.join(self.models)} -> {self.into}"
        return self.lines(head, f", at most {self.rounds} rounds")


@dataclass(frozen=True, slots=True)
class Settle:
    """Take all models of a universe into the gauge of its reference, and compare what they compute."""

    universe: str
    into: tuple[str, ...]
    op: str = "settle"

    def __str__(self) -> str:
        what = f"{self.universe} -> {', '.join(self.into)}"
        return f"{self.op:<13} {what}, in the gauge of its reference; every function is compared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How elements are trained: the options of learned matching, and what they come to on each unit."""

    units: tuple[UnitPlan, ...] = ()
    steps: int = 1000
    optimiser: str = "Adam"
    lr: float = 1e-2
    schedule: str = "cosine"
    warmup: int = 20
    sampler: str = "uniform"
    lambdas: tuple[float, ...] = (0.4, 0.6)
    concentration: float = 0.1
    dual: bool = False
    seed: int = 0
    check_every: int = 50
    patience: int = 10
    retract_every: int = 10
    tightening: float = 0.02
    chart: str = "cayley"
    full: bool = True
    permutations: bool = False
    condition: float = 100.0
    gauge: bool = False
    spaces: tuple[str, ...] = ("*",)
    relaxed: tuple[str, ...] = ()
    estimate: str = "even"

    def lines(self, head: str) -> str:
        """The step as text: what it does, how, and each unit."""
        low, high = self.lambdas
        drawn = f"lambda {'N' if self.sampler == 'normal' else 'U'}({low:g}, {high:g})"
        drawn = f"lambda Dirichlet({self.concentration:g})" if self.sampler == "dirichlet" else drawn
        both = "both move, " if self.dual else ""
        what = (
            f"{both}{self.steps} steps of {self.optimiser}, rate {self.lr:g} {self.schedule}, {drawn}, seed {self.seed}"
        )
        worst = " of the worst mixture" if self.estimate == "worst" else ""
        stop = f"estimates{worst} every {self.check_every} steps, patience {self.patience}"
        lines = [f"{head} ({what}; {stop})"]
        lines += ["      gains of norms and constants of biases"] if self.gauge else []
        return "\n".join(lines + [line for u in self.units for line in u.lines(6)])

    def options(self) -> LearnOptions:
        """The options of the training.

        Raises:
            UsageError: one of them has a value that makes no sense.
        """
        motion = {f.name: getattr(self, f.name) for f in fields(MotionOptions)}
        own = {f.name: getattr(self, f.name) for f in fields(LearnOptions) if f.name != "motion"}
        return LearnOptions(**own, motion=MotionOptions(**motion))


@dataclass(frozen=True, slots=True)
class LearnStep(Training):
    """Train elements on the task loss between two canonical models, from a match on; `other` names what A becomes."""

    moving: str
    reference: str
    start: str
    into: str
    other: str = ""
    op: str = "learn"

    def __str__(self) -> str:
        into = f"{self.into} and {self.other}" if self.other else self.into
        return self.lines(f"{self.op:<13} {self.moving} to {self.reference} from {self.start} -> {into}")


@dataclass(frozen=True, slots=True)
class LearnAll(Training):
    """Train the elements of a universe on the task loss at mixtures of all its models."""

    universe: str
    op: str = "learn-all"

    def __str__(self) -> str:
        return self.lines(f"{self.op:<13} {self.universe}")


@dataclass(frozen=True, slots=True)
class Embed:
    """Embed a narrower model exactly into the shape of the other; `spaces` says how each space grows."""

    model: str
    like: str
    into: str
    spaces: tuple[str, ...] = ()
    op: str = "embed"

    def __str__(self) -> str:
        head = f"{self.op:<13} {self.model} into the shape of {self.like} -> {self.into}"
        return "\n".join([head, *(f"      {s}" for s in self.spaces)])


@dataclass(frozen=True, slots=True)
class Reduce:
    """Reduce a wider model to the shape of the other, approximately; `spaces` says which spaces shrink."""

    model: str
    like: str
    into: str
    spaces: tuple[str, ...] = ()
    op: str = "reduce"

    def __str__(self) -> str:
        head = (
            f"{self.op:<13} {self.model} to the shape of {self.like} -> {self.into} (APPROXIMATE: the function changes)"
        )
        return "\n".join([head, *(f"      {s}" for s in self.spaces)])


@dataclass(frozen=True, slots=True)
class Split:
    """Split units of one model into its idle ones where that brings it nearer to another, with the same function."""

    moving: str
    reference: str
    start: str
    into: str
    weighting: str | dict[str, float] = "inputs-halved"
    spaces: tuple[str, ...] = ("*",)
    op: str = "split"

    def __str__(self) -> str:
        return f"{self.op:<13} units of {self.moving} towards {self.reference} after {self.start} -> {self.into}"


@dataclass(frozen=True, slots=True)
class Soften:
    """Put doubly stochastic matrices in the place of permutations: approximate, and measured when it runs."""

    moving: str
    reference: str
    start: str
    into: str
    temperature: float
    weighting: str | dict[str, float] = "inputs-halved"
    spaces: tuple[str, ...] = ("*",)
    op: str = "soften"

    def __str__(self) -> str:
        what = f"{self.moving} towards {self.reference} after {self.start} -> {self.into}"
        return f"{self.op:<13} {what} (APPROXIMATE: the function changes; temperature {self.temperature:g})"


@dataclass(frozen=True, slots=True)
class Check:
    """Compare the outputs of a model before and after, in the precision of the run."""

    before: str
    after: str
    op: str = "check"

    def __str__(self) -> str:
        return f"{self.op:<13} {self.after} computes what {self.before} computes"
