"""Steps before a match: models of another width to one shape, then each to its canonical form."""

from __future__ import annotations

from abc import abstractmethod
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


@dataclass(frozen=True, slots=True)
class Reshape(ProgramStep):
    """Bring a model to the shape of another; `spaces` says how each space changes."""

    model: str
    like: str
    into: str
    spaces: tuple[str, ...] = ()

    def apply(self, run: Run) -> None:
        """The model in the shape of the other."""
        other = run.others.get(self.model)
        if other is None:
            raise UsageError(f"the program has a step {self.op}, and all models have one shape", remedy="take it out")
        like, state = (
            {name: tensor.cpu() for name, tensor in run.state(source, self.op).items()}
            for source in (self.like, self.model)
        )
        found = self.made(run.symmetry, other, state, like)
        run.states[self.into] = widened(found.state, run.device, run.dtype)
        run.sources[self.into] = self.model
        run.reshaped.add(self.into)
        run.hashes[self.into] = run.hashes.get(self.model, "")
        run.notes.append(f"{run.called.get(self.model, self.model)} {found}")

    @abstractmethod
    def made(self, symmetry: SymmetryGraph, other: SymmetryGraph, state: State, like: State) -> Embedding | Reduction:
        """The model, whose symmetry graph is `other`, in the shape of the one that has `symmetry`."""

    def lines(self, how: str) -> str:
        """The step and the spaces as text."""
        return "\n".join([f"{self.op:<13} {self.model} {how}", *(f"      {space}" for space in self.spaces)])


@dataclass(frozen=True, slots=True)
class Embed(Reshape):
    """Embed a narrower model exactly into the shape of another; `spaces` says how each space grows."""

    op: ClassVar[str] = "embed"

    def made(self, symmetry: SymmetryGraph, other: SymmetryGraph, state: State, like: State) -> Embedding:
        """The model with its function."""
        return embed(symmetry, other, state, like)

    def __str__(self) -> str:
        return self.lines(f"into the shape of {self.like} -> {self.into}")


@dataclass(frozen=True, slots=True)
class Reduce(Reshape):
    """Reduce a wider model to the shape of another, approximately; `spaces` says which spaces shrink."""

    op: ClassVar[str] = "reduce"

    def made(self, symmetry: SymmetryGraph, other: SymmetryGraph, state: State, like: State) -> Reduction:
        """The model with another function."""
        return reduce(other, symmetry, state, like)

    def __str__(self) -> str:
        return self.lines(f"to the shape of {self.like} -> {self.into} (APPROXIMATE: the function changes)")


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
