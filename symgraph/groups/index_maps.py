"""Maps that move positions, with a scale and a sign for each *unit*: a position, or where they are paired, a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from symgraph.groups.assignment import assignment, best_signs
from symgraph.groups.balance import equalised
from symgraph.groups.charts import Assigned, ChartOptions, ChartPlan, Scales
from symgraph.groups.elements import Element, IndexSet
from symgraph.groups.frequency_pairs import over_pairs, sum_of_pairs
from symgraph.groups.map_class import MapClass, Sample


@dataclass(frozen=True, slots=True)
class Assignment:
    """The best index (P, n), the best signs (q, P, n) if there are any, and what they are worth (P,)."""

    index: Tensor
    sign: Tensor | None
    value: Tensor


class IndexMaps(MapClass):
    """Classes whose elements are index vectors with scales and signs.

    `permutes` says that any permutation is one of them; otherwise positions stay where they are, unless `order` finds
    a better place for them. `scaled_apart` says that only signs are those of pairs, and each position has a scale.
    """

    permutes: ClassVar[bool] = True
    scaled_apart: ClassVar[bool] = False

    # -- units -------------------------------------------------------------------------------------------------

    def units(self, n: Any) -> Any:
        """How many scales a vector of them has on a space of size n."""
        return _pairs(n) if self.paired and not self.scaled_apart else n

    def over(self, on: IndexSet, scales: Tensor) -> Tensor:
        """A scale for each unit as one for each position: (..., units) -> (..., n)."""
        return scales if self.scaled_apart else self.signs_over(on, scales)

    def signs_over(self, on: IndexSet, signs: Tensor) -> Tensor:
        """A sign for each pair, if there are any, as one for each position: (..., pairs) -> (..., n)."""
        return over_pairs(signs, on.size, on.layout) if self.paired else signs

    # -- elements ----------------------------------------------------------------------------------------------

    def dimension(self, n: Any, scales: int) -> Any:
        return self.units(n) * scales

    def generators(self, on: IndexSet) -> list[Tensor]:
        if not self.scales:
            return []
        return [torch.diag(row) for row in self.directions(on)]

    def directions(self, on: IndexSet) -> Tensor:
        """A basis of the logarithms of one scale vector: (units, n)."""
        return self.over(on, torch.eye(self.units(on.size), dtype=torch.float64).exp()).log()

    def neutral(self, on: IndexSet) -> Element:
        shape = (*on.fibre, on.size)
        return Element(
            torch.arange(on.size).expand(shape).clone(),
            torch.ones(on.scales, *shape, dtype=torch.float64) if on.scales else None,
            torch.ones(on.signs, *shape, dtype=torch.float64) if on.signs else None,
        )

    def random(self, on: IndexSet, generator: torch.Generator, spread: float = 0.3) -> Element:
        """A uniform element of the index part, log-normal scales and uniform signs."""
        index = self.random_index(on, generator)
        log = torch.randn(on.scales, *on.fibre, self.units(on.size), generator=generator, dtype=torch.float64)
        pairs = _pairs(on.size) if self.paired else on.size
        flips = torch.randint(0, 2, (on.signs, *on.fibre, pairs), generator=generator)
        scale = self.over(on, torch.exp(spread * log)) if on.scales else None
        return Element(index, scale, self.signs_over(on, 1.0 - 2.0 * flips.double()) if on.signs else None)

    def random_index(self, on: IndexSet, generator: torch.Generator) -> Tensor:
        """Random places of the positions: (F, n)."""
        if not self.permutes:
            return torch.arange(on.size).expand(*on.fibre, on.size).clone()
        return torch.rand(*on.fibre, on.size, generator=generator).argsort(-1)

    def sample(self, on: IndexSet, generator: torch.Generator) -> Sample:
        bare = torch.eye(on.size, dtype=torch.float64)[self.random_index(on, generator)]
        return scaled(bare, self.random_scales(on, generator))

    def random_scales(self, on: IndexSet, generator: torch.Generator) -> Tensor:
        """The diagonal of a random map (n,); at least one sign is negative where signs are allowed."""
        pairs, scales = _pairs(on.size) if self.paired else on.size, torch.ones(on.size, dtype=torch.float64)
        if self.signs and pairs:
            signs = 1.0 - 2.0 * torch.randint(0, 2, (pairs,), generator=generator).double()
            signs[int(torch.randint(0, pairs, (1,), generator=generator))] = -1.0
            scales = self.signs_over(on, signs)
        if self.scales:
            sizes = 0.5 + 1.5 * torch.rand(self.units(on.size), generator=generator, dtype=torch.float64)
            scales = scales * self.over(on, sizes)
        return scales

    # -- matching and least norm -------------------------------------------------------------------------------

    def order(self, value: Tensor) -> Tensor:
        """The places with the largest sum_i value[i, place_i]: (P, n, n) -> (P, n)."""
        if self.permutes:
            return assignment(value)
        return torch.arange(value.shape[-1], device=value.device).expand(value.shape[:-1])

    def assign(self, on: IndexSet, own: Mapping[tuple[int, ...], Tensor], inner: Tensor | None) -> Assignment:
        """The best places and signs, given what every pair of positions is worth.

        Args:
            own: correlations of the space alone, by the sign exponents of the frames that they are of: (P, n, n) each.
            inner: what the spaces fibred over it make of each pair: (P, n, n).
        """
        if self.permutes:
            sign, best = best_signs(own, on.signs) if own else (None, None)
            value = _sum([part for part in (best, inner) if part is not None])
            index = self.order(value)
            sign = None if sign is None else torch.gather(sign, 3, _columns(index, sign)).squeeze(3)
            return Assignment(index, sign if on.signs else None, _worth(value, index).sum(1))
        index = self.order(_sum([*own.values(), *([] if inner is None else [inner])]))
        worth = {exponents: _worth(correlation, index) for exponents, correlation in own.items()}
        picked = {
            exponents: sum_of_pairs(correlation, on.layout) if self.paired else correlation
            for exponents, correlation in worth.items()
        }
        chosen = 0.0 if inner is None else _worth(inner, index).sum(1)
        if not picked:
            return Assignment(index, None, torch.as_tensor(chosen))
        sign, best = best_signs(picked, on.signs)
        return Assignment(index, self.signs_over(on, sign) if on.signs else None, chosen + best.double().sum(-1))

    def equalise(self, on: IndexSet, norms: Tensor, exponents: Tensor) -> Tensor:
        """The scales (p, F, n) of least norm, for squared norms (m, F, n) of m kinds of frames, exponents (m, p)."""
        summed = sum_of_pairs(norms, on.layout) if self.paired and not self.scaled_apart else norms
        return self.over(on, equalised(summed, exponents))

    # -- learning ----------------------------------------------------------------------------------------------

    def chart(self, on: IndexSet, options: ChartOptions) -> ChartPlan | None:
        if options.permutations and self.permutes:
            return ChartPlan("straight-through assignment", partial(Assigned, on), relaxable=True)
        if options.full and on.scales:
            make = partial(Scales, on, self.units(on.size), partial(self.over, on))
            return ChartPlan("logarithms of the scales", make)
        return None


def _pairs(n: Any) -> Any:
    return n // 2 if isinstance(n, int) else n / 2


def scaled(bare: Tensor, scales: Tensor) -> Sample:
    """The map with the permutation `bare` (n, n) and these scales (n,)."""
    column = scales.unsqueeze(1)
    return Sample(column * bare, bare / column, bare)


def _sum(tables: list[Tensor]) -> Tensor:
    """Their sum; of one table that itself."""
    return tables[0] if len(tables) == 1 else torch.stack(tables).sum(0)


def _worth(value: Tensor, index: Tensor) -> Tensor:
    """Of each row the entry at its index: (P, n, n), (P, n) -> (P, n)."""
    return torch.gather(value, 2, index.unsqueeze(2)).squeeze(2).double()


def _columns(index: Tensor, sign: Tensor) -> Tensor:
    return index.expand(len(sign), *index.shape).unsqueeze(3)
