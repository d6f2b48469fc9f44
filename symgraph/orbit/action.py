"""How group elements act on parameters, and the group laws of whole elements.

A whole element holds one `Element` per active space. It acts on a tensor axis by axis: products are reshaped into
their factors, concatenations cut into their parts, and each leaf is transformed by index, by scale and sign, or by
matrix; outer spaces first, so that a fibred element is indexed by the position its fibre has *after* the outer action.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.groups.elements import Element
from symgraph.orbit.tensor_blocks import by_index, by_matrix, on_blocks, spread
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Leaf, Term


@dataclass(frozen=True)
class GroupElement:
    """One element of the whole inferred group: an `Element` for each space it moves, by space id."""

    symmetry: SymmetryGraph
    elements: Mapping[int, Element]

    def __call__(self, state: Mapping[str, Tensor], names: Collection[str] | None = None) -> dict[str, Tensor]:
        """What is read of a state, transformed; tensors that no moved space touches are passed through, not copied.

        Branches that change places, which the group acts on as one, must come together.

        Raises:
            UsageError: some of them are missing.
        """
        chosen = state if names is None else {name: state[name] for name in names}
        terms = self.symmetry.acting_terms
        moved = {name: self.on(tensor, terms[name]) if name in terms else tensor for name, tensor in chosen.items()}
        for whole in self.symmetry.stacks:
            missing = [member for member in whole.members if member not in chosen]
            if len(missing) == len(whole.members) or not any(self._moves(term) for term in terms[whole.name]):
                continue
            if missing:
                remedy = "give all tensors that the group acts on together"
                raise UsageError(f"`{missing[0]}` is missing beside `{whole.members[0]}`", remedy=remedy)
            tensor = whole.whole([chosen[member] for member in whole.members])
            moved.update(zip(whole.members, whole.apart(self.on(tensor, terms[whole.name])), strict=True))
        return moved

    def on_stacked(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the element changes in a state whose branches are stacked (`SymmetryGraph.stacked`)."""
        terms = self.symmetry.acting_terms
        names = dict.fromkeys(
            name for space in self.elements for name in self.symmetry.acting_on[space] if name in state
        )
        return {name: self.on(state[name], terms[name]) for name in names}

    @property
    def moves(self) -> list[str]:
        """What this element may change of all that is read."""
        return list(dict.fromkeys(name for space in self.elements for name in self.symmetry.read_on[space]))

    def on(self, tensor: Tensor, axes: Sequence[Term]) -> Tensor:
        """The transformed tensor."""
        if not any(self._moves(term) for term in axes):
            return tensor
        return on_blocks(tensor, axes, self.on_block)

    def _moves(self, term: Term) -> bool:
        if isinstance(term, Leaf):
            return term.space in self.elements
        return any(map(self._moves, term.children))

    @property
    def is_neutral(self) -> bool:
        """Whether nothing moves, by indices and signs alone: of a matrix that is not asked."""
        return all(element.is_neutral for element in self.elements.values())

    def on_block(self, tensor: Tensor, leaves: tuple[Leaf, ...]) -> Tensor:
        """The transformed block, which has one dimension for each leaf."""
        at: dict[int, list[int]] = {}
        for dim, leaf in enumerate(leaves):
            at.setdefault(leaf.space, []).append(dim)
        for space in self.symmetry.active:
            if space.id not in self.elements:
                continue
            for dim in at.get(space.id, ()):
                fibre = [at[outer][0] for outer in space.fibre]
                tensor = self._along(tensor, dim, fibre, leaves[dim], self.elements[space.id])
        return tensor

    def _along(self, tensor: Tensor, dim: int, fibre: list[int], leaf: Leaf, element: Element) -> Tensor:
        matrix = element.dual if leaf.dual else element.matrix
        if matrix is not None:
            return by_matrix(tensor, dim, fibre, matrix.to(tensor))
        if element.index is not None:
            tensor = by_index(tensor, dim, fibre, element.index.to(tensor.device))
        frame = self.symmetry.frame(leaf.frame)
        diagonal = element.diagonal(frame.scale, frame.sign, dual=leaf.dual)
        if diagonal is None:
            return tensor
        return tensor * spread(diagonal.to(tensor.device, tensor.dtype), tensor.dim(), [*fibre, dim])

    # -- group laws --------------------------------------------------------------------------------------------

    def inverse(self) -> GroupElement:
        """The element that undoes this one."""
        inverses: dict[int, Element] = {}
        for space in self.symmetry.active:
            if space.id in self.elements:
                inverses[space.id] = self._reindex(space, self.elements[space.id].inverse(), inverses)
        return GroupElement(self.symmetry, inverses)

    def after(self, first: GroupElement) -> GroupElement:
        """The composition: `first`, then this element."""
        composed: dict[int, Element] = {}
        for space in self.symmetry.active:
            mine, other = self.elements.get(space.id), first.elements.get(space.id)
            if other is not None:
                other = self._reindex(space, other, self.elements)
            if mine is not None and other is not None:
                composed[space.id] = mine.after(other)
            elif mine is not None or other is not None:
                composed[space.id] = mine or other  # type: ignore[assignment]
        return GroupElement(self.symmetry, composed)

    def _reindex(self, space: Space, element: Element, outer: Mapping[int, Element]) -> Element:
        """An element with its fibre dimensions permuted by the outer elements' index vectors."""
        fibre = [(place, outer_space) for place, outer_space in enumerate(space.fibre) if outer_space in outer]
        if not fibre:
            return element

        def move(part: Tensor, lead: int) -> Tensor:
            for place, outer_space in fibre:
                index = outer[outer_space].index
                if index is not None:
                    dims = [space.fibre.index(inner) + lead for inner in self.symmetry.spaces[outer_space].fibre]
                    part = by_index(part, place + lead, dims, index.to(part.device))
            return part

        return element.mapped(move)

    def to(self, *, dtype: torch.dtype, device: torch.device | str) -> GroupElement:
        """The element with floating parts in `dtype`, everything on `device`."""
        return GroupElement(
            self.symmetry, {space: element.to(dtype=dtype, device=device) for space, element in self.elements.items()}
        )


def neutral(symmetry: SymmetryGraph, space: Space) -> Element:
    """The identity on one space."""
    return space.maps.neutral(symmetry.index_set(space))


def packed(element: GroupElement) -> dict[str, Any]:
    """A group element as plain data and tensors, to the bit."""
    rotations = [space for space, own in element.elements.items() if own.is_rotation]
    return {"elements": {space: own.tensors() for space, own in element.elements.items()}, "rotations": rotations}


def unpacked(symmetry: SymmetryGraph, plain: Mapping[str, Any]) -> GroupElement:
    """What `packed` gave."""
    rotations = set(plain["rotations"])
    elements = {
        space: Element.rotation(parts["matrix"]) if space in rotations else Element(**parts)
        for space, parts in plain["elements"].items()
    }
    return GroupElement(symmetry, elements)


def random_element(
    symmetry: SymmetryGraph,
    *,
    generator: torch.Generator,
    spaces: Collection[int] | None = None,
    spread: float = 0.3,
) -> GroupElement:
    """A random element on all active spaces, or on the given ones.

    Args:
        spread: standard deviation of the logarithms of scales and singular values.
    """
    elements: dict[int, Element] = {}
    for space in symmetry.active:
        if spaces is not None and space.id not in spaces:
            continue
        elements[space.id] = space.maps.random(symmetry.index_set(space), generator, spread)
    return GroupElement(symmetry, elements)
