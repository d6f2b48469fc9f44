"""The step of a reader of a thin stream: along what never varies it may be anything, and its bias makes up for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from torch import Tensor

from symgraph.orbit.step import Step
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.thin import Thin

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Widened(Step):
    """Adds to a reader multiples of the directions along which nothing varies.

    Shapes: amounts (rows of the reader, number of directions).
    """

    symmetry: SymmetryGraph
    thin: Thin
    amounts: Tensor

    def act(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; a difference of two models, which have directions of their own, is left as it is."""
        reader, sink = self.thin.reader, self.thin.sink
        if any(linear or name not in state for name in (reader.parameter, *self.thin.named)):
            return state
        directions, heights = self.thin.directions(state, self.amounts)
        added = (self.amounts @ directions.T).movedim(-1, reader.axis)
        found = {**state, reader.parameter: reader.add(state[reader.parameter], added)}
        if sink in state:
            found[sink] = state[sink] - (self.amounts @ heights).to(state[sink])
        return found

    @property
    def moves(self) -> Collection[str]:
        """The reader, and its bias."""
        return tuple(filter(None, (self.thin.reader.parameter, self.thin.sink)))

    def needs(self, name: str) -> Collection[str]:
        """Both, and what the directions depend on."""
        return (*self.moves, *self.thin.named)

    def inverse(self) -> Widened:
        """The step that undoes this one."""
        return replace(self, amounts=-self.amounts)
