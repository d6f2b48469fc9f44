"""Norms and extremes of tensors; of one that is read where it is needed each is found out once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from symgraph.tracing.deferred import Deferred, made, origin, remembered

# Products are summed so many entries at a time, in a cache and without a tensor of their size.
_PIECE = 2**16
# Where each number that is read waits for the device, pieces are as large as memory has them.
_FAR_PIECE = 2**26
Extremes = tuple[Tensor, Tensor] | None


def inner(x: Tensor, y: Tensor) -> float:
    """<x, y>, summed in float64."""
    if not x.dim():
        return float(x) * float(y)
    piece = _PIECE if x.device.type == "cpu" else _FAR_PIECE
    rows = max(1, piece * len(x) // max(x.numel(), 1))
    # Each piece is widened in the place of the one before: glibc does not find the room again that such a block leaves.
    wide = [torch.empty_like(t[:rows], dtype=torch.float64) for t in ((x,) if x is y else (x, y))]
    total = 0.0
    for pieces in zip(*(torch.split(t, rows) for t in (x, y)[: len(wide)]), strict=True):
        parts = [room[: len(part)].copy_(part).flatten() for room, part in zip(wide, pieces, strict=True)]
        total += float(parts[0] @ parts[-1])
    return total


def square(x: Tensor) -> float:
    """|x|^2, summed in float64."""
    return inner(x, x)


def norm(tensor: Tensor, values: Tensor | None = None) -> float:
    """|x|; of a tensor that waits to be rounded to another dtype, before that.

    Args:
        values: what it stands for, where that is at hand.
    """
    before = origin(tensor)
    if before is not None and before.is_floating_point() and values is None:
        return norm(before)

    def find() -> float:
        return math.sqrt(square(made(tensor) if values is None else values))

    return remembered([tensor], "norm", find)


def extremes(tensor: Tensor, values: Tensor | None = None) -> Extremes:
    """The least and the largest entry, which carry NaN and infinity along; None where it has no entries or no order.

    Args:
        values: as for `norm`.
    """
    if not tensor.numel() or not tensor.is_floating_point():
        return None
    before = origin(tensor)
    # Rounding keeps the order.
    known = extremes(before) if before is not None and values is None else None
    if known is not None:
        return known[0].to(tensor.dtype), known[1].to(tensor.dtype)

    def find() -> tuple[Tensor, Tensor]:
        held = made(tensor) if values is None else values
        return tuple((held.float() if held.itemsize == 1 else held).aminmax())  # type: ignore[return-value]

    return remembered([tensor], "extremes", find)


def noted(kept: Tensor, values: Tensor) -> Tensor:
    """A tensor that was put somewhere, once what is asked of it later is found out from its values."""
    if isinstance(kept, Deferred) and kept.is_floating_point():
        norm(kept, values)
        extremes(kept, values)
    return kept
