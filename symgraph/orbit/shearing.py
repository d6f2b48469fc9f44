"""The step of a shear: exp(a b^T) on all that stands along one frame, and its inverse transposed on what is dual.

The exponential of a matrix of rank one is 1 + (e^s - 1) / s a b^T with s = a . b, so that no matrix is made.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.orbit.step import Step
from symgraph.orbit.tensor_blocks import on_blocks, spread
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.shears import Shear
from symgraph.symmetry.terms import Leaf

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Sheared(Step):
    """Shears one frame.

    Shapes: amounts () where both directions are given, else (n,): the one that is free.
    """

    symmetry: SymmetryGraph
    shear: Shear
    amounts: Tensor

    def act(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; a difference of two models, which has no gains of its own, is left as it is."""
        if any(linear or name not in state for name in self.shear.gains):
            return state
        along, across = self._directions(state)
        flip = self.symmetry.frame(self.shear.frame).flip

        def sheared(tensor: Tensor, block: tuple[Leaf, ...]) -> Tensor:
            for dim, leaf in enumerate(block):
                if leaf.frame == self.shear.frame:
                    ends = (along, across) if leaf.dual == flip else (-across, along)
                    tensor = added(tensor, dim, *ends)
            return tensor

        changed = dict(state)
        for name in self.symmetry.parameters_of_frames([self.shear.frame]):
            if name in state:
                changed[name] = on_blocks(state[name], self.symmetry.read_terms[name], sheared)
        return changed

    def _directions(self, state: State) -> tuple[Tensor, Tensor]:
        like = self.amounts.expand(self.shear.size)
        given = (self.shear.along, self.shear.across)
        along, across = (self.amounts if normal is None else normal.vector(state, like) for normal in given)
        return (along * self.amounts if self.shear.single else along), across

    @property
    def moves(self) -> Collection[str]:
        """Everything along the frame."""
        return self.symmetry.parameters_of_frames([self.shear.frame])

    def needs(self, name: str) -> Collection[str]:
        """The tensor itself, and the gains that say where to."""
        return (name, *self.shear.gains)

    def inverse(self) -> Sheared:
        """The step that undoes this one."""
        return Sheared(self.symmetry, self.shear, -self.amounts)


def added(tensor: Tensor, dim: int, along: Tensor, across: Tensor) -> Tensor:
    """exp(a b^T) of what stands along a dimension.

    Shapes: along, across (n,), the size of `tensor` there.
    """
    a, b = (spread(x.to(tensor), tensor.dim(), [dim]) for x in (along, across))
    exponent = (along * across).sum()
    # Divided by no zero even where the result is not taken: its slope would be no number.
    divisor = torch.where(exponent == 0, 1.0, exponent)
    factor = torch.where(exponent == 0, 1.0 + exponent / 2, torch.expm1(divisor) / divisor).to(tensor)
    return tensor + factor * a * (b * tensor).sum(dim, keepdim=True)
