"""How much each parameter counts in the distance of two models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from symgraph.errors import UsageError
from symgraph.orbit.steps import State
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import leaves


def parameter_weights(
    symmetry: SymmetryGraph, weighting: str | Mapping[str, float], a: State, *others: State
) -> dict[str, float]:
    """The weight of every parameter in the distance of models; those that the group acts on together have one.

    Raises:
        UsageError: a weight for what is no parameter.
    """
    if isinstance(weighting, Mapping):
        if unknown := sorted(weighting.keys() - set(symmetry.graph.parameters)):
            raise UsageError(
                f"a weight for {unknown[0]}, which is no parameter", remedy="use the names of the state dict"
            )
        each = {name: [float(weighting.get(own, 1.0)) for own in symmetry.members_of(name)] for name in a}
        return {name: sum(weights) / len(weights) for name, weights in each.items()}
    if weighting in ("uniform", "inputs"):
        return dict.fromkeys(a, 1.0)
    halved = {name: 0.5 if _only_writes(symmetry, name) else 1.0 for name in a}
    if weighting == "inputs-halved":
        return halved
    normalised = {name: _normalised([state[name] for state in (a, *others)]) for name in a}
    if weighting == "per-entry":
        return {name: halved[name] * a[name].numel() * normalised[name] for name in a}
    return normalised


def tensor_weights(symmetry: SymmetryGraph, weighting: str | Mapping[str, float], *states: State) -> dict[str, float]:
    """The same for every tensor by itself, which has the weight of what it is acted on with, or of its parts.

    Raises:
        UsageError: a weight for what is no parameter.
    """
    first, *others = map(symmetry.acting, states)
    found = parameter_weights(symmetry, weighting, first, *others)
    each = {name: [found[own] for own in symmetry.acting_names(name)] for name in states[0]}
    return {name: sum(own) / len(own) for name, own in each.items()}


def _normalised(tensors: Sequence[Tensor]) -> float:
    """One over the geometric mean of the squared norms."""
    mean: float = math.prod(float(tensor.norm()) ** (2 / len(tensors)) for tensor in tensors)
    return 1.0 / max(mean, 1e-12)


def _only_writes(symmetry: SymmetryGraph, name: str) -> bool:
    """Whether a parameter with several axes carries spaces on its written (covariant) side alone."""
    axes = symmetry.acting_terms[name]
    carried = [leaf for term in axes for leaf in leaves(term) if leaf.space >= 0]
    moving = [leaf for leaf in carried if not symmetry.spaces[leaf.space].rigid]
    return len(axes) > 1 and bool(moving) and not any(leaf.dual for leaf in moving)
