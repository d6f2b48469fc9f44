"""A positive scale for each position and a sign for each frequency pair: gains behind a norm of rotary queries.

Signs of single positions are diagonal as well; they are discrete, and left out.
"""

from __future__ import annotations

from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import IndexSet
from symgraph.groups.index_maps import IndexMaps


class Diagonal(IndexMaps):
    """Each position gets a positive scale, each frequency pair a sign, and nothing changes its place."""

    name = SymmetryClass.DIAGONAL
    contains = (SymmetryClass.POSITIVE_DIAGONAL, SymmetryClass.PAIRWISE_SIGNED_SCALES)
    permutes = False
    paired = True
    scaled_apart = True
    scales = 1
    signs = 1
    solver = "sign of each frequency pair (scales are equal already)"

    def meaning(self, on: IndexSet) -> str:
        return f"each of its {on.size} positions may be scaled, and each of its frequency pairs change its sign"
