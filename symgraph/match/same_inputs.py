"""Whether all processes of a run read the same models, before they share it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from symgraph.errors import CheckpointError, shorten
from symgraph.io.ranks import current
from symgraph.io.sums import extremes
from symgraph.orbit.owned import owners
from symgraph.symmetry.graph import SymmetryGraph


def require_alike(symmetry: SymmetryGraph, state: Mapping[str, Tensor], called: str) -> None:
    """Compares with the first process the symmetries, and of the tensors that belong to this one the extremes.

    Raises:
        CheckpointError: they differ.
    """
    ranks = current()
    if ranks.count == 1:
        return
    print_, ends = ranks.sent(
        0, lambda: (symmetry.fingerprint, {name: _ends(tensor) for name, tensor in state.items()})
    )
    remedy = "let all of them read the same files with the same versions of all packages"
    if print_ != symmetry.fingerprint:
        raise CheckpointError(f"{called} has other symmetries here than in the first process", remedy=remedy)
    homes = owners(symmetry, ranks.count)
    other = [name for name, tensor in state.items() if homes[name] == ranks.rank and _ends(tensor) != ends.get(name)]
    if other:
        what = f"{called} has other weights here than in the first process: {shorten(other)}"
        raise CheckpointError(what, remedy=remedy)


def _ends(tensor: Tensor) -> tuple[float, ...]:
    return tuple(map(float, extremes(tensor) or ()))
