"""How much each parameter counts in the distance of two models."""

from __future__ import annotations

from collections.abc import Mapping

from symgraph.axes.terms import leaves
from symgraph.errors import UsageError
from symgraph.gauge import State
from symgraph.infer.symmetry import SymmetryGraph


def parameter_weights(
    symmetry: SymmetryGraph, weighting: str | Mapping[str, float], a: State, b: State
) -> dict[str, float]:
    """The weight of every parameter in the distance; tensors of branches are stacked and have one together.

    Raises:
        UsageError: an unknown weighting, or a weight for what is no parameter.
    """
    if isinstance(weighting, Mapping):
        if unknown := sorted(weighting.keys() - symmetry.unstacked(a).keys()):
            raise UsageError(
                f"a weight for {unknown[0]}, which is no parameter", remedy="use the names of the state dict"
            )
        stacks = {s.name: s.members for s in symmetry.stacks}
        each = {n: [float(weighting.get(m, 1.0)) for m in stacks.get(n, (n,))] for n in a}
        return {n: sum(w) / len(w) for n, w in each.items()}
    if weighting in ("uniform", "inputs"):
        return dict.fromkeys(a, 1.0)
    if weighting == "inputs-halved":
        return {n: 0.5 if _only_writes(symmetry, n) else 1.0 for n in a}
    if weighting == "normalised":
        return {n: 1.0 / max(float(a[n].norm() * b[n].norm()), 1e-12) for n in a}
    raise UsageError(
        f"there is no weighting {weighting!r}",
        remedy="inputs-halved, uniform, normalised, inputs, or a number for each parameter",
    )


def _only_writes(symmetry: SymmetryGraph, name: str) -> bool:
    """Whether a parameter with several axes carries spaces on its written (covariant) side alone."""
    axes = symmetry.acting_terms[name]
    found = [x for t in axes for x in leaves(t) if x.space >= 0 and not symmetry.spaces[x.space].rigid]
    return len(axes) > 1 and bool(found) and not any(x.dual for x in found)
