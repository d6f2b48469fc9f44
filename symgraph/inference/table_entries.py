"""Entries and rows of tables: where each stands, which axis tells rows apart, how many of them are reached."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from symgraph.symmetry.axis_parts import Piece


def entries(piece: Piece, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """The entries of a piece where they stand in their parameter, and the rows where it has any."""
    sizes = [size if axis in piece.axes else 1 for axis, size in enumerate(shape)]
    at, axis = piece.numbered(piece.length(shape)).reshape(sizes).expand(shape), row_axis(piece, shape)
    if axis is None:
        return at, None
    sizes = [-1 if i == axis else 1 for i in range(len(shape))]
    rows = torch.arange(1, shape[axis] + 1, dtype=torch.float64).reshape(sizes)
    return at, rows.expand(shape)


def row_axis(piece: Piece, shape: tuple[int, ...]) -> int | None:
    """The axis of a table whose positions may be told apart: the only one beside the piece's, which are the last."""
    found = [i for i, n in enumerate(shape) if n > 1 and i not in piece.axes]
    return found[0] if len(found) == 1 and piece.axes[-1] == len(shape) - 1 else None


def covered(spans: Iterable[tuple[int, int]]) -> int:
    """How many positions lie in one of some spans."""
    reached, count = 0, 0
    for start, stop in sorted(spans):
        count += max(stop - max(start, reached), 0)
        reached = max(reached, stop)
    return count
