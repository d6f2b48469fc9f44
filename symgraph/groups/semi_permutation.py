"""Semi-permutations: units are copied, split and merged, which changes the size of an axis."""

from __future__ import annotations

import torch

from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import IndexSet
from symgraph.groups.index_maps import IndexMaps
from symgraph.groups.map_class import Sample
from symgraph.groups.ways import Way


class SemiPermutation(IndexMaps):
    """Every unit copied into some places, its outgoing weights shared out among the copies.

    They have no inverse of their class, so that between equal sizes only permutations act.
    """

    name = SymmetryClass.SEMI_PERMUTATION
    contains = (SymmetryClass.PERMUTATION,)
    group = False
    solver = "assignment"

    def meaning(self, on: IndexSet) -> str:
        return f"its {on.size} positions may be split, merged and put into another order"

    def widening(self, n: int, m: int) -> Way | None:
        return Way.PADDED

    def sample(self, on: IndexSet, generator: torch.Generator) -> Sample:
        """Units copied unequally often, and split for what reads them: the dual's columns sum to one."""
        size = on.size
        extra = torch.randint(0, size, (size // 2 + 1,), generator=generator)
        sources = torch.cat([torch.arange(size), extra])
        source = sources[torch.randperm(size + size // 2 + 1, generator=generator)]
        copy = torch.eye(size, dtype=torch.float64)[source]
        weights = copy * (0.5 + 1.5 * torch.rand(len(source), 1, generator=generator, dtype=torch.float64))
        return Sample(copy, weights / weights.sum(0), copy)
