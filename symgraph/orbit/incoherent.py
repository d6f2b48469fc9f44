"""Rotations of whole spaces that spread what is concentrated over all coordinates, so that rounding loses less.

A Hadamard matrix with random signs makes outliers unlikely in every rotated tensor. Where the number of coordinates is
no power of two, its odd part is turned by a cosine transform; where the mean has to stay (layer norms), signs are drawn
in the basis of the transform, of which the mean is the first coordinate.

Source: incoherence processing, Chee et al., arXiv 2307.13304; QuaRot, Ashkboos et al., arXiv 2404.00456.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase

import torch
from scipy import fft, linalg
from torch import Tensor

from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import Element
from symgraph.groups.rotations import fixing_ones, haar
from symgraph.orbit.action import GroupElement
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space

# Draws the matrices of a space, (F, n, n): all of them, or those that fix the ones vector.
Draw = Callable[[int, tuple[int, ...], bool, torch.Generator], Tensor]


def hadamard(size: int, fibre: tuple[int, ...], fixes_ones: bool, generator: torch.Generator) -> Tensor:
    """Orthogonal matrices of entries of nearly one size, each with signs of its own: (F, n, n)."""
    transform = _transform(size)
    signs = 1.0 - 2.0 * torch.randint(2, (*fibre, size), generator=generator).double()
    if not fixes_ones:
        return transform * signs.unsqueeze(-2)
    signs[..., 0] = 1.0
    return transform.T @ (signs.unsqueeze(-1) * transform)


def uniform(size: int, fibre: tuple[int, ...], fixes_ones: bool, generator: torch.Generator) -> Tensor:
    """Haar distributed orthogonal matrices: (F, n, n)."""
    return fixing_ones(haar(size - 1, fibre, generator)) if fixes_ones else haar(size, fibre, generator)


DRAWS: Mapping[str, Draw] = {"hadamard": hadamard, "random": uniform}


def _transform(size: int) -> Tensor:
    """A Hadamard matrix times a cosine transform of the odd part; its first row is even: (n, n)."""
    even = size & -size
    cosines = fft.dct(torch.eye(size // even, dtype=torch.float64).numpy(), axis=0, norm="ortho")
    transform = torch.kron(torch.from_numpy(linalg.hadamard(even) / even**0.5), torch.from_numpy(cosines))
    return transform.double()


def turnable(symmetry: SymmetryGraph, patterns: Collection[str] = ("*",)) -> tuple[Space, ...]:
    """The spaces of these names that rotations of all their coordinates act on."""
    dense = (space for space in symmetry.active if space.is_matrix and SymmetryClass.ORTHOGONAL_ONES in space.bound)
    return tuple(space for space in dense if any(fnmatchcase(space.name, pattern) for pattern in patterns))


def incoherent(
    symmetry: SymmetryGraph, by: str = "hadamard", patterns: Collection[str] = ("*",), seed: int = 0
) -> GroupElement:
    """A rotation of every space of these names that can be rotated.

    Args:
        by: "hadamard", or "random" for a uniform one.
        patterns: of the names of spaces; * stands for any text.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 3))
    >>> element = incoherent(symgraph.infer(net, torch.randn(5, 6)))
    >>> [tuple(e.matrix.shape) for e in element.elements.values()]
    [(8, 8)]
    """
    generator, draw = torch.Generator().manual_seed(seed), DRAWS[by]
    rotations = {}
    for space in turnable(symmetry, patterns):
        whole = SymmetryClass.ORTHOGONAL in space.bound
        matrix = draw(space.size, symmetry.fibre_sizes(space), not whole, generator)
        rotations[space.id] = Element.rotation(matrix)
    return GroupElement(symmetry, rotations)
