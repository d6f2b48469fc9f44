"""One model laid over another: of all weights that compute what A computes, those nearest to B, in B's own gauge.

What was added to B's weights is seen as it was added there alone: an ill-conditioned gauge makes much of little in
canonical form. So the match there is only the start. It weighs every tensor by what noise in B's gauge comes to in
canonical form; then all continuous symmetries are fitted in B's gauge, and permutations and signs are matched once more
where B is, in turn, until nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import mean, stdev

import torch
from torch import Tensor

from symgraph.match.descent import Nearest
from symgraph.match.gain_signs import with_nearer_signs
from symgraph.match.match_models import nearest
from symgraph.match.noise_weights import OPTIONS, noise_weights, sizes_of
from symgraph.match.reordered import reordered
from symgraph.orbit.canonical import Canonical
from symgraph.orbit.fitted import SEED, Fitted, fitted, square
from symgraph.orbit.steps import Act, State, Transform
from symgraph.orbit.upright import adopted, mirrored, upright
from symgraph.symmetry.graph import SymmetryGraph

# Steps of the first fits, after which permutations are matched again, and of the last one.
BRIEF, WHOLE, ROUNDS = 6, 25, 6
# Surrogates of A that say what models have in common by chance.
SURROGATES = 8
# Of these so many are fitted to B.
UNRELATED = 3
# What A explains of B, beside what unrelated models do, from which on that need not be measured by fits.
PLAIN = 0.75


@dataclass(frozen=True, slots=True)
class Overlay:
    """A where it is nearest to B, in B's gauge.

    `left` is the root mean square of what is left, in sizes of B's tensors, `at_first` before orders are matched again.
    `distance` is that of the match in canonical form over |B|, `chance` the same of models whose entries are A's in
    another order. `unrelated` is what is left of B where some of these are fitted to it as A is at first; empty where
    the canonical form has told enough.
    """

    state: State
    weights: dict[str, float]
    left: float
    at_first: float
    distance: float
    chance: tuple[float, ...]
    unrelated: tuple[float, ...] = ()

    @property
    def deviations(self) -> float:
        """By how many standard deviations the match in canonical form is nearer than chance."""
        spread = max(stdev(self.chance), 1e-3 * mean(self.chance))
        return (mean(self.chance) - self.distance) / spread if spread else 0.0

    @property
    def explained(self) -> float:
        """The share of the squares that unrelated models leave of B that A explains: 1 in its orbit, 0 by chance."""
        left, null = (self.at_first, self.unrelated) if self.unrelated else (self.distance, self.chance)
        # Any model at all comes to one that is so small: nothing is A's own.
        return 1 - (left / mean(null)) ** 2 if mean(null) else 0.0


def overlay(symmetry: SymmetryGraph, a: State, b: State, *, enough: float = 0.0, far: float = 1.0) -> Overlay:
    """A laid over B.

    Args:
        a, b: states in float64.
        enough, far: shares of the sizes of B's tensors. Where no more than the first is left, nothing more is fitted;
            where more than the second is left after the first fit, it is not improved.

    Raises:
        CheckpointError: a gain has a zero where its bias has not.
        SymgraphError: a gain of B is zero, so that nothing can be brought into its gauge.
    """
    sizes = sizes_of(symmetry, b)
    weights = {n: 1.0 / size for n, size in sizes.items() if size > 0}
    there, model = upright(symmetry, b), upright(symmetry, a)
    match = _Match(symmetry, there, noise_weights(symmetry, there.transform, b, sizes))
    found = match.of(model)
    surrogates = [upright(symmetry, s) for s in _surrogates(symmetry, model.state)]
    matched = [match.of(s) for s in surrogates]
    count = sum(b[n].numel() for n in weights)

    def start(which: Canonical, at: Nearest, of: State) -> State:
        return adopted(symmetry, match.brought(which, at).apply(of), b, lambda here: square(here, b, weights))

    def begun(which: Canonical, at: Nearest, of: State) -> Fitted:
        first = fitted(symmetry, start(which, at, of), b, weights, steps=BRIEF, enough=near)
        return first if first.squares[-1] <= near else on_nearest_side(symmetry, first, b, weights)

    near, far_away = enough**2 * count, far**2 * count
    first = begun(model, found, a)
    here = _fitted(symmetry, first, b, sizes, near, far_away)
    left, at_first = (math.sqrt(s / count) for s in (square(here, b, weights), first.squares[-1]))
    over = Overlay(here, weights, left, at_first, match.distance(found), tuple(map(match.distance, matched)))
    if left <= enough or left > far or over.explained > PLAIN:
        return over
    others = zip(surrogates[:UNRELATED], matched, _surrogates(symmetry, model.state), strict=False)
    ends = (begun(*other).squares[-1] for other in others)
    return replace(over, unrelated=tuple(math.sqrt(end / count) for end in ends))


def _fitted(
    symmetry: SymmetryGraph, first: Fitted, b: State, sizes: Mapping[str, float], near: float, far: float
) -> State:
    """From a first fit on matches and fits in turn, then fits to the end; nothing more where it is near enough."""
    if first.squares[-1] <= near:
        return first.state
    weights = {n: 1.0 / size for n, size in sizes.items() if size > 0}
    best = last = first
    for _ in range(ROUNDS):
        moved = reordered(symmetry, last.state, b, sizes)
        if moved is None:
            break
        before, last = last.squares[-1], fitted(symmetry, moved, b, weights, steps=BRIEF)
        if last.squares[-1] < best.squares[-1]:
            best = last
        elif before > best.squares[-1]:
            break
    best = on_nearest_side(symmetry, best, b, weights)
    if best.squares[-1] > far:
        return best.state
    return fitted(symmetry, best.state, b, weights, steps=WHOLE, enough=near).state


def on_nearest_side(symmetry: SymmetryGraph, here: Fitted, b: State, weights: Mapping[str, float]) -> Fitted:
    """The nearest of fits with signs of gains, and sides of tilted biases, to which no fit leads from the others."""
    turned = with_nearer_signs(symmetry, here.state, b, weights)
    starts = [] if turned is here.state else [turned]
    for state in (*starts, *mirrored(symmetry, here.state)):
        here = min(here, fitted(symmetry, state, b, weights, steps=BRIEF), key=lambda fit: fit.squares[-1])
    return here


@dataclass(frozen=True, slots=True)
class _Match:
    """What matches models to one in canonical form."""

    symmetry: SymmetryGraph
    target: Canonical
    weights: dict[str, float]

    def of(self, model: Canonical) -> Nearest:
        """The match of a model in canonical form."""
        options = replace(OPTIONS, weighting=self.weights)
        return nearest(self.symmetry, self.target.state, model.state, options)

    def distance(self, found: Nearest) -> float:
        """What is left, over the norm of the target."""
        return float((max(found.objective[-1], 0.0) / found.scale) ** 0.5)

    def brought(self, model: Canonical, found: Nearest) -> Transform:
        """What leads the model into the gauge of the target."""
        back = self.target.transform.inverse().steps
        return Transform((*model.transform.steps, Act(found.element), *back))


def _surrogates(symmetry: SymmetryGraph, a: State) -> Iterator[State]:
    """Models with A's entries in another order, each tensor by itself: unrelated, and alike in all sizes.

    Args:
        a: in canonical form, so that these are nearly in it too.
    """
    generator = torch.Generator().manual_seed(SEED + 3)
    for _ in range(SURROGATES):
        yield {
            name: _shuffled(tensor, generator) if name in symmetry.graph.parameters else tensor
            for name, tensor in a.items()
        }


def _shuffled(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].reshape(tensor.shape)
