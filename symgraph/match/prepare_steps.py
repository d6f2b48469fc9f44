"""Steps before a match: models of another width to one shape, then each to its canonical form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from symgraph.errors import UsageError
from symgraph.match.program_run import Run, widened
from symgraph.match.program_step import ProgramStep
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.steps import State
from symgraph.resize.embed import Embedding, embed
from symgraph.resize.narrow import Reduction, reduce
from symgraph.symmetry.graph import SymmetryGraph

Made = Callable[[SymmetryGraph, State, State], Embedding | Reduction]


@dataclass(frozen=True, slots=True)
class Embed(ProgramStep):
    """Embed a narrower model exactly into the shape of another; `spaces` says how each space grows."""

    model: str
    like: str
    into: str
    spaces: tuple[str, ...] = ()
    op: ClassVar[str] = "embed"

    def apply(self, run: Run) -> None:
        """The model in the shape of the other."""
        _reshape(self, run, lambda other, state, like: embed(run.symmetry, other, state, like))

    def __str__(self) -> str:
        head = f"{self.op:<13} {self.model} into the shape of {self.like} -> {self.into}"
        return "\n".join([head, *(f"      {space}" for space in self.spaces)])


@dataclass(frozen=True, slots=True)
class Reduce(ProgramStep):
    """Reduce a wider model to the shape of another, approximately; `spaces` says which spaces shrink."""

    model: str
    like: str
    into: str
    spaces: tuple[str, ...] = ()
    op: ClassVar[str] = "reduce"

    def apply(self, run: Run) -> None:
        """The model in the shape of the other, with another function."""
        _reshape(self, run, lambda other, state, like: reduce(other, run.symmetry, state, like))

    def __str__(self) -> str:
        head = (
            f"{self.op:<13} {self.model} to the shape of {self.like} -> {self.into} (APPROXIMATE: the function changes)"
        )
        return "\n".join([head, *(f"      {space}" for space in self.spaces)])


def _reshape(step: Embed | Reduce, run: Run, made: Made) -> None:
    other = run.others.get(step.model)
    if other is None:
        raise UsageError(f"the program has a step {step.op}, and all models have one shape", remedy="take it out")
    like, state = (
        {name: tensor.cpu() for name, tensor in run.state(k, step.op).items()} for k in (step.like, step.model)
    )
    found = made(other, state, like)
    run.states[step.into] = widened(found.state, run.device, run.dtype)
    run.sources[step.into] = step.model
    run.reshaped.add(step.into)
    run.hashes[step.into] = run.hashes.get(step.model, "")
    run.notes.append(f"{run.called.get(step.model, step.model)} {found}")


@dataclass(frozen=True, slots=True)
class Canonicalise(ProgramStep):
    """Take a model to its canonical form."""

    model: str
    into: str
    op: ClassVar[str] = "canonicalise"

    def apply(self, run: Run) -> None:
        """The model in canonical form, and what led there."""
        if self.model not in run.states and self.model not in run.given:
            raise UsageError(f"the program needs a model {self.model}", remedy=f"given: {', '.join(run.given)}")
        state = run.state(self.model, self.op)
        found = canonicalise(run.symmetry, {name: state[name] for name in run.symmetry.terms if name in state})
        run.sources[self.into] = self.model
        run.canonical[self.model] = found
        run.states[self.into] = found.state

    def __str__(self) -> str:
        return f"{self.op:<13} {self.model} -> {self.into}"
