"""A positive scale for each position: what is left of positive monomial maps where positions cannot change places."""

from __future__ import annotations

from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import IndexSet
from symgraph.groups.index_maps import IndexMaps


class PositiveDiagonal(IndexMaps):
    """Each position gets a positive scale, and stays in its place."""

    name = SymmetryClass.POSITIVE_DIAGONAL
    contains = (SymmetryClass.PAIRWISE_SCALES,)
    permutes = False
    scales = 1
    solver = "none (scales are equal already)"

    def meaning(self, on: IndexSet) -> str:
        return f"each of its {on.size} positions may be scaled"
