"""What rounding the matrices of a model to few bits loses: a function of its weights, to descend on over the orbit.

Round to nearest, symmetric: each output of a matrix has a step of its own, or one for every group of its inputs.

Source: Esser et al. 2020, arXiv 1902.08153 (the slope in the step: what is rounded up or down grows with it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import leaves


@dataclass(frozen=True, slots=True)
class Rounding:
    """How matrices are rounded: to so many bits, with a step for `group` inputs at a time (0: for all of an output)."""

    bits: int = 4
    group: int = 0

    def __call__(self, matrix: Tensor, axis: int) -> Tensor:
        """The nearest matrix on the grid; slopes pass the rounding as if there were none, but the step has its own.

        Shapes: matrix with its inputs along `axis`.
        """
        rows = matrix.movedim(axis, -1)
        size = rows.shape[-1]
        width = self.group if self.group and size % self.group == 0 else size
        groups = rows.reshape(*rows.shape[:-1], size // width, width)
        step = groups.abs().amax(-1, keepdim=True).clamp_min(1e-12) / (2 ** (self.bits - 1) - 1)
        ratio = groups / step
        whole = ratio.detach().round() + (ratio - ratio.detach())
        rounded: Tensor = (whole * step).reshape(rows.shape).movedim(-1, axis)
        return rounded


def rounded_matrices(symmetry: SymmetryGraph) -> dict[str, int]:
    """The matrices that are rounded, each with the axis of its inputs: those between two spaces that something acts on.

    Tables that are looked up and heads, which tools leave as they are, lie between a space and a rigid axis.
    """
    matrices, active = {}, {space.id for space in symmetry.active}
    for name, terms in symmetry.terms.items():
        held = [[leaf for leaf in leaves(term) if leaf.space in active] for term in terms]
        moving = [axis for axis, on in enumerate(held) if on]
        reading = [axis for axis in moving if all(_reads(symmetry, leaf.frame, leaf.dual) for leaf in held[axis])]
        if len(terms) >= 2 and len(moving) == 2 and len(reading) == 1:
            matrices[name] = reading[0]
    return matrices


def _reads(symmetry: SymmetryGraph, frame: int, dual: bool) -> bool:
    return dual != symmetry.frame(frame).flip


def rounding_error(state: Mapping[str, Tensor], matrices: Mapping[str, int], rounding: Rounding) -> Tensor:
    """The squared error of rounding over the squares of what is rounded: a scalar, differentiable in the state."""
    error = total = torch.zeros(())
    for name, axis in matrices.items():
        matrix = state[name]
        error = error + (rounding(matrix, axis).detach() - matrix).square().sum()
        total = total + matrix.square().sum()
    return error / total
