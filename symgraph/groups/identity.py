"""The identity: what nothing acts on."""

from __future__ import annotations

from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import IndexSet
from symgraph.groups.index_maps import IndexMaps


class Identity(IndexMaps):
    """The identity alone."""

    name = SymmetryClass.IDENTITY
    contains = ()
    permutes = False

    def meaning(self, on: IndexSet) -> str:
        return "nothing but the identity acts on it"
