"""Orthogonal maps: what an RMS norm admits once its gain is absorbed."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from symgraph.groups.charts import ChartOptions, ChartPlan, Rotation
from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import Element, IndexSet
from symgraph.groups.map_class import DenseMaps
from symgraph.groups.rotations import haar, nuclear_norm, polar, skew_generators
from symgraph.groups.ways import Way


class Orthogonal(DenseMaps):
    """O(n): rotations and reflections."""

    name = SymmetryClass.ORTHOGONAL
    contains = (SymmetryClass.SIGNED, SymmetryClass.ORTHOGONAL_ONES)
    solver = "polar factor"

    def meaning(self, on: IndexSet) -> str:
        return "any rotation or reflection"

    def dimension(self, n: Any, scales: int) -> Any:
        return n * (n - 1) // 2 if isinstance(n, int) else n * (n - 1) / 2

    def generators(self, on: IndexSet) -> list[Tensor]:
        return skew_generators(list(torch.eye(on.size, dtype=torch.float64)))

    def random(self, on: IndexSet, generator: torch.Generator, spread: float = 0.3) -> Element:
        return self.element(haar(on.size, on.fibre, generator))

    def optimum(self, c: Tensor, layout: str) -> tuple[Tensor, Tensor]:
        return polar(c)

    def worth(self, c: Tensor, layout: str) -> Tensor:
        return nuclear_norm(c)

    def chart(self, on: IndexSet, options: ChartOptions) -> ChartPlan | None:
        return ChartPlan(f"{options.chart} chart", partial(Rotation, on, options.chart), relaxable=True)

    def widening(self, n: int, m: int) -> Way | None:
        return Way.ISOMETRIC
