"""The mean of a tensor over a finite group: by its orbits where the group permutes entries, else element by element."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from symgraph.groups.elements import Element
from symgraph.orbit.action import GroupElement
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Term, leaves


class SharedEntries(nn.Module):
    """Entries of one orbit share their mean: `orbit` (numel,) int64 says in which each is, `count` how many are in it.

    One pass over the tensor, however many elements the group has.
    """

    def __init__(self, orbit: Tensor, count: Tensor) -> None:
        super().__init__()
        self.orbit: Tensor
        self.count: Tensor
        self.register_buffer("orbit", orbit, persistent=False)
        self.register_buffer("count", count, persistent=False)

    def forward(self, tensor: Tensor) -> Tensor:
        """The mean of the tensor over the group."""
        count = self.count.to(tensor)
        sums = torch.zeros_like(count).index_add(0, self.orbit.to(tensor.device), tensor.flatten())
        return (sums / count)[self.orbit.to(tensor.device)].reshape(tensor.shape)


class ElementByElement(nn.Module):
    """The mean of what each element makes of the tensor."""

    def __init__(self, axes: tuple[Term, ...], elements: tuple[GroupElement, ...]) -> None:
        super().__init__()
        self.axes, self.elements = axes, elements

    def forward(self, tensor: Tensor) -> Tensor:
        """The mean of the tensor over the group."""
        total = torch.zeros_like(tensor)
        for element in self.elements:
            total = total + element.on(tensor, self.axes)
        return total / len(self.elements)


# A projection on what a group does not move; differentiable. A module, so that what it holds moves with the model.
OrbitMean = SharedEntries | ElementByElement


def orbit_mean(axes: tuple[Term, ...], elements: Sequence[GroupElement], generators: Sequence[int]) -> OrbitMean | None:
    """The projection of a tensor with these axes, None where the group leaves every entry in its place.

    Args:
        generators: the numbers of those that the others are products of.
    """
    moving = {leaf.space for term in axes for leaf in leaves(term)} & elements[0].elements.keys()
    if not moving:
        return None
    if any(elements[generator].elements[space].index is None for generator in generators for space in moving):
        return ElementByElement(tuple(axes), tuple(elements))
    size = tuple(term.size for term in axes)
    places = torch.arange(math.prod(size)).reshape(size)
    images = [elements[generator].on(places, axes).flatten() for generator in generators]
    return _shared(places.numel(), [(places.flatten(), image) for image in images])


def gain_mean(
    symmetry: SymmetryGraph, parameter: str, elements: Sequence[GroupElement], generators: Sequence[int]
) -> OrbitMean | None:
    """The projection of a gain, which multiplies entry by entry: it commutes where it is constant on what is mixed."""
    pairs = []
    for site in symmetry.gain_sites[parameter]:
        spaces = [symmetry.frame(frame).space for frame in site.frames]
        shape = [symmetry.spaces[space].size for space in spaces]
        places = site.start + torch.arange(math.prod(shape)).reshape(shape)
        for dim, space in enumerate(spaces):
            for element in (elements[generator].elements.get(space) for generator in generators):
                if element is not None:
                    first, second = (places.index_select(dim, at).flatten() for at in _mixed(element, shape[dim]))
                    pairs.append((first, second))
    size = math.prod(symmetry.shapes[parameter])
    return _shared(size, pairs) if pairs else None


def _mixed(element: Element, size: int) -> tuple[Tensor, Tensor]:
    """Which entries an element mixes, in pairs; it is the same at every position of a fibre."""
    if element.index is not None:
        return torch.arange(size), element.index.reshape(-1, size)[0]
    if element.matrix is None:
        return torch.arange(0), torch.arange(0)
    first, second = (element.matrix.reshape(-1, size, size)[0].abs() > _SMALL).nonzero(as_tuple=True)
    return first, second


def _shared(count: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> SharedEntries | None:
    """The mean over orbits, given pairs of entries that are in one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = (torch.cat(side).numpy() for side in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(first), bool), (first, second)), (count, count))
    orbits, orbit = connected_components(graph, directed=False)
    if orbits == count:
        return None
    index = torch.from_numpy(orbit.astype(np.int64))
    return SharedEntries(index, torch.bincount(index, minlength=orbits).double())


_SMALL = 1e-9
