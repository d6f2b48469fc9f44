"""What is written into a stream along directions that none of its readers sees: they read fewer than it is wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.symmetry.axis_parts import Piece


@dataclass(frozen=True, slots=True)
class Overlooked:
    """A parameter that writes a stream, along an axis of its own, and all matrices that read the stream.

    What the readers take to zero has no effect, so that it may be anything. Where any invertible map acts on the
    stream, those that leave all readers as they are account for as many columns of its writers as it is wide; `moved`
    are those of them that this writer has.
    """

    writer: Piece
    readers: tuple[Piece, ...]
    moved: int = 0

    @property
    def named(self) -> tuple[str, ...]:
        """The parameters that say which directions these are."""
        return tuple(reader.parameter for reader in self.readers)

    def number(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """How many directions there are, by the shapes of parameters."""
        return self.writer.size - sum(reader.beside(shapes[reader.parameter]) for reader in self.readers)

    def directions(self, state: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """An orthonormal basis of the directions that no reader sees, differentiable: (n, number)."""
        rows = [_rows(reader, state[reader.parameter]).to(like) for reader in self.readers]
        seen = torch.cat(rows)
        # The first columns span what is seen, the others are orthogonal to it.
        basis: Tensor = torch.linalg.qr(seen.detach().T, mode="complete")[0]
        unseen = basis[:, len(seen) :]
        # A complete factor has no gradient; what turns into sight, to first order, is taken out.
        blind: Tensor = unseen - torch.linalg.pinv(seen) @ (seen @ unseen)
        return blind


def _rows(reader: Piece, matrix: Tensor) -> Tensor:
    """What a matrix, or one for each offset of a convolution, makes of a stream: (rows, n)."""
    return matrix.movedim(reader.axis, -1).flatten(0, -2)
