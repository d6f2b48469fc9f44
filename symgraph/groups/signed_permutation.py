"""Signed permutations: what odd functions of single entries admit."""

from __future__ import annotations

from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import IndexSet
from symgraph.groups.index_maps import IndexMaps


class SignedPermutation(IndexMaps):
    """Permutations with a sign for each position."""

    name = SymmetryClass.SIGNED
    contains = (SymmetryClass.PERMUTATION, SymmetryClass.PAIRWISE_SIGNS)
    signs = 1
    solver = "assignment on the better sign"

    def meaning(self, on: IndexSet) -> str:
        return f"its {on.size} positions may be put into another order, with a change of sign for each"
