"""A step that splits or merges units: a semi-permutation, or a soft permutation, on one space."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from symgraph.errors import SymgraphError
from symgraph.groups.elements import Element
from symgraph.orbit.step import Dumped, Step
from symgraph.orbit.tensor_blocks import by_matrix, on_blocks, spread
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Leaf

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Blend(Step):
    """Copies units and shares out what leaves them, or averages units with a matrix on both sides.

    With `merging` the other way round: units go to places, what enters is averaged and what leaves summed there.

    Shapes: of the element either index (n,), the unit that each place copies, with scale (1, n), the share of what
    leaves that place; or, merging, index (n,), the place of each unit, with scale (1, n), its weight there; or matrix
    (n, n), doubly stochastic.
    """

    symmetry: SymmetryGraph
    space: int
    element: Element
    merging: bool = False
    kind: ClassVar[str] = "blend"

    def act(self, state: State, *, linear: bool = False) -> State:
        """The transformed state."""
        symmetry = self.symmetry
        stacked = symmetry.stacked({name: state[name] for name in symmetry.read_on[self.space] if name in state})
        done = {name: on_blocks(tensor, symmetry.acting_terms[name], self._block) for name, tensor in stacked.items()}
        return {**state, **symmetry.unstacked(done)}

    def _block(self, tensor: Tensor, block: tuple[Leaf, ...]) -> Tensor:
        element = self.element
        for dim, leaf in enumerate(block):
            if leaf.space != self.space:
                continue
            if element.matrix is not None:
                tensor = by_matrix(tensor, dim, [], element.matrix.to(tensor))
            elif element.index is not None and element.scale is not None and self.merging:
                tensor = merged(tensor, dim, [], leaf, element.index, element.scale[0])
            elif element.index is not None and element.scale is not None:
                tensor = tensor.index_select(dim, element.index.to(tensor.device))
                tensor = tensor * spread(element.scale[0].to(tensor), tensor.dim(), [dim]) if leaf.dual else tensor
        return tensor

    @property
    def moves(self) -> Collection[str]:
        """Everything on the space."""
        return self.symmetry.read_on[self.space]

    def needs(self, name: str) -> Collection[str]:
        """The same of other branches, which it acts on together with one."""
        return stack.members if (stack := self.symmetry.stack_of.get(name)) is not None else ()

    def inverse(self) -> Blend:
        """There is none.

        Raises:
            SymgraphError: always.
        """
        raise SymgraphError(
            f"units of {self.symmetry.spaces[self.space].name} were split or merged, which cannot be undone",
            remedy="align without splitting and without soft permutations to have an inverse",
        )

    def dump(self) -> Dumped:
        """The space by name, and the element."""
        name = self.symmetry.spaces[self.space].name
        tensors = {f"{name}.{part}": tensor for part, tensor in self.element.tensors().items()}
        return {"space": name, **({"merging": True} if self.merging else {})}, tensors

    @classmethod
    def load(cls, symmetry: SymmetryGraph, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Blend:
        """What `dump` gave."""
        space = symmetry.space(plain["space"])
        size = space.size
        shapes = {"index": (size,), "scale": (1, size), "matrix": (size, size)}
        parts = {part: tensors[f"{space.name}.{part}"] for part in shapes if f"{space.name}.{part}" in tensors}
        if parts.keys() not in ({"index", "scale"}, {"matrix"}) or any(
            tensor.shape != shapes[part] for part, tensor in parts.items()
        ):
            raise ValueError(f"what splits or merges {space.name} is incomplete or has other shapes")
        return Blend(symmetry, space.id, Element(**parts), plain.get("merging") is True and "index" in parts)


def merged(tensor: Tensor, dim: int, fibre: list[int], leaf: Leaf, place: Tensor, weight: Tensor) -> Tensor:
    """The tensor with the units along `dim` summed at their places: weighed where they are entered, as they are else.

    Shapes: place and weight have the dimensions `fibre` and `dim` of the tensor.
    """
    if not leaf.dual:
        tensor = tensor * spread(weight.to(tensor), tensor.dim(), [*fibre, dim])
    at = spread(place.to(tensor.device), tensor.dim(), [*fibre, dim]).expand(tensor.shape)
    return tensor.new_zeros(tensor.shape).scatter_add(dim, at, tensor)
