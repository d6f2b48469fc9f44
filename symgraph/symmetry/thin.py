"""Readers of a stream that has fewer dimensions than it is wide: one map alone writes it, from a narrower value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.families import Plane
from symgraph.symmetry.terms import over_leaves


@dataclass(frozen=True, slots=True)
class Thin:
    """A matrix that reads what `writer` makes of its whole input: along some directions that is one constant.

    `bias` is the writer's own; with a `plane` what the writer reads lies in it, by the whole of its other axis. The
    reader's bias `sink` takes what the constant makes of such directions in it; without one the constant is zero.
    Where any invertible map acts on the stream, those that leave its values as they are account for as many rows of its
    readers as it is wide; `moved` are those of them that this reader has.
    """

    reader: Piece
    sink: str
    writer: Piece
    bias: str
    plane: Plane | None
    moved: int = 0

    @property
    def order(self) -> Tensor:
        """Which of the entries that the writer makes stands at each that the reader reads."""
        entries = torch.arange(self.writer.size)
        found = over_leaves(entries, self.writer.term, self.reader.term)
        return entries if found is None else found

    @property
    def named(self) -> tuple[str, ...]:
        """The parameters that say which directions these are, and what the constant is."""
        plane = self.plane.named if self.plane is not None else ()
        return (self.writer.parameter, *plane, *((self.bias,) if self.bias else ()))

    def number(self, shape: Sequence[int]) -> int:
        """How many directions there are, by the shape of the writer."""
        return self.writer.size - shape[1 - self.writer.axis] + (self.plane is not None)

    def directions(self, state: Mapping[str, Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
        """An orthonormal basis of the directions that never vary, as they are read, and the constant along each.

        Shapes: like (...) -> (n, number), (number,).
        """
        matrix = self.writer.of(state[self.writer.parameter]).movedim(self.writer.axis, 0).to(like)
        constant = state[self.bias].to(like) if self.bias else like.new_zeros(len(matrix))
        if self.plane is not None:
            normal = self.plane.normal(state, like)
            constant = constant + self.plane.level * (matrix @ normal) / normal.square().sum()
            if self.plane.bias:
                constant = constant + matrix @ state[self.plane.bias].to(like)
            matrix = matrix - torch.outer(matrix @ normal, normal) / normal.square().sum()
        number = self.number(state[self.writer.parameter].shape)
        columns = torch.linalg.svd(matrix)[0][:, -number:]
        return columns[self.order], columns.T @ constant
