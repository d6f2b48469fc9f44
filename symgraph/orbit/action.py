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
from symgraph.symmetry.terms import Leaf, Product, Term


@dataclass(frozen=True)
class GroupElement:
    """One element of the whole inferred group: an `Element` for each space it moves, by space id."""

    symmetry: SymmetryGraph
    elements: Mapping[int, Element]

    def __call__(self, state: Mapping[str, Tensor], names: Collection[str] | None = None) -> dict[str, Tensor]:
        """The transformed state; tensors that no moved space touches are passed through, not copied.

        Tensors of branches that change places must come together.

        Raises:
            UsageError: some of them are missing.
        """
        chosen = state if names is None else {n: state[n] for n in names}
        terms = self.symmetry.acting_terms
        found = {n: self.on(t, terms[n]) if n in terms else t for n, t in chosen.items()}
        for stack in self.symmetry.stacks:
            missing = [n for n in stack.members if n not in chosen]
            if len(missing) == len(stack.members) or not any(self._moves(t) for t in terms[stack.name]):
                continue
            if missing:
                remedy = "give the tensors of all branches that can change places"
                raise UsageError(f"`{missing[0]}` is missing beside `{stack.members[0]}`", remedy=remedy)
            whole = torch.stack([chosen[n] for n in stack.members])
            found.update(zip(stack.members, self.on(whole, terms[stack.name]).unbind(0), strict=True))
        return found

    def on_stacked(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the element changes in a state whose branches are stacked (`SymmetryGraph.stacked`)."""
        terms = self.symmetry.acting_terms
        names = dict.fromkeys(n for s in self.elements for n in self.symmetry.acting_on[s] if n in state)
        return {n: self.on(state[n], terms[n]) for n in names}

    @property
    def touched(self) -> list[str]:
        """Names of the tensors that this element may change."""
        return list(dict.fromkeys(n for s in self.elements for n in self.symmetry.parameters_of[s]))

    def on(self, tensor: Tensor, axes: Sequence[Term]) -> Tensor:
        """The transformed tensor."""
        if not any(self._moves(t) for t in axes):
            return tensor
        return on_blocks(tensor, axes, self.on_block)

    def _moves(self, term: Term) -> bool:
        if isinstance(term, Leaf):
            return term.space in self.elements
        return any(map(self._moves, term.factors if isinstance(term, Product) else term.parts))

    @property
    def is_neutral(self) -> bool:
        """Whether nothing moves, by indices and signs alone: of a matrix that is not asked."""
        return all(e.is_neutral for e in self.elements.values())

    def on_block(self, tensor: Tensor, leaves: tuple[Leaf, ...]) -> Tensor:
        """The transformed block, which has one dimension for each leaf."""
        at: dict[int, list[int]] = {}
        for dim, leaf in enumerate(leaves):
            at.setdefault(leaf.space, []).append(dim)
        for space in self.symmetry.active:
            if space.id not in self.elements:
                continue
            for dim in at.get(space.id, ()):
                fibre = [at[f][0] for f in space.fibre]
                tensor = self._along(tensor, dim, fibre, leaves[dim], self.elements[space.id])
        return tensor

    def _along(self, tensor: Tensor, dim: int, fibre: list[int], leaf: Leaf, e: Element) -> Tensor:
        matrix = e.dual if leaf.dual else e.matrix
        if matrix is not None:
            return by_matrix(tensor, dim, fibre, matrix.to(tensor))
        if e.index is not None:
            tensor = by_index(tensor, dim, fibre, e.index.to(tensor.device))
        frame = self.symmetry.frame(leaf.frame)
        diagonal = e.diagonal(frame.scale, frame.sign, dual=leaf.dual)
        if diagonal is None:
            return tensor
        return tensor * spread(diagonal.to(tensor.device, tensor.dtype), tensor.dim(), [*fibre, dim])

    # -- group laws --------------------------------------------------------------------------------------------

    def inverse(self) -> GroupElement:
        """The element that undoes this one."""
        found: dict[int, Element] = {}
        for space in self.symmetry.active:
            if space.id in self.elements:
                found[space.id] = self._reindex(space, self.elements[space.id].inverse(), found)
        return GroupElement(self.symmetry, found)

    def after(self, first: GroupElement) -> GroupElement:
        """The composition: `first`, then this element."""
        found: dict[int, Element] = {}
        for space in self.symmetry.active:
            mine, other = self.elements.get(space.id), first.elements.get(space.id)
            if other is not None:
                other = self._reindex(space, other, self.elements)
            if mine is not None and other is not None:
                found[space.id] = mine.after(other)
            elif mine is not None or other is not None:
                found[space.id] = mine or other  # type: ignore[assignment]
        return GroupElement(self.symmetry, found)

    def _reindex(self, space: Space, e: Element, outer: Mapping[int, Element]) -> Element:
        """`e` with its fibre dimensions permuted by the outer elements' index vectors."""
        fibre = [(k, f) for k, f in enumerate(space.fibre) if f in outer]
        if not fibre:
            return e

        def move(x: Tensor, lead: int) -> Tensor:
            for k, f in fibre:
                index = outer[f].index
                if index is not None:
                    dims = [space.fibre.index(g) + lead for g in self.symmetry.spaces[f].fibre]
                    x = by_index(x, k + lead, dims, index.to(x.device))
            return x

        return e.mapped(move)

    def to(self, *, dtype: torch.dtype, device: torch.device | str) -> GroupElement:
        """The element with floating parts in `dtype`, everything on `device`."""
        return GroupElement(self.symmetry, {k: e.to(dtype=dtype, device=device) for k, e in self.elements.items()})


def neutral(symmetry: SymmetryGraph, space: Space) -> Element:
    """The identity on one space."""
    return space.maps.neutral(symmetry.index_set(space))


def packed(element: GroupElement) -> dict[str, Any]:
    """A group element as plain data and tensors, to the bit."""
    rotations = [space for space, e in element.elements.items() if e.is_rotation]
    return {"elements": {space: e.tensors() for space, e in element.elements.items()}, "rotations": rotations}


def unpacked(symmetry: SymmetryGraph, plain: Mapping[str, Any]) -> GroupElement:
    """What `packed` gave."""
    rotations = set(plain["rotations"])
    found = {s: Element.rotation(x["matrix"]) if s in rotations else Element(**x) for s, x in plain["elements"].items()}
    return GroupElement(symmetry, found)


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
    found: dict[int, Element] = {}
    for space in symmetry.active:
        if spaces is not None and space.id not in spaces:
            continue
        found[space.id] = space.maps.random(symmetry.index_set(space), generator, spread)
    return GroupElement(symmetry, found)
