"""Weights at the second moment of their inputs, |(T_A - T_B) S^1/2|^2: outputs are compared (design section 12)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def weighted(state: State, moments: Mapping[tuple[str, int], tuple[Tensor, Tensor]], side: int) -> dict[str, Tensor]:
    """Parameters times the square root of their inputs' second moment, T S^1/2: A's with side 0, B's with side 1.

    A rotation acts on the result as it acts on the parameter, so that matching these is matching the outputs.
    """
    found = dict(state)
    roots: dict[int, Tensor] = {}
    for (name, axis), pair in moments.items():
        if name not in found:
            continue
        root = roots.setdefault(id(pair[side]), _root(pair[side]))
        moved = found[name].movedim(axis, -1)
        found[name] = (moved @ root.to(moved)).movedim(-1, axis)
    return found


def _root(moment: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(moment)
    root: Tensor = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.mT
    return root
