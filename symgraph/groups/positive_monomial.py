"""Positive monomial maps: what positively homogeneous functions of single entries admit."""

from __future__ import annotations

from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import IndexSet
from symgraph.groups.index_maps import IndexMaps


class PositiveMonomial(IndexMaps):
    """Permutations with a positive scale for each position."""

    name = SymmetryClass.POSITIVE_MONOMIAL
    contains = (SymmetryClass.PERMUTATION, SymmetryClass.POSITIVE_DIAGONAL)
    scales = 1
    solver = "assignment (scales are equal already)"

    def meaning(self, on: IndexSet) -> str:
        return f"its {on.size} positions may be put into another order, with a positive scale for each"
