"""Entries and rows of tables: where each stands, which axis tells rows apart, how many of them are reached."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch

from symgraph.inference.entry_numbers import Numbers
from symgraph.inference.flow import Flow
from symgraph.inference.matrix_parts import Axes
from symgraph.ir import kept
from symgraph.symmetry.axis_parts import Run, numbered


@kept
def entries(flow: Flow, axes: Axes, run: Run, shape: tuple[int, ...]) -> Numbers:
    """The entries of a piece where they stand in a parameter of this shape, and the rows where that has any.

    Args:
        axes: those of the parameter that it is a piece of.
        run: where it stands along them.
    """
    sizes = [size if axis in axes else 1 for axis, size in enumerate(shape)]
    at, axis = numbered(run, prod(sizes)).reshape(sizes).expand(shape), row_axis(axes, shape)
    if axis is None:
        return Numbers(at)
    sizes = [-1 if i == axis else 1 for i in range(len(shape))]
    rows = torch.arange(1, shape[axis] + 1, dtype=torch.float64).reshape(sizes)
    return Numbers(at, rows.expand(shape))


def row_axis(axes: Axes, shape: tuple[int, ...]) -> int | None:
    """The axis of a table whose positions may be told apart: the only one beside those of a piece, which are last."""
    found = [i for i, n in enumerate(shape) if n > 1 and i not in axes]
    return found[0] if len(found) == 1 and axes[-1] == len(shape) - 1 else None


def covered(spans: Iterable[tuple[int, int]]) -> int:
    """How many positions lie in one of some spans."""
    reached, count = 0, 0
    for start, stop in sorted(spans):
        count += max(stop - max(start, reached), 0)
        reached = max(reached, stop)
    return count
