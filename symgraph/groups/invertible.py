"""Invertible maps: what stands between two linear maps."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from symgraph.groups.balance import balanced
from symgraph.groups.charts import ChartOptions, ChartPlan, Linear, Rotation
from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import Element, IndexSet
from symgraph.groups.map_class import DenseMaps
from symgraph.groups.rotations import haar, nuclear_norm, polar


class Invertible(DenseMaps):
    """GL(n); what is left of it between models of least norm is O(n)."""

    name = SymmetryClass.INVERTIBLE
    contains = (
        SymmetryClass.ORTHOGONAL,
        SymmetryClass.MONOMIAL,
        SymmetryClass.ROTARY,
        SymmetryClass.SEMI_PERMUTATION,
    )
    compact = False
    solver = "polar factor (balanced already)"

    def meaning(self, on: IndexSet) -> str:
        return "any invertible linear map"

    def dimension(self, n: Any, scales: int) -> Any:
        return n**2

    def generators(self, on: IndexSet) -> list[Tensor]:
        units = torch.eye(on.size, dtype=torch.float64)
        return [torch.outer(row, column) for row in units for column in units]

    def random(self, on: IndexSet, generator: torch.Generator, spread: float = 0.3) -> Element:
        """Of condition number about exp(2 spread)."""
        left, right = haar(on.size, on.fibre, generator), haar(on.size, on.fibre, generator)
        noise = torch.randn(*on.fibre, on.size, 1, generator=generator, dtype=torch.float64)
        stretch = torch.exp(spread * noise)
        return Element(matrix=left @ (stretch * right), inverse_transpose=left @ (right / stretch))

    def optimum(self, c: Tensor, layout: str) -> tuple[Tensor, Tensor]:
        return polar(c)

    def worth(self, c: Tensor, layout: str) -> Tensor:
        return nuclear_norm(c)

    def balance(self, co: Tensor, dual: Tensor, layout: str) -> Element | None:
        matrix, inverse_transpose = balanced(co, dual)
        return Element(matrix=matrix, inverse_transpose=inverse_transpose)

    def chart(self, on: IndexSet, options: ChartOptions) -> ChartPlan | None:
        if options.full:
            name = f"the matrix itself, condition at most {options.condition:g}"
            return ChartPlan(name, partial(Linear, on, options.condition))
        return ChartPlan(f"{options.chart} chart (compact part)", partial(Rotation, on, options.chart), relaxable=True)
