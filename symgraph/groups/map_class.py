"""What the library has to know about a class of maps: the protocol that each class fulfils in one file.

A class is either *dense*, its elements matrices (`DenseMaps`), or one of *index* maps, its elements index vectors with
scales and signs (`symgraph.groups.index_maps.IndexMaps`). To add one, write a subclass of either, with its name, the
classes that it contains and those that it is inside of, and enter `symgraph.groups.lattice.extended(...)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from symgraph.groups.charts import ChartOptions, ChartPlan
from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import Element, IndexSet
from symgraph.groups.ways import Way


@dataclass(frozen=True, slots=True)
class Sample:
    """A random map as rules are tried with it: `co` acts on values, `dual` on what contracts with them.

    `bare` is the map without scales and signs. Shapes: all (m, n); m differs from n only for semi-permutations.
    """

    co: Tensor
    dual: Tensor
    bare: Tensor

    def by(self, mark: str) -> Tensor:
        """The matrix for an axis with this mark."""
        return {"": self.co, "'": self.dual, "~": self.bare}[mark]


class MapClass(ABC):
    """One class of linear maps on an axis.

    `contains` and `inside` place it in the lattice. `paired` says that it has to know which coordinates make a pair;
    `scales` and `signs` whether an element has a free scale and sign beside its index. `group` is False for maps that
    have no inverse of their class. `solver` are a plan's words for how it is matched.
    """

    name: ClassVar[SymmetryClass]
    contains: ClassVar[tuple[SymmetryClass, ...]] = (SymmetryClass.IDENTITY,)
    inside: ClassVar[tuple[SymmetryClass, ...]] = ()
    dense: ClassVar[bool] = False
    paired: ClassVar[bool] = False
    group: ClassVar[bool] = True
    scales: ClassVar[int] = 0
    signs: ClassVar[int] = 0
    solver: ClassVar[str] = ""

    # -- words -------------------------------------------------------------------------------------------------

    @abstractmethod
    def meaning(self, on: IndexSet) -> str:
        """What may be done to the positions of a space, as the end of a sentence about it."""

    # -- elements ----------------------------------------------------------------------------------------------

    @abstractmethod
    def dimension(self, n: Any, scales: int) -> Any:
        """Continuous directions at one position of the fibre, for a size that is a number or a symbol."""

    @abstractmethod
    def generators(self, on: IndexSet) -> list[Tensor]:
        """A basis of the Lie algebra, as matrices (n, n); of index maps that of one scale vector."""

    @abstractmethod
    def neutral(self, on: IndexSet) -> Element:
        """The identity."""

    @abstractmethod
    def random(self, on: IndexSet, generator: torch.Generator, spread: float = 0.3) -> Element:
        """A random element; `spread` is the standard deviation of the logarithms of scales and singular values."""

    @abstractmethod
    def sample(self, on: IndexSet, generator: torch.Generator) -> Sample:
        """A random map for the check of a rule."""

    # -- learning and widening ---------------------------------------------------------------------------------

    @abstractmethod
    def chart(self, on: IndexSet, options: ChartOptions) -> ChartPlan | None:
        """What an optimiser trains in the place of an element, None where there is nothing to train."""

    def widening(self, n: int, m: int) -> Way | None:
        """How a space of size n is embedded into one of size m by maps of this class, None where it cannot be."""
        return None


class DenseMaps(MapClass):
    """Classes whose elements are matrices; `compact` says that all of them are orthogonal."""

    dense = True
    compact: ClassVar[bool] = True

    def element(self, matrix: Tensor) -> Element:
        """The element by a matrix of the class: (F, n, n)."""
        return Element.rotation(matrix) if self.compact else Element(matrix=matrix)

    def neutral(self, on: IndexSet) -> Element:
        size = on.size
        return Element.rotation(torch.eye(size, dtype=torch.float64).expand(*on.fibre, size, size).clone())

    def sample(self, on: IndexSet, generator: torch.Generator) -> Sample:
        element = self.random(on, generator, spread=0.5)
        co, dual = element.matrix, element.dual
        if co is None or dual is None:
            raise TypeError(f"an element of {self.name} has no matrix")
        return Sample(co, dual, co.abs())

    @abstractmethod
    def optimum(self, c: Tensor, layout: str) -> tuple[Tensor, Tensor]:
        """The matrix g of the compact part with the largest <g, C>, and that value: (P, n, n) -> (P, n, n), (P,).

        C is a correlation: C[i, j] = sum of A's slice i times B's slice j.
        """

    def worth(self, c: Tensor, layout: str) -> Tensor:
        """The value of the optimum, in no more than the precision of the table: (P, n, n) -> (P,)."""
        return self.optimum(c, layout)[1]

    def balance(self, co: Tensor, dual: Tensor, layout: str) -> Element | None:
        """The element that makes both sides of a space least in norm, None where the class is compact.

        Shapes: co, dual (F, n, n), the second moments of the covariant and of the dual side.
        """
        return None
