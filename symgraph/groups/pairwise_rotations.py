"""A rotation for each frequency pair: what rotary and orthogonal maps have in common."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from symgraph.groups.charts import Angles, ChartOptions, ChartPlan
from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import Element, IndexSet
from symgraph.groups.frequency_pairs import best_rotations, random_pairs, rotary_generators
from symgraph.groups.map_class import DenseMaps


class PairwiseRotations(DenseMaps):
    """SO(2) on each frequency pair."""

    name = SymmetryClass.PAIRWISE_ROTATIONS
    contains = (SymmetryClass.PAIRWISE_SIGNS,)
    inside = (SymmetryClass.ORTHOGONAL,)
    paired = True
    solver = "angle of each frequency pair"

    def meaning(self, on: IndexSet) -> str:
        return f"each of its {on.size // 2} frequency pairs may be rotated"

    def dimension(self, n: Any, scales: int) -> Any:
        return n // 2 if isinstance(n, int) else n / 2

    def generators(self, on: IndexSet) -> list[Tensor]:
        return rotary_generators(on.size, on.layout)[1::2]

    def random(self, on: IndexSet, generator: torch.Generator, spread: float = 0.3) -> Element:
        return self.element(random_pairs(on, generator, 0.0))

    def optimum(self, c: Tensor, layout: str) -> tuple[Tensor, Tensor]:
        return best_rotations(c, layout)

    def chart(self, on: IndexSet, options: ChartOptions) -> ChartPlan | None:
        return ChartPlan("angles", partial(Angles, on, False))
