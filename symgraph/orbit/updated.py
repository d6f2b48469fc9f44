"""The step of what is added beside a matrix: it may be anything, and the matrix makes up for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from symgraph.orbit.step import Step
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.updates import Added, Update

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Updated(Step):
    """Adds to the parameters of an update, one after the other, and takes what that makes out of the matrices.

    Shapes: change (numbers of all free parameters,).
    """

    symmetry: SymmetryGraph
    update: Update
    change: Tensor

    def act(self, state: State, *, linear: bool = False) -> State:
        """What `apply` makes of a state with every offset added; the traced graph adds them itself."""
        return self.symmetry.shifted(self.apply(self.symmetry.shifted(state, -1.0), linear=linear))

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; a difference of two models, which have updates of their own, is left as it is."""
        if linear or any(name not in state for name in self.update.named):
            return state
        changed, at = dict(state), 0
        for name in self.update.free:
            size = state[name].numel()
            changed[name] = state[name] + self.change[at : at + size].reshape(state[name].shape).to(state[name])
            at += size
        for beside in {beside.weight: beside for beside in self.update.sums}.values():
            added = Added(self.symmetry.graph, beside)
            before, after = added.of(state), added.of(changed)
            for name, old, new in zip((beside.weight, beside.bias), before, after, strict=True):
                if name:
                    changed[name] = state[name] + (old - new).to(state[name])
        return changed

    @property
    def moves(self) -> Collection[str]:
        """The free parameters and those that make up for them."""
        return self.update.named

    def needs(self, name: str) -> Collection[str]:
        """All of them, and what else is multiplied on the way."""
        regions = (Added(self.symmetry.graph, beside).region for beside in self.update.sums)
        return (*self.update.named, *(other for region in regions for other in region.state))

    def inverse(self) -> Updated:
        """The step that undoes this one."""
        return Updated(self.symmetry, self.update, -self.change)
