"""Tensors of which only the direction counts: what they write is divided by its length, or others make up for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symgraph.symmetry.axis_parts import Piece


@dataclass(frozen=True, slots=True)
class Radial:
    """Tensors whose common positive factor nothing sees.

    With `powers` each has the factor to a power of its own. Where the first has it to a negative one this is a number
    that makes up for the others, or several for each factor; else those with negative ones read what the others write.
    With `parts` each has so many factors, for runs of one length along an axis of its own (`axes`): the maps of heads
    that are normalised each.
    With `pieces` the factors multiply these parts alone: the queries of a projection that makes keys and values too.
    """

    tensors: tuple[str, ...]
    powers: tuple[int, ...] = ()
    parts: int = 1
    axes: tuple[int, ...] = ()
    pieces: tuple[Piece, ...] = ()

    @property
    def name(self) -> str:
        """The tensors, with the range of entries where the factors multiply only some."""
        names = " + ".join(self.tensors)
        return f"{names}[{self.pieces[-1].start}:{self.pieces[-1].stop}]" if self.pieces else names

    @property
    def place(self) -> tuple[str, int]:
        """What tells it from every other one of the model."""
        return self.tensors[0], self.pieces[0].start if self.pieces else 0

    @property
    def by_number(self) -> bool:
        """Whether a learned number makes up for the factor."""
        return self.powers[:1] < (0,) and bool(self.powers)

    @property
    def is_traded(self) -> bool:
        """Whether tensors that read what the others write make up for the factor."""
        return bool(self.powers) and not self.by_number

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the factors."""
        return (self.parts,) if self.parts > 1 else ()

    def times(self, state: Mapping[str, Tensor], factor: Tensor) -> dict[str, Tensor]:
        """Those of the tensors that there are, multiplied; shapes: factor has that of the factors."""
        powers = self.powers or (1,) * len(self.tensors)
        return {
            name: self._apart(number, state[name], factor**power)
            for number, (name, power) in enumerate(zip(self.tensors, powers, strict=True))
            if name in state
        }

    def number(self, state: Mapping[str, Tensor]) -> Tensor:
        """The number that makes up for each factor; of several the root of their mean square."""
        runs = self._runs(0, state[self.tensors[0]].detach().double())
        size = runs[:, 0] if runs.shape[1] == 1 else runs.square().mean(1).sqrt()
        return size.reshape(self.shape)

    def balanced(self, state: Mapping[str, Tensor]) -> Tensor:
        """The factor that leaves the least sum of squares; one where all that is written or read by is zero."""
        both = {sign: torch.zeros((), dtype=torch.float64) for sign in (1, -1)}
        for name, power in zip(self.tensors, self.powers, strict=True):
            both[power] = both[power] + state[name].double().square().sum()
        written, read = both[1], both[-1]
        return torch.where((written > 0) & (read > 0), read / written, 1.0) ** 0.25

    def squares(self, state: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """The sum of the squares for each factor, and how many entries that are."""
        held = [self._runs(number, state[name]) for number, name in enumerate(self.tensors) if name in state]
        squares = [runs.double().square().sum(-1) for runs in held]
        total = torch.stack(squares).sum(0) if squares else torch.zeros(self.parts, dtype=torch.float64)
        return total.reshape(self.shape), sum(runs.shape[-1] for runs in held)

    def _runs(self, number: int, tensor: Tensor) -> Tensor:
        """A tensor with what each factor multiplies in a row; shapes: (parts, entries)."""
        if self.pieces:
            tensor = self.pieces[number].of(tensor)
        if self.parts == 1:
            return tensor.reshape(1, -1)
        return tensor.movedim(self.axes[number], 0).reshape(self.parts, -1)

    def _apart(self, number: int, tensor: Tensor, factor: Tensor) -> Tensor:
        if self.pieces:
            piece = self.pieces[number]
            inside = piece.of(tensor)
            return piece.add(tensor, replace(self, pieces=())._apart(number, inside, factor) - inside)
        if self.parts == 1:
            return tensor * factor.to(tensor)
        axis = self.axes[number]
        along = factor.repeat_interleave(tensor.shape[axis] // self.parts).to(tensor)
        return tensor * along.reshape([-1 if dim == axis else 1 for dim in range(tensor.dim())])
