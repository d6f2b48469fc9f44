"""Parameters that the group acts on in another layout: part by part, or several as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.terms import Term


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
    def is_line(self) -> bool:
        """Whether all axes become one, row by row as they stand."""
        return (self.parts, self.before, self.inside) == (0, 0, len(self.shape) - 1)

    @property
    def own(self) -> dict[int, int]:
        """The axes of the tensor that stay as they are, with the place of each in the flat shape."""
        rest = [axis for axis in range(len(self.shape)) if axis != self.parts]
        inside = range(self.before, self.before + self.inside)
        kept = [axis for place, axis in enumerate(rest) if place not in inside]
        return {axis: place + (place >= self.before) for place, axis in enumerate(kept)}

    def of_parameter(self, piece: Piece, parameter: str) -> Piece:
        """A piece of the tensor in which they are one axis as the same entries of the parameter itself."""
        rest = [axis for axis in range(len(self.shape)) if axis != self.parts]
        flat: dict[int, tuple[int, ...]] = {place: (axis,) for axis, place in self.own.items()}
        flat[self.before] = (self.parts, *rest[self.before : self.before + self.inside])
        axis, *more = (axis for place in piece.axes for axis in flat[place])
        return replace(piece, parameter=parameter, axis=axis, more=tuple(more))

    def laid(self, tensor: Tensor) -> Tensor:
        """The tensor so."""
        return tensor.movedim(self.parts, self.before).reshape(self.flat)

    def back(self, laid: Tensor) -> Tensor:
        """The tensor as it was."""
        return laid.reshape(self.cut).movedim(self.before, self.parts)


@dataclass(frozen=True, slots=True)
class Glued:
    """Parameters that a model puts together along an axis before it reads them: they are pieces of one tensor.

    `sizes` are their lengths along it. The group acts on the whole tensor, which has these terms. A single one is a
    parameter whose parts along an axis are read by themselves; the group acts on it as `laid`, and it has
    terms of its own along the other axes.
    """

    members: tuple[str, ...]
    axis: int
    sizes: tuple[int, ...]
    terms: tuple[Term, ...]
    laid: Layout | None = None

    @property
    def name(self) -> str:
        """What the tensors are called together."""
        if self.laid is not None:
            return f"{self.members[0]} part by part"
        return f"{self.members[0]} and {len(self.members) - 1} beside it"

    def whole(self, tensors: Sequence[Tensor]) -> Tensor:
        """The tensor that they are pieces of."""
        return torch.cat(list(tensors), self.axis) if self.laid is None else self.laid.laid(tensors[0])

    def apart(self, whole: Tensor) -> Sequence[Tensor]:
        """The pieces of such a whole."""
        return torch.split(whole, list(self.sizes), self.axis) if self.laid is None else (self.laid.back(whole),)
