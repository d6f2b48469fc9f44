"""Permutations: positions change places."""

from __future__ import annotations

from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import IndexSet
from symgraph.groups.index_maps import IndexMaps
from symgraph.groups.ways import Way


class Permutation(IndexMaps):
    """Permutation matrices."""

    name = SymmetryClass.PERMUTATION
    solver = "assignment"

    def meaning(self, on: IndexSet) -> str:
        return f"its {on.size} positions may be put into another order"

    def widening(self, n: int, m: int) -> Way | None:
        return Way.REPEATED if m % n == 0 else None
