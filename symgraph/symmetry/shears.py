"""Shears of a stream: one direction is added, as much as the value has of another one (design section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Normal:
    """The direction that a centred norm never writes along: 1 / gain, or the ones vector where no gain stays."""

    gain: str = ""

    def vector(self, state: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """It as a vector of length one; shapes: like (n,) -> (n,)."""
        gain = torch.ones_like(like) if not self.gain else state[self.gain].to(like)
        closed = gain == 0
        # Where a gain is zero nothing is written.
        normal = closed.to(like) if bool(closed.any()) else 1.0 / gain
        unit: Tensor = normal / normal.norm()
        return unit


ONES = Normal()


@dataclass(frozen=True, slots=True)
class Shear:
    """Values x of a frame may become x + a (b . x), with a along `along` and b along `across`; None is any direction.

    Norms that read the frame see no multiple of the ones vector, and those that write it write nothing along b; all
    else that it meets is linear, and its writers and readers make up for it. At most one of the two is None. So many
    as are `idle` of the free directions change nothing but what readers of a thin stream do not see.
    """

    frame: int
    size: int
    along: Normal | None
    across: Normal | None
    idle: int = 0

    @property
    def single(self) -> bool:
        """Whether there is one such direction only."""
        return self.along is not None and self.across is not None

    @property
    def gains(self) -> tuple[str, ...]:
        """The gains that its directions depend on."""
        return tuple(normal.gain for normal in (self.along, self.across) if normal is not None and normal.gain)
