"""Rotary maps: a scaled rotation for each frequency pair, the commutant of rotary position embeddings."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from symgraph.groups.balance import quarter_power
from symgraph.groups.charts import Angles, ChartOptions, ChartPlan
from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import Element, IndexSet
from symgraph.groups.frequency_pairs import (
    best_rotations,
    over_pairs,
    random_pairs,
    rotary_generators,
    sum_of_pairs,
)
from symgraph.groups.map_class import DenseMaps


class Rotary(DenseMaps):
    """A rotation and a positive scale for each frequency pair."""

    name = SymmetryClass.ROTARY
    contains = (SymmetryClass.PAIRWISE_ROTATIONS, SymmetryClass.PAIRWISE_SIGNED_SCALES)
    compact = False
    paired = True
    solver = "angle of each frequency pair"

    def meaning(self, on: IndexSet) -> str:
        return f"each of its {on.size // 2} frequency pairs may be rotated and scaled"

    def dimension(self, n: Any, scales: int) -> Any:
        return n - n % 2 if isinstance(n, int) else n

    def generators(self, on: IndexSet) -> list[Tensor]:
        return rotary_generators(on.size, on.layout)

    def random(self, on: IndexSet, generator: torch.Generator, spread: float = 0.3) -> Element:
        return self.element(random_pairs(on, generator, spread))

    def optimum(self, c: Tensor, layout: str) -> tuple[Tensor, Tensor]:
        return best_rotations(c, layout)

    def balance(self, co: Tensor, dual: Tensor, layout: str) -> Element | None:
        """The same norm on both sides of each pair."""
        sides = (sum_of_pairs(torch.diagonal(gram, dim1=-2, dim2=-1), layout) for gram in (co, dual))
        scale = over_pairs(quarter_power(*sides), co.shape[-1], layout)
        return Element(matrix=torch.diag_embed(scale), inverse_transpose=torch.diag_embed(1.0 / scale))

    def chart(self, on: IndexSet, options: ChartOptions) -> ChartPlan | None:
        return ChartPlan("angles and radii" if options.full else "angles", partial(Angles, on, options.full))
