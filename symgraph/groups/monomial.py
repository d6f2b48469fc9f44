"""Monomial maps: permutations with scales and signs."""

from __future__ import annotations

from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import IndexSet
from symgraph.groups.index_maps import IndexMaps


class Monomial(IndexMaps):
    """Permutations with a scale of either sign for each position."""

    name = SymmetryClass.MONOMIAL
    contains = (SymmetryClass.SIGNED, SymmetryClass.POSITIVE_MONOMIAL, SymmetryClass.DIAGONAL)
    scales = 1
    signs = 1
    solver = "assignment on the better sign (scales are equal already)"

    def meaning(self, on: IndexSet) -> str:
        return f"its {on.size} positions may be put into another order, with a scale and a change of sign for each"
