"""Which units stand for which: many units transported to few places at the least cost.

Where a place may take any number of units (semi-permutations), the transport has one free marginal, and its optimum is
the nearest place for every unit. Where each place takes the same number (units that are repeated), both marginals are
uniform, and the optimum of exact transport is an assignment. Places start at the units that are farthest from all
others before them, weighed by what leaves them, so that units that are equal are found together whatever their order;
then places and transport take turns.

Source: Singh et al. and Theus et al., Intra-Fusion (arXiv 2402.07839), for transport between units and places; with
averages of what enters and sums of what leaves it is exact for copies. Gonzalez 1985 (farthest first); Lloyd 1982.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ROUNDS = 10
# Squared distances below this part of the squared norms are rounding.
EQUAL = 1e-12


@dataclass(frozen=True, slots=True)
class Clusters:
    """The place of every unit, the weight that it has there (they sum to one), and the share of the norm that is lost.

    Shapes: place (m,) int64, weight (m,). What lies behind the last place is cut off: that is where dropped units go.
    """

    place: Tensor
    weight: Tensor
    lost: float


def distances(points: Tensor) -> Tensor:
    """Squared distances of all pairs of rows: (m, p) -> (m, m)."""
    inner = points @ points.T
    squares = inner.diagonal()
    squared: Tensor = (squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * inner).clamp_min(0.0)
    return squared


def first_places(apart: Tensor, start: Tensor, mass: Tensor, count: int) -> Tensor:
    """The units that places start at: (n,) of squared distances (m, m), squared norms (m,) and masses (m,)."""
    chosen = [int((mass * start).argmax())]
    nearest = apart[chosen[0]].clone()
    free = torch.ones_like(mass, dtype=torch.bool)
    for _ in range(count - 1):
        free[chosen[-1]] = False
        chosen.append(int(torch.where(free, mass * nearest, -1.0).argmax()))
        nearest = torch.minimum(nearest, apart[chosen[-1]])
    return torch.tensor(chosen)


def merged(points: Tensor, mass: Tensor, count: int) -> Clusters:
    """Units with rows `points` (m, p) at `count` places, where mass (m,) says how much an error in each counts."""
    squares = points.square().sum(1)
    places = points[first_places(distances(points), squares, mass, count)]
    place = _nearest(points, places)
    for _ in range(ROUNDS):
        places = _means(points, place, mass, places)
        before, place = place, _nearest(points, places)
        if torch.equal(before, place):
            break
    weight = shares(place, mass, count)
    return Clusters(place, weight, _lost(points, place, weight, mass, count))


def kept(
    apart: Tensor, squares: Tensor, mass: Tensor, score: Tensor, count: int, *, drop: bool
) -> tuple[Tensor, Tensor]:
    """The `count` units of the highest score, and the place of every unit: the nearest of these, or none with `drop`.

    Equal units are one unit with the sum of their scores, and are merged either way; what nothing leaves counts least.

    Shapes: squared distances (m, m), squared norms (m,), masses (m,), scores (m,) -> (n,), (m,).
    """
    size = squares.unsqueeze(0) + squares.unsqueeze(1)
    first = (apart <= EQUAL * size).int().argmax(1)
    pooled = torch.zeros_like(score).index_add_(0, first, score)
    alone = first == torch.arange(len(first))
    pooled = torch.where(mass > 0, pooled, -1.0)
    chosen = torch.where(alone, pooled, -2.0).topk(count).indices.sort().values
    near, place = apart[:, chosen].min(1)
    if drop:
        place = torch.where(near <= EQUAL * (squares + squares[chosen[place]]), place, count)
    place[chosen] = torch.arange(count)
    return chosen, place


def important(points: Tensor, mass: Tensor, score: Tensor, count: int, *, drop: bool) -> Clusters:
    """Units with rows `points` (m, p) of which the `count` most important stay, the others merged or dropped."""
    squares = points.square().sum(1)
    _, place = kept(distances(points), squares, mass, score, count, drop=drop)
    weight = shares(place, mass, count + 1)
    return Clusters(place, weight, _lost(points, place, weight, mass, count))


def even(points: Tensor, count: int) -> Clusters:
    """Units with rows `points` (m, p) at `count` places that take m / `count` of them each."""
    import ot

    size = len(points)
    one = torch.ones(size, dtype=points.dtype)
    places = points[first_places(distances(points), points.square().sum(1), one, count)]
    place = torch.full((size,), -1)
    for _ in range(ROUNDS):
        cost = torch.cdist(points, places).square().numpy()
        plan = ot.emd(np.full(size, 1 / size), np.full(count, 1 / count), cost)
        before, place = place, torch.from_numpy(plan).argmax(1)
        if torch.equal(before, place):
            break
        places = _means(points, place, one, places)
    weight = shares(place, one, count)
    return Clusters(place, weight, _lost(points, place, weight, one, count))


def shares(place: Tensor, mass: Tensor, size: int) -> Tensor:
    """The part of each unit in its place; where nothing has mass there, all count the same."""
    total = mass.new_zeros(size).index_add_(0, place, mass)
    count = mass.new_zeros(size).index_add_(0, place, torch.ones_like(mass))
    held = torch.where(total > 0, total, 1.0)
    return torch.where(total[place] > 0, mass / held[place], 1.0 / count[place])


def _nearest(points: Tensor, places: Tensor) -> Tensor:
    inner = points @ places.T
    return (places.square().sum(1) - 2 * inner).argmin(1)


def _means(points: Tensor, place: Tensor, mass: Tensor, before: Tensor) -> Tensor:
    """The weighted mean of every place, which stays where it is if nothing with a mass is left there."""
    total = mass.new_zeros(len(before)).index_add_(0, place, mass)
    means = torch.zeros_like(before).index_add_(0, place, mass.unsqueeze(1) * points)
    held = (total > 0).unsqueeze(1)
    return torch.where(held, means / torch.where(total > 0, total, 1.0).unsqueeze(1), before)


def _lost(points: Tensor, place: Tensor, weight: Tensor, mass: Tensor, count: int) -> float:
    """The share that is lost; of units behind the last place it is all."""
    mean = points.new_zeros(count + 1, points.shape[1]).index_add_(0, place, weight.unsqueeze(1) * points)
    mean[count] = 0.0
    whole = float((mass.unsqueeze(1) * points.square()).sum())
    return root_share(float((mass.unsqueeze(1) * (points - mean[place]).square()).sum()), whole)


def root_share(lost: float, whole: float, rounding: float = 1e-24) -> float:
    """The root of a part of squares; rounding counts as nothing."""
    share = lost / max(whole, 1e-300)
    return share**0.5 if share > rounding else 0.0
