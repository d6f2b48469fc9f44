"""Entries and rows of tables: where each stands, which axis tells rows apart, how many of them are reached."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from symgraph.symmetry.axis_parts import Piece


def entries(piece: Piece, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """The entries of a piece where they stand in their parameter, and the rows where it has any."""
    if piece.more:
        return piece.numbered(piece.length(shape)).reshape(shape), None
    if piece.axis < len(shape) - 1:
        sizes = [-1 if axis == piece.axis else 1 for axis in range(len(shape))]
        return piece.numbered(shape[piece.axis]).reshape(sizes).expand(shape), None
    line, axis = piece.numbered(shape[-1]), row_axis(shape)
    if axis is None:
        return line.expand(shape), None
    sizes = [-1 if i == axis else 1 for i in range(len(shape))]
    rows = torch.arange(1, shape[axis] + 1, dtype=torch.float64).reshape(sizes)
    return line.expand(shape), rows.expand(shape)


def row_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of a table whose positions may be told apart: the only one beside the last with more than one."""
    found = [i for i, n in enumerate(shape[:-1]) if n > 1]
    return found[0] if len(found) == 1 else None


def covered(spans: Iterable[tuple[int, int]]) -> int:
    """How many positions lie in one of some spans."""
    reached, count = 0, 0
    for start, stop in sorted(spans):
        count += max(stop - max(start, reached), 0)
        reached = max(reached, stop)
    return count
