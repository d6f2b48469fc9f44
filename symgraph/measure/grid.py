"""Which mixtures of models are looked at: points of the segment between two, or of the simplex of more."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from numbers import Integral
from typing import Any

from symgraph.errors import UsageError, argument
from symgraph.measure.mixture import Mixture, check_weights, dirichlet, vertex

# A lattice grows fast with the number of models: beyond this many they get edges, and the way to the middle.
_SURFACE_MODELS = 4
_PROFILE = (0.25, 0.5, 0.75)
_GOLDEN = (3 - math.sqrt(5)) / 2


@dataclass(frozen=True, slots=True)
class Simplex:
    """Mixtures of two models or more, however they are asked for; see `symgraph.measure.barrier.loss_barrier`."""

    mixtures: Sequence[Sequence[float]] | None = None
    resolution: int | None = None
    samples: int = 0
    concentration: float = 1.0
    seed: int = 0

    def places(self, models: int) -> list[Mixture]:
        """The models first, then all mixtures.

        Raises:
            UsageError: a mixture has a negative weight or does not sum to one, or an option does not exist.
        """
        points = self._grid(models) if self.mixtures is None else _given(self.mixtures, models)
        points = [*points, *self._drawn(models)]
        return list(dict.fromkeys(map(_on_segment, points) if models == 2 else points))

    def _grid(self, models: int) -> list[Mixture]:
        """The models, midpoints of pairs, the ways to the even mixture, that, and the lattice."""
        steps = (4 if models <= _SURFACE_MODELS else 2) if self.resolution is None else self.resolution
        if steps < 1:
            raise UsageError(f"a resolution of {steps}", remedy=argument("resolution", 4))
        middle, ends = even(models), _vertices(models)
        pairs = [tuple(0.5 * (model in pair) for model in range(models)) for pair in combinations(range(models), 2)]
        # Three models have a surface to look at, all others lines to the middle.
        ways = [] if models == 3 else [_toward(end, middle, share) for share in _PROFILE for end in ends]
        return [
            *ends,
            *pairs,
            *ways,
            middle,
            *(tuple(count / steps for count in composition) for composition in _compositions(steps, models)),
        ]

    def _drawn(self, models: int) -> list[Mixture]:
        if self.samples < 0 or not 0 < self.concentration < math.inf:
            what = f"{self.samples} samples of concentration {self.concentration:g}"
            raise UsageError(what, remedy="give 0 or more, of a positive concentration")
        return dirichlet(models, self.concentration, self.samples, self.seed) if self.samples else []


def line(points: int | Sequence[float]) -> list[Mixture]:
    """Both models, then what lies between them.

    Raises:
        UsageError: nothing does.
    """
    chosen: Any = points
    if isinstance(chosen, Integral):
        last = int(chosen) - 1
        chosen = [step / last for step in range(1, last)]
    try:
        inside = {float(share) for share in chosen}
    except (TypeError, ValueError):
        inside = set()
    grid = sorted({0.0, 1.0} | inside)
    if len(grid) < 3 or not all(0 <= share <= 1 for share in grid):
        remedy = "pass a number of points from 3, or values between 0 and 1 with at least one strictly inside"
        raise UsageError(f"points {points!r} of lambda give no loss barrier", remedy=remedy)
    return [_on_segment((1 - share, share)) for share in (0.0, 1.0, *grid[1:-1])]


def refined(lambdas: Sequence[float], barriers: Sequence[float]) -> Mixture:
    """The next point of a golden section around the largest barrier."""
    peak = min(max(barriers.index(max(barriers)), 1), len(lambdas) - 2)
    left, middle, right = lambdas[peak - 1], lambdas[peak], lambdas[peak + 1]
    towards = right if right - middle >= middle - left else left
    place = middle + _GOLDEN * (towards - middle)
    return (1 - place, place)


def _on_segment(weights: Mixture) -> Mixture:
    """A mixture of two models as its lambda gives it."""
    return (1 - weights[1], weights[1])


def even(models: int) -> Mixture:
    """The mixture in which all models weigh the same."""
    return (1 / models,) * models


def _vertices(models: int) -> list[Mixture]:
    return [vertex(model, models) for model in range(models)]


def _given(mixtures: Sequence[Sequence[float]], models: int) -> list[Mixture]:
    chosen = [tuple(map(float, mixture)) for mixture in mixtures]
    for weights in chosen:
        check_weights(weights, models)
        if bad := [weight for weight in weights if not weight >= 0]:
            raise UsageError(f"a mixture has a weight of {bad[0]:g}", remedy="weights are not negative and sum to one")
    points = [*_vertices(models), *chosen]
    if len(set(points)) == models:
        remedy = "give weights such as 0.5 0.5"
        raise UsageError("there is no mixture", cause="only the models themselves", remedy=remedy)
    return points


def _toward(end: Mixture, middle: Mixture, share: float) -> Mixture:
    return tuple((1 - share) * part + share * even for part, even in zip(end, middle, strict=True))


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as a sum of `parts` numbers from 0."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        yield from ((first, *rest) for rest in _compositions(total - first, parts - 1))
