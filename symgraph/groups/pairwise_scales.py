"""A positive scale for each frequency pair: what rotary and positive monomial maps have in common."""

from __future__ import annotations

from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import IndexSet
from symgraph.groups.index_maps import IndexMaps


class PairwiseScales(IndexMaps):
    """Both coordinates of a frequency pair get one positive scale."""

    name = SymmetryClass.PAIRWISE_SCALES
    permutes = False
    paired = True
    scales = 1
    solver = "none (scales are equal already)"

    def meaning(self, on: IndexSet) -> str:
        return f"each of its {on.size // 2} frequency pairs may be scaled"
