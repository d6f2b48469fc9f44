"""A tensor that holds several parts along an axis, with these side by side along others of its axes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor of this `shape` with one axis, of parts, moved in front of `inside` neighbouring ones and one with them.

    `before` is the first of these, as the other axes are counted.
    """

    shape: tuple[int, ...]
    parts: int
    before: int
    inside: int

    @property
    def cut(self) -> tuple[int, ...]:
        """The shape with the axis of parts where it is moved to."""
        rest = [size for axis, size in enumerate(self.shape) if axis != self.parts]
        return (*rest[: self.before], self.shape[self.parts], *rest[self.before :])

    @property
    def flat(self) -> tuple[int, ...]:
        """The shape in which they are one axis."""
        end = self.before + 1 + self.inside
        return (*self.cut[: self.before], prod(self.cut[self.before : end]), *self.cut[end:])

    @property
    def own(self) -> dict[int, int]:
        """The axes of the tensor that stay as they are, with the place of each in the flat shape."""
        rest = [axis for axis in range(len(self.shape)) if axis != self.parts]
        inside = range(self.before, self.before + self.inside)
        kept = [axis for place, axis in enumerate(rest) if place not in inside]
        return {axis: place + (place >= self.before) for place, axis in enumerate(kept)}

    def laid(self, tensor: Tensor) -> Tensor:
        """The tensor so."""
        return tensor.movedim(self.parts, self.before).reshape(self.flat)

    def back(self, laid: Tensor) -> Tensor:
        """The tensor as it was."""
        return laid.reshape(self.cut).movedim(self.before, self.parts)
