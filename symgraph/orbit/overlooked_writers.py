"""The step of a writer of a stream whose readers do not see all of it: along what they overlook it may be anything."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from torch import Tensor

from symgraph.orbit.step import Step
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.overlooked import Overlooked

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Aside(Step):
    """Adds to a writer multiples of the directions that no reader of the stream sees.

    Shapes: amounts (the other axes of the writer, number of directions).
    """

    symmetry: SymmetryGraph
    overlooked: Overlooked
    amounts: Tensor

    def act(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; a difference of two models, which have directions of their own, is left as it is."""
        writer = self.overlooked.writer
        if any(linear or name not in state for name in (writer.parameter, *self.overlooked.named)):
            return state
        directions = self.overlooked.directions(state, self.amounts)
        added = (self.amounts @ directions.T).movedim(-1, writer.axis)
        return {**state, writer.parameter: writer.add(state[writer.parameter], added)}

    @property
    def moves(self) -> Collection[str]:
        """The writer."""
        return (self.overlooked.writer.parameter,)

    def needs(self, name: str) -> Collection[str]:
        """The writer, and the readers, which say what they overlook."""
        return (*self.moves, *self.overlooked.named)

    def inverse(self) -> Aside:
        """The step that undoes this one."""
        return replace(self, amounts=-self.amounts)
