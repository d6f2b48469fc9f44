"""Worlds: the kinds of operands that a claim is tried on (design section 15).

A claim is about all operands, and a proof by sampling is as good as its samples. Every world draws all operands of a
call once: at another scale, on both sides of the numbers that the call carries, with zeros, with ties, with minus
infinity where a mask can bring it. Masks are open, random, and with whole rows and columns closed.

Numbers below `GUARD` keep divisions from zero, and those above 1 / `GUARD` stand for infinity; operands stay between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

GUARD = 1e-6
FARTHEST = 1000


@dataclass(frozen=True, slots=True)
class World:
    """How operands are drawn.

    `tolerance` is the relative error that rounding may reach here; `plain` says that entries are distinct and finite.
    """

    name: str
    floats: Callable[[list[int], Generator, Sequence[float]], Tensor]
    masks: Callable[[list[int], Generator], Tensor]
    integers: Callable[[list[int], Generator, int], Tensor]
    tolerance: float = 1e-9
    plain: bool = True


# -- floating operands -----------------------------------------------------------------------------------------------


def _normal(shape: list[int], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _uniform(shape: list[int], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def _gaussian(scale: float) -> Callable[[list[int], Generator, Sequence[float]], Tensor]:
    return lambda shape, generator, numbers: scale * _normal(shape, generator)


def around(shape: list[int], generator: Generator, numbers: Sequence[float]) -> Tensor:
    """Entries, and lengths of rows, on both sides of the numbers; some entries are a number or its negative."""
    rows = [*shape[:-1], 1] if shape else []
    near = torch.tensor(list(numbers) or [1.0], dtype=torch.float64)
    chosen = near[torch.randint(0, len(near), rows, generator=generator)]
    spread = 10 ** (2.0 * _uniform(rows, generator) - 1.5)
    drawn = chosen.abs() * spread * _normal(shape, generator)
    exact = _uniform(shape, generator)
    return torch.where(exact < 0.1, chosen, torch.where(exact > 0.95, -chosen, drawn))


def _zeros(shape: list[int], generator: Generator, numbers: Sequence[float]) -> Tensor:
    drawn = _normal(shape, generator) * (_uniform(shape, generator) < 0.5)
    for axis, size in enumerate(shape):
        if size > 2:
            drawn.select(axis, 0).zero_()
    return drawn


def _ties(shape: list[int], generator: Generator, numbers: Sequence[float]) -> Tensor:
    drawn = torch.randint(-1, 2, shape, generator=generator).double()
    for axis, size in enumerate(shape):
        if size > 2:
            drawn.select(axis, 0).copy_(drawn.select(axis, 1))
    return drawn


# -- masks and integers ----------------------------------------------------------------------------------------------


def _open(shape: list[int], generator: Generator) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def _random(shape: list[int], generator: Generator) -> Tensor:
    mask = _uniform(shape, generator) < 0.6
    if mask.numel() > 1:
        mask.view(-1)[0], mask.view(-1)[-1] = True, False
    return mask


def _closed(shape: list[int], generator: Generator) -> Tensor:
    """Along every axis one slice closed and one open."""
    mask = _random(shape, generator)
    for axis, size in enumerate(shape):
        if size > 1:
            mask.select(axis, size - 1).fill_(True)
    for axis, size in enumerate(shape):
        if size > 1:
            mask.select(axis, 0).fill_(False)
    return mask


def _shut(shape: list[int], generator: Generator) -> Tensor:
    return torch.zeros(shape, dtype=torch.bool)


def _any(shape: list[int], generator: Generator, limit: int) -> Tensor:
    """Integers over the whole range, some of them repeated."""
    low, high = (0, limit) if limit else (-7, 8)
    drawn = torch.randint(low, high, shape, generator=generator)
    if drawn.numel() > 2:
        drawn.view(-1)[0] = drawn.view(-1)[1]
    return drawn


def _far(shape: list[int], generator: Generator, limit: int) -> Tensor:
    return _any(shape, generator, limit or FARTHEST)


PLAIN = World("entries of size 1", _gaussian(1.0), _random, _any)
WORLDS = (
    PLAIN,
    World("entries of size 1e-3", _gaussian(1e-3), _open, _far),
    World("entries of size 1e3", _gaussian(1e3), _closed, _any, tolerance=1e-6),
    World("entries around the numbers of the call", around, _random, _any, plain=False),
    World("zeros", _zeros, _closed, _any, plain=False),
    World("ties and equal rows", _ties, _random, _far, plain=False),
)


def _with_infinity(shape: list[int], generator: Generator, numbers: Sequence[float]) -> Tensor:
    """Numbers that are added as a mask with closed rows and columns, where there are enough axes for one."""
    drawn = _normal(shape, generator)
    return drawn if len(shape) < 2 else drawn.masked_fill(~_closed(shape, generator), -torch.inf)


# Beside the others where what is not finite may be left out: every mask closed, minus infinity in what may be one.
SHUT = World("everything closed", _with_infinity, _shut, _any)


def bounded(mask: Tensor, world: World, generator: Generator) -> Tensor:
    """Numbers that are added as a mask: minus infinity where the mask is closed."""
    closed = ~world.masks(list(mask.shape), generator)
    return mask.masked_fill(closed, -torch.inf)


def opened(mask: Tensor) -> Tensor:
    """The mask with an open place in each row along its last axis."""
    if not mask.dim() or not mask.numel():
        return mask
    first = mask[..., :1]
    seen = first | True if mask.dtype == torch.bool else torch.where(first.isinf(), 0.0, first)
    return torch.cat([seen, mask[..., 1:]], -1)
