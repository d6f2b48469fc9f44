"""Permutations and signs matched once more where a model lies nearly over another one.

In the clean gauge noise is no longer independent: the noise of a gain multiplies all that reads it, that of a matrix
goes into the biases behind it. So spaces that no gain stands on are matched in B's own gauge first, where elements act
as they do in the clean one and every tensor has its own noise alone; then all of them in the clean gauge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from symgraph.match.match_models import nearest
from symgraph.match.noise_weights import OPTIONS, noise_weights
from symgraph.orbit.action import GroupElement
from symgraph.orbit.constant_steps import Lift
from symgraph.orbit.freedoms import to_clean_gauge
from symgraph.orbit.steps import Act, State, Transform
from symgraph.symmetry.families import means
from symgraph.symmetry.graph import SymmetryGraph


def reordered(symmetry: SymmetryGraph, here: State, b: State, sizes: Mapping[str, float]) -> State | None:
    """The state with other permutations and signs where these are nearer to B; None where it has the nearest.

    Args:
        sizes: the root mean square of each tensor of B that counts.
    """
    moved = _in_own_gauge(symmetry, here, b, sizes)
    return _in_clean_gauge(symmetry, here, b, sizes) if moved is None else moved


def _in_own_gauge(symmetry: SymmetryGraph, here: State, b: State, sizes: Mapping[str, float]) -> State | None:
    """As above, by spaces without gains, where the means that a fit gave to each position stay there."""
    gained = {symmetry.frame(gain.frame).space for gain in symmetry.gains}
    names = tuple(space.name for space in symmetry.active if space.id not in gained)
    if not names:
        return None
    centred = _without_means(symmetry, here)
    means_of = {name: here[name] - centred[name] for name in sizes}
    target = {**b, **{name: b[name] - mean for name, mean in means_of.items()}}
    weights = {name: 1 / sizes[name] ** 2 for name in symmetry.graph.parameters if sizes.get(name, 0.0) > 0}
    found = nearest(symmetry, target, centred, replace(OPTIONS, weighting=weights, spaces=names), warm=True)
    if not _changes_places(found.element):
        return None
    moved = Act(found.element).apply(centred)
    return {**moved, **{name: moved[name] + mean for name, mean in means_of.items()}}


def _without_means(symmetry: SymmetryGraph, here: State) -> State:
    """The state, in its own gauge, without means that norms do not see."""
    out, clean = to_clean_gauge(symmetry, here)
    for centred in symmetry.centred:
        for piece in centred.pieces:
            mean = means(piece, centred.frame, symmetry.raised(clean)[piece.parameter])
            clean = Lift(symmetry, piece, centred.frame, -mean).apply(clean)
    return out.inverse().apply(clean)


def _in_clean_gauge(symmetry: SymmetryGraph, here: State, b: State, sizes: Mapping[str, float]) -> State | None:
    out, clean = to_clean_gauge(symmetry, here)
    to, target = to_clean_gauge(symmetry, b)
    weights = noise_weights(symmetry, to, b, sizes)
    found = nearest(symmetry, target, clean, replace(OPTIONS, weighting=weights), warm=True)
    if not _changes_places(found.element):
        return None
    return Transform((Act(found.element), *out.inverse().steps)).apply(clean)


def _changes_places(element: GroupElement) -> bool:
    return any(_moves(e.index) or (e.sign is not None and bool((e.sign < 0).any())) for e in element.elements.values())


def _moves(index: Tensor | None) -> bool:
    return index is not None and bool((index != torch.arange(index.shape[-1])).any())
