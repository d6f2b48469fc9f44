"""One model laid over another: of all weights that compute what A computes, those nearest to B, in B's own gauge.

What was added to B's weights is seen as it was added there alone: an ill-conditioned gauge makes much of little in
canonical form. So the match there is only the start. It weighs every tensor by what noise in B's gauge comes to in
canonical form; then all continuous symmetries are fitted in B's gauge, and permutations and signs are matched once more
where B is, in turn, until nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import mean, stdev

import torch
from torch import Tensor

from symgraph.match.descent import Nearest
from symgraph.match.match_models import nearest
from symgraph.match.match_options import MatchOptions
from symgraph.orbit.canonical import Canonical
from symgraph.orbit.fitted import SEED, fitted, square
from symgraph.orbit.freedoms import to_clean_gauge
from symgraph.orbit.steps import Act, State, Transform
from symgraph.orbit.upright import adopted, tilted, upright
from symgraph.symmetry.graph import SymmetryGraph

# Steps of the first fits, after which permutations are matched again, and of the last one.
BRIEF, WHOLE, ROUNDS = 6, 25, 3
# Surrogates of A that say what models have in common by chance.
SURROGATES = 8
_OPTIONS = MatchOptions(precision="float64", sweeps=20)


@dataclass(frozen=True, slots=True)
class Overlay:
    """A where it is nearest to B, in B's gauge.

    `distance` is that of the match in canonical form over |B|, and `chance` the same of models whose entries are A's in
    another order, several times.
    """

    state: State
    weights: dict[str, float]
    distance: float
    chance: tuple[float, ...]

    @property
    def deviations(self) -> float:
        """By how many standard deviations B is nearer to A than chance would have it."""
        spread = max(stdev(self.chance), 1e-3 * mean(self.chance))
        return (mean(self.chance) - self.distance) / spread


def seen(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> list[str]:
    """The tensors that models are compared by: whatever a checkpoint stores and the graph reads."""
    kept = symmetry.graph.state.keys() - symmetry.graph.transient
    return [name for name in symmetry.terms if name in kept and name in state and state[name].is_floating_point()]


def root_mean_square(tensor: Tensor) -> float:
    """Of the entries."""
    return float(tensor.square().mean().sqrt()) if tensor.numel() else 0.0


def overlay(symmetry: SymmetryGraph, a: State, b: State, *, enough: float = 0.0, far: float = 1.0) -> Overlay:
    """A laid over B.

    Args:
        a, b: states in float64.
        enough, far: shares of the sizes of B's tensors. Where no more than the first is left at the start, nothing is
            fitted; where more than the second is left after the first fit, it is not improved.

    Raises:
        CheckpointError: a gain has a zero where its bias has not.
        SymgraphError: a gain of B is zero, so that nothing can be brought into its gauge.
    """
    names = seen(symmetry, b)
    sizes = {name: root_mean_square(b[name]) for name in names}
    weights = {name: 1.0 / size for name, size in sizes.items() if size > 0}
    there = upright(symmetry, b)
    match = _Match(symmetry, there, _noise_weights(symmetry, there, b, sizes))
    model = upright(symmetry, a)
    found = match.of(model)
    chance = tuple(match.distance(match.of(upright(symmetry, s))) for s in _surrogates(symmetry, a))
    here = adopted(symmetry, match.brought(model, found).apply(a), b)
    count = sum(b[name].numel() for name in weights)
    if square(here, b, weights) > enough**2 * count:
        here = _fitted(symmetry, here, b, weights, far**2 * count)
    return Overlay(here, weights, match.distance(found), chance)


def _fitted(symmetry: SymmetryGraph, here: State, b: State, weights: Mapping[str, float], far: float) -> State:
    """Fits and matches in turn, then fits to the end."""
    best = fitted(symmetry, here, b, weights, steps=BRIEF)
    for _ in range(ROUNDS):
        moved = _rematched(symmetry, best.state, b)
        if moved is None:
            break
        again = fitted(symmetry, moved, b, weights, steps=BRIEF)
        if again.squares[-1] >= best.squares[-1]:
            break
        best = again
    if best.squares[-1] > far:
        return best.state
    return fitted(symmetry, best.state, b, weights, steps=WHOLE).state


def _rematched(symmetry: SymmetryGraph, here: State, b: State) -> State | None:
    """The state with other permutations and signs where these are nearer to B; None where it has the nearest."""
    out, clean = to_clean_gauge(symmetry, here)
    to, target = to_clean_gauge(symmetry, b)
    sizes = {name: root_mean_square(b[name]) for name in seen(symmetry, b)}
    weights = _noise_weights(symmetry, Canonical(target, to, ()), b, sizes)
    found = nearest(symmetry, target, clean, replace(_OPTIONS, weighting=weights), warm=True)
    if not any(_changes_places(element.index, element.sign) for element in found.element.elements.values()):
        return None
    return Transform((Act(found.element), *out.inverse().steps)).apply(clean)


def _changes_places(index: Tensor | None, sign: Tensor | None) -> bool:
    moved = index is not None and bool((index != torch.arange(index.shape[-1])).any())
    return moved or (sign is not None and bool((sign < 0).any()))


@dataclass(frozen=True, slots=True)
class _Match:
    """What matches models to one in canonical form."""

    symmetry: SymmetryGraph
    target: Canonical
    weights: dict[str, float]

    def of(self, model: Canonical) -> Nearest:
        """The match of a model in canonical form."""
        options = replace(_OPTIONS, weighting=self.weights)
        return nearest(self.symmetry, self.target.state, model.state, options)

    def distance(self, found: Nearest) -> float:
        """What is left, over the norm of the target."""
        return float((max(found.objective[-1], 0.0) / found.scale) ** 0.5)

    def brought(self, model: Canonical, found: Nearest) -> Transform:
        """What leads the model into the gauge of the target."""
        back = self.target.transform.inverse().steps
        return Transform((*model.transform.steps, Act(found.element), *back))


def _noise_weights(
    symmetry: SymmetryGraph, there: Canonical, b: State, sizes: Mapping[str, float], probes: int = 2
) -> dict[str, float]:
    """One over the variance that noise of equal share in every tensor of B has in canonical form, by parameter."""
    generator, found = torch.Generator().manual_seed(SEED + 2), dict[str, float]()
    for _ in range(probes):
        noise = {
            name: sizes.get(name, 0.0) * _noise_like(tensor, generator) if name in sizes else tensor
            for name, tensor in b.items()
        }
        moved = there.transform.apply(noise, linear=True)
        for n in sizes:
            found[n] = found.get(n, 0.0) + float(moved[n].square().mean()) / probes
    least = 1e-12 * max(found.values(), default=1.0)
    # What the canonical form leaves open says nothing there.
    ports = (
        p
        for constant in tilted(symmetry)
        for p in (constant.source, *(share.port for share in constant.shares if share.port.plane is not None))
    )
    free = {port.piece.parameter for port in ports}
    return {
        name: 0.0 if name in free else 1.0 / max(value, least)
        for name, value in found.items()
        if name in symmetry.graph.parameters
    }


def _noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)


def _surrogates(symmetry: SymmetryGraph, a: State) -> Iterator[State]:
    """Models with A's entries in another order, each tensor by itself: unrelated, and alike in all sizes."""
    generator = torch.Generator().manual_seed(SEED + 3)
    for _ in range(SURROGATES):
        yield {
            name: _shuffled(tensor, generator) if name in symmetry.graph.parameters else tensor
            for name, tensor in a.items()
        }


def _shuffled(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].reshape(tensor.shape)
