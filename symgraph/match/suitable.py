"""Which method of matching suits a model where nobody has chosen one."""

from __future__ import annotations

from symgraph.errors import argument, either
from symgraph.groups.map_class import DenseMaps
from symgraph.ir import Kind
from symgraph.symmetry.graph import SymmetryGraph

WEIGHTS, ACTIVATIONS = "weights", "activations"


def suitable(symmetry: SymmetryGraph) -> tuple[str, str]:
    """The method that suits the spaces of a model, given training data, and why.

    Where units only change places (with scales or signs) the weights of two models say little of which unit is which,
    and what the units compute says more; the share of the weights is chosen on data, so that nothing is lost. Where
    rotations are found, weights say enough, and matching by them needs no pass over data.
    """
    active = symmetry.active
    if not active:
        return WEIGHTS, "no space can be aligned"
    if has_statistics(symmetry):
        return ACTIVATIONS, "it has batch norms"
    if turning := next((space.name for space in active if isinstance(space.maps, DenseMaps)), ""):
        return WEIGHTS, f"there are rotations, as of {turning}"
    return ACTIVATIONS, "there are only permutations, with scales or signs"


def unsuited(symmetry: SymmetryGraph, method: str) -> tuple[str, ...]:
    """What is said of models with batch norms that weights have not brought together: no match may have been better."""
    if method != WEIGHTS or not has_statistics(symmetry):
        return ()
    remedy = f"with training data, {argument('method', ACTIVATIONS)} matches what units compute"
    anew = either("recalibrate=batches", "--recalibrate DATA")
    return (f"there are batch norms, of which weights alone say little: {remedy}; mixtures need {anew}",)


def has_statistics(symmetry: SymmetryGraph) -> bool:
    """Whether a model has norms with stored statistics, which mixtures do not fit."""
    return any(node.kind is Kind.CALL and "batch_norm" in node.target for node in symmetry.graph.nodes)
