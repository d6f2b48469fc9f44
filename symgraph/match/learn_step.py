"""The step that trains matched models on the task loss at their mixtures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from symgraph.match.learned_matching import learn
from symgraph.match.match_options import LearnOptions
from symgraph.match.program_run import Run, held
from symgraph.match.program_step import ProgramStep, UnitPlan, listed


@dataclass(frozen=True, slots=True)
class LearnStep(LearnOptions, ProgramStep):
    """Train the elements of matched models on the task loss at mixtures of all of them."""

    matched: str
    units: tuple[UnitPlan, ...] = field(default=(), kw_only=True)
    op: ClassVar[str] = "learn"

    @property
    def reads_data(self) -> bool:
        """It is trained on batches."""
        return True

    def apply(self, run: Run) -> None:
        """The models from where they are matched on, the reference first, since the first may stay."""
        lesson, made = run.data(), held(run.together, self.matched, self.op)
        order = sorted(made.states, key=lambda n: n != made.first)
        states = [made.states[name] for name in order]
        found = learn(run.symmetry, states, lesson, self, run.progress, run.opened(f"{self.op} {self.matched}"))
        for name, moved in zip(order, found.transforms, strict=True):
            if moved is not None:
                made.shared[name] = made.shared[name].then(moved)
        # Gains and constants that were trained belong to no model's gauge.
        made.learned, made.trained = found, self.gauge
        run.notes.append(str(found))

    def __str__(self) -> str:
        low, high = self.lambdas
        drawn = f"lambda {'N' if self.sampler == 'normal' else 'U'}({low:g}, {high:g})"
        drawn = f"lambda Dirichlet({self.concentration:g})" if self.sampler == "dirichlet" else drawn
        both = "all move, " if self.dual else ""
        rate = f"{self.steps} steps of {self.optimiser}, rate {self.lr:g} {self.schedule}"
        worst = " of the worst mixture" if self.estimate == "worst" else ""
        stop = f"estimates{worst} every {self.check_every} steps, patience {self.patience}"
        head = f"{self.op:<13} {self.matched} ({both}{rate}, {drawn}, seed {self.seed}; {stop})"
        gauge = "\n      gains of norms and constants of biases" if self.gauge else ""
        return listed(head + gauge, self.units)
