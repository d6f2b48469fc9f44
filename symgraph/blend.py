"""A step that splits or merges units: a semi-permutation, or a soft permutation, on one space."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from symgraph.action import by_matrix, on_blocks, spread
from symgraph.axes.terms import Leaf
from symgraph.errors import SymgraphError
from symgraph.groups.elements import Element
from symgraph.infer.symmetry import SymmetryGraph

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Blend:
    """Copies units and shares out what leaves them, or averages units with a matrix on both sides.

    Shapes: of the element either index (n,), the unit that each place copies, with scale (1, n), the share of what
    leaves that place; or matrix (n, n), doubly stochastic.
    """

    symmetry: SymmetryGraph
    space: int
    element: Element

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state."""
        symmetry, sign = self.symmetry, 0.0 if linear else 1.0
        names = [n for n in symmetry.parameters_of[self.space] if n in state]
        found = symmetry.stacked(symmetry.shifted({n: state[n] for n in names}, sign))
        done = {n: on_blocks(t, symmetry.acting_terms[n], self._block) for n, t in found.items()}
        return {**state, **symmetry.shifted(symmetry.unstacked(done), -sign)}

    def _block(self, tensor: Tensor, block: tuple[Leaf, ...]) -> Tensor:
        e = self.element
        for dim, leaf in enumerate(block):
            if leaf.space != self.space:
                continue
            if e.matrix is not None:
                tensor = by_matrix(tensor, dim, [], e.matrix.to(tensor))
            elif e.index is not None and e.scale is not None:
                tensor = tensor.index_select(dim, e.index.to(tensor.device))
                tensor = tensor * spread(e.scale[0].to(tensor), tensor.dim(), [dim]) if leaf.dual else tensor
        return tensor

    def inverse(self) -> Blend:
        """There is none.

        Raises:
            SymgraphError: always.
        """
        raise SymgraphError(
            f"units of {self.symmetry.spaces[self.space].name} were split or merged, which cannot be undone",
            remedy="align without splitting and without soft permutations to have an inverse",
        )
