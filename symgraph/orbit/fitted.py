"""The nearest point of an orbit in a gauge that is given: weighted least squares over all continuous symmetries.

    min over g of  sum_T  w_T^2 |B_T - (g.A)_T|^2

from a point near by, where permutations and signs are right already. It is Gauss and Newton's method in coordinates
about the current point, each step by conjugate gradients; no matrix of the size of a model is made.

Source: Levenberg 1944, Marquardt 1963; Hestenes and Stiefel 1952; inexact steps, Dembo, Eisenstat and Steihaug 1982.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.errors import SymgraphError
from symgraph.orbit.coordinates import Coordinates, Vector, inner
from symgraph.orbit.steps import State
from symgraph.symmetry.graph import SymmetryGraph

LENGTHS = (1.0, 0.5, 0.2, 0.05)
DAMPING = 1e-4
ACCURACIES = (0.1, 0.03, 0.01)
PROBES = 3
# No seed that anyone is likely to have drawn the models with.
SEED = 746_201_933


@dataclass(frozen=True, slots=True)
class Fitted:
    """The point that was found, and the weighted squared distance to the target, before and after every step."""

    state: State
    squares: tuple[float, ...]


def fitted(
    symmetry: SymmetryGraph,
    state: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    weights: Mapping[str, float],
    *,
    steps: int = 20,
    tolerance: float = 1e-3,
    enough: float = 0.0,
    iterations: int = 60,
) -> Fitted:
    """The point of the orbit of `state` that is nearest to `target`, as far as steps from there lead.

    Args:
        weights: of the tensors that count, by name.
        tolerance: it ends where a step gains less than this part of what is left.
        enough: and where no more than this squared distance is left.
        iterations: of conjugate gradients in every step, at most.
    """
    here = dict(state)
    squares = [square(here, target, weights)]
    damping, accuracy = DAMPING, ACCURACIES[0]
    for _ in range(steps):
        if squares[-1] <= enough:
            break
        at = Coordinates(symmetry, here, weights)
        change = {name: weight * target[name] - at.here[name] for name, weight in weights.items()}
        step = _solved(at, change, damping, accuracy, iterations)
        there, left = _along(at, step, target, squares[-1])
        if there is None and damping > 1.0:
            break
        if there is None:
            damping *= 100
            continue
        here, gained = there, 1 - left / squares[-1]
        squares.append(left)
        damping = max(damping / 10, 1e-12)
        if gained < tolerance and accuracy <= ACCURACIES[-1]:
            break
        # Far away a step need not be exact.
        accuracy = ACCURACIES[-1] if gained < tolerance else ACCURACIES[1] if gained < 0.3 else accuracy
    return Fitted(here, tuple(squares))


def _along(at: Coordinates, step: Vector, target: Mapping[str, Tensor], before: float) -> tuple[State | None, float]:
    """The first point along a step that is nearer than before."""
    for length in LENGTHS:
        try:
            point = at.point({name: length * tensor for name, tensor in step.items()})
        except SymgraphError:
            continue
        left = square(point, target, at.weights)
        if left < before:
            return {name: tensor.detach() for name, tensor in point.items()}, left
    return None, math.inf


def square(state: Mapping[str, Tensor], target: Mapping[str, Tensor], weights: Mapping[str, float]) -> float:
    """The weighted squared distance of two states; infinite where it is not finite."""
    apart = (weight * (target[name] - state[name]) for name, weight in weights.items())
    total = sum(float(change.square().sum()) for change in apart)
    return total if math.isfinite(total) else math.inf


def _sizes(at: Coordinates, probes: int = 4) -> dict[str, float]:
    """The mean squared slope of the coordinates of every part, measured by random changes."""
    generator, sizes = torch.Generator().manual_seed(SEED), dict.fromkeys(at.zero, 0.0)
    for _ in range(probes):
        dual = at.dual(_random(at, generator))
        sizes = {
            name: size + float(dual[name].square().mean()) / probes if dual[name].numel() else size
            for name, size in sizes.items()
        }
    return sizes


def _random(at: Coordinates, generator: torch.Generator) -> State:
    return {
        name: torch.randn(tensor.shape, generator=generator, dtype=torch.float64) for name, tensor in at.here.items()
    }


def _solved(at: Coordinates, change: State, damping: float, accuracy: float, iterations: int) -> Vector:
    """The coordinates whose slope is nearest to a change, by conjugate gradients."""
    sizes = {name: size or 1.0 for name, size in _sizes(at).items()}
    left = at.dual(change)
    solution = {name: torch.zeros_like(tensor) for name, tensor in left.items()}
    scaled = {name: tensor / sizes[name] for name, tensor in left.items()}
    way, size = scaled, inner(left, scaled)
    enough = accuracy**2 * size
    for _ in range(iterations):
        if size <= enough:
            break
        image = at.dual(at.slope(way))
        image = {name: tensor + damping * sizes[name] * way[name] for name, tensor in image.items()}
        amount = size / max(inner(way, image), 1e-300)
        solution = {name: tensor + amount * way[name] for name, tensor in solution.items()}
        left = {name: tensor - amount * image[name] for name, tensor in left.items()}
        scaled = {name: tensor / sizes[name] for name, tensor in left.items()}
        before, size = size, inner(left, scaled)
        way = {name: tensor + size / before * way[name] for name, tensor in scaled.items()}
    return solution


def drawn(
    symmetry: SymmetryGraph, state: Mapping[str, Tensor], weights: Mapping[str, float], probes: int = PROBES
) -> Iterator[tuple[State, State]]:
    """White noise in every tensor, in units of one over its weight, and what a fit takes up of it to first order."""
    at, generator = Coordinates(symmetry, state, weights), torch.Generator().manual_seed(SEED + 1)
    for _ in range(probes):
        noise = _random(at, generator)
        yield noise, at.slope(_solved(at, noise, 1e-9, 0.03, 100))
