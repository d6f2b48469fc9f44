"""A model moved by a random element of its group: the same function at other weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from symgraph.errors import UsageError, near
from symgraph.prove.verify import family_names, random_transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.sampling import float64


def moved(
    symmetry: SymmetryGraph,
    state: Mapping[str, Tensor],
    *,
    seed: int = 0,
    spread: float = 0.3,
    families: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """The state after a random element of every family of the group, computed in float64, each tensor in its dtype.

    Args:
        spread: how far from the identity elements of continuous families are drawn.
        families: patterns of the families that move (`symgraph.prove.verify.family_names`); * stands for any text.

    Raises:
        UsageError: a pattern names no family.
    """
    names = None if families is None else _named(families, list(family_names(symmetry)))
    generator = torch.Generator().manual_seed(seed)
    base = float64(state)
    image = random_transform(symmetry, base, generator, names, spread).apply(base)
    return {
        name: tensor if image[name] is base[name] else image[name].to(tensor.device, tensor.dtype)
        for name, tensor in state.items()
    }


def _named(patterns: Collection[str], known: list[str]) -> set[str]:
    chosen: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matching = {name for name in known if fnmatchcase(name, pattern)}
        if not matching:
            raise UsageError(f"no family {pattern!r} moves the weights of this model", remedy=near(pattern, known))
        chosen |= matching
    return chosen
