"""A sign for each frequency pair: what rotary maps and signed permutations have in common."""

from __future__ import annotations

from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import IndexSet
from symgraph.groups.index_maps import IndexMaps


class PairwiseSigns(IndexMaps):
    """Both coordinates of a frequency pair change their sign together."""

    name = SymmetryClass.PAIRWISE_SIGNS
    permutes = False
    paired = True
    signs = 1
    solver = "sign of each frequency pair"

    def meaning(self, on: IndexSet) -> str:
        return f"each of its {on.size // 2} frequency pairs may change its sign"
