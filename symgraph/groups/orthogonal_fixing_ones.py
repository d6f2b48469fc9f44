"""Orthogonal maps that fix the ones vector: what a layer norm admits once its affine part is absorbed."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from symgraph.groups.charts import ChartOptions, ChartPlan, Rotation
from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import Element, IndexSet
from symgraph.groups.map_class import DenseMaps
from symgraph.groups.rotations import fixing_ones, haar, ones_complement, polar_ones, skew_generators
from symgraph.groups.ways import Way


class OrthogonalFixingOnes(DenseMaps):
    """O with O 1 = 1: orthogonal maps of the hyperplane of mean zero."""

    name = SymmetryClass.ORTHOGONAL_ONES
    contains = (SymmetryClass.PERMUTATION,)
    solver = "polar factor on the hyperplane of mean zero"

    def meaning(self, on: IndexSet) -> str:
        return "any rotation or reflection that leaves the vector of ones in its place"

    def dimension(self, n: Any, scales: int) -> Any:
        return (n - 1) * (n - 2) // 2 if isinstance(n, int) else (n - 1) * (n - 2) / 2

    def generators(self, on: IndexSet) -> list[Tensor]:
        return skew_generators(list(ones_complement(on.size).T))

    def random(self, on: IndexSet, generator: torch.Generator, spread: float = 0.3) -> Element:
        return self.element(fixing_ones(haar(on.size - 1, on.fibre, generator)))

    def optimum(self, c: Tensor, layout: str) -> tuple[Tensor, Tensor]:
        return polar_ones(c)

    def chart(self, on: IndexSet, options: ChartOptions) -> ChartPlan | None:
        make = partial(Rotation, on, options.chart, fix_ones=True)
        return ChartPlan(f"{options.chart} chart", make, relaxable=True)

    def widening(self, n: int, m: int) -> Way | None:
        return Way.CENTRED
