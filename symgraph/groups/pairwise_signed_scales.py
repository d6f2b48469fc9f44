"""A scale of either sign for each frequency pair: what rotary and monomial maps have in common.

Quarter turns of single pairs are common to both as well; they are discrete, and left out.
"""

from __future__ import annotations

from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import IndexSet
from symgraph.groups.index_maps import IndexMaps


class PairwiseSignedScales(IndexMaps):
    """Both coordinates of a frequency pair get one scale, which may be negative."""

    name = SymmetryClass.PAIRWISE_SIGNED_SCALES
    contains = (SymmetryClass.PAIRWISE_SCALES, SymmetryClass.PAIRWISE_SIGNS)
    permutes = False
    paired = True
    scales = 1
    signs = 1
    solver = "sign of each frequency pair (scales are equal already)"

    def meaning(self, on: IndexSet) -> str:
        return f"each of its {on.size // 2} frequency pairs may be scaled and change its sign"
