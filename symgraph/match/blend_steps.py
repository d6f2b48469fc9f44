"""Steps that split or average single units of one model after a match."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from symgraph.errors import VerifyError
from symgraph.match.blends import soften, split
from symgraph.match.program_run import Run, held, largest_change, output_change
from symgraph.match.program_step import ProgramStep
from symgraph.match.tensor_weights import parameter_weights
from symgraph.orbit.blend import Blend
from symgraph.orbit.steps import State, Transform

Weights = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Blending(ProgramStep):
    """Blends of units of one matched model that bring it nearer to another."""

    matched: str
    moving: str
    reference: str
    weighting: str | Mapping[str, float] = field(default="inputs-halved", kw_only=True)
    spaces: tuple[str, ...] = field(default=("*",), kw_only=True)

    def apply(self, run: Run) -> None:
        """The model with its units blended."""
        made = held(run.together, self.matched, self.op)
        a, b = (dict(held(made.states, name, self.op)) for name in (self.reference, self.moving))
        parameters = ({name: s[name] for name in run.symmetry.graph.parameters} for s in (a, b))
        read = (run.symmetry.stacked(run.symmetry.reading.of(own)) for own in parameters)
        weights = parameter_weights(run.symmetry, self.weighting, *read)
        blends = Transform(self.blends(run, a, b, weights))
        made.shared[self.moving] = made.shared[self.moving].then(blends)
        made.states[self.moving] = moved = blends.apply(b)
        self.judge(run, output_change(run.symmetry, b, moved), largest_change(b))

    @abstractmethod
    def blends(self, run: Run, a: State, b: State, weights: Weights) -> tuple[Blend, ...]:
        """What is done to the units of B."""

    @abstractmethod
    def judge(self, run: Run, error: float, allowed: float) -> None:
        """What is said or refused for a change of the outputs."""


@dataclass(frozen=True, slots=True)
class Split(_Blending):
    """Split units of one model into its idle ones where that brings it nearer to another, with the same function."""

    op: ClassVar[str] = "split"

    def blends(self, run: Run, a: State, b: State, weights: Weights) -> tuple[Blend, ...]:
        """Units copied into idle ones."""
        found, notes = split(run.symmetry, a, b, weights, self.spaces)
        run.notes.extend(notes or ("no unit was split: none is idle, or nothing comes nearer",))
        return found

    def judge(self, run: Run, error: float, allowed: float) -> None:
        """It is exact."""
        if not error <= allowed:
            raise VerifyError(
                f"splitting units changes the outputs by {error:.1e}",
                cause=f"allowed is {allowed:.0e}",
                remedy="align without splitting, and report the model",
            )

    def __str__(self) -> str:
        return f"{self.op:<13} units of {self.moving} towards {self.reference} in {self.matched}"


@dataclass(frozen=True, slots=True)
class Soften(_Blending):
    """Put doubly stochastic matrices in the place of permutations: approximate, and measured when it runs."""

    temperature: float
    op: ClassVar[str] = "soften"

    def blends(self, run: Run, a: State, b: State, weights: Weights) -> tuple[Blend, ...]:
        """Units averaged with those like them."""
        return soften(run.symmetry, a, b, weights, self.temperature, self.spaces)

    def judge(self, run: Run, error: float, allowed: float) -> None:
        """By how much the function changes is said."""
        held(run.together, self.matched, self.op).approximate.add(self.moving)
        run.notes.append(f"APPROXIMATE: soft permutations change the outputs of B by {error:.2g} (relative, at most)")

    def __str__(self) -> str:
        what = f"{self.moving} towards {self.reference} in {self.matched}"
        return f"{self.op:<13} {what} (APPROXIMATE: the function changes; temperature {self.temperature:g})"
