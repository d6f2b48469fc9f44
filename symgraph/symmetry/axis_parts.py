"""Parts of parameters along an axis, or along several that are read as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from symgraph.ir import resized
from symgraph.symmetry.terms import Concat, Product, Term, runs

# A parameter, its axis, and where a piece of it begins and ends there.
Place = tuple[str, int, int, int]
# Where a piece begins and ends along its axis, how often, and at what distance.
Run = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one axis of a parameter: `outer` runs of `stop - start` entries, one every `period` entries.

    With `more` the axis and those there are one, row by row in this order: heads and their inside, which a model
    flattens before it reads them.
    """

    parameter: str
    axis: int
    start: int
    stop: int
    term: Term
    outer: int = 1
    period: int = 0
    more: tuple[int, ...] = ()

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the parameter that it is a part of."""
        return self.axis, *self.more

    def length(self, shape: Sequence[int]) -> int:
        """How many entries a parameter of this shape has along them."""
        return prod(shape[axis] for axis in self.axes)

    def across(self, rank: int) -> tuple[int, ...]:
        """All other axes of a parameter of this rank."""
        return tuple(axis for axis in range(rank) if axis not in self.axes)

    def beside(self, shape: Sequence[int]) -> int:
        """How many numbers a parameter of this shape has at each entry."""
        return prod(shape[axis] for axis in self.across(len(shape)))

    def within(self, axes: Sequence[int]) -> Piece:
        """The piece of a tensor that has these axes of the parameter alone."""
        axis, *more = (axes.index(axis) for axis in self.axes)
        return replace(self, axis=axis, more=tuple(more))

    @property
    def size(self) -> int:
        """Number of entries along the axis."""
        return self.outer * (self.stop - self.start)

    @property
    def place(self) -> Place:
        """What tells this piece from every other one of the model."""
        return self.parameter, self.axis, self.start, self.stop

    def entries(self) -> range | list[int]:
        """Positions along the axis."""
        if self.outer == 1:
            return range(self.start, self.stop)
        return [turn * self.period + place for turn in range(self.outer) for place in range(self.start, self.stop)]

    @property
    def joint(self) -> int:
        """Where its axes are once they are one: as many of the others are in front of that as of the first of them."""
        return self.axis - sum(axis < self.axis for axis in self.more)

    @property
    def _together(self) -> tuple[int, ...]:
        return tuple(range(self.joint, self.joint + len(self.axes)))

    def _joined(self, tensor: Tensor) -> Tensor:
        """The parameter with its axes as one."""
        return tensor.movedim(self.axes, self._together).flatten(self.joint, self.joint + len(self.more))

    def shifted(self, by: int) -> Piece:
        """The piece so many entries further along the axis."""
        return replace(self, start=self.start + by, stop=self.stop + by)

    @property
    def run(self) -> Run:
        """Where it stands along the axis."""
        return self.start, self.stop, self.outer, self.period

    def places(self, device: torch.device | None = None) -> Tensor:
        """The same as a tensor: (size,)."""
        return places_of(self.run, device)

    def of(self, tensor: Tensor) -> Tensor:
        """The part of the parameter, its axes as one (`joint`); a view where it can be one."""
        if self.more:
            return replace(self, axis=self.joint, more=()).of(self._joined(tensor))
        if self.outer == 1:
            return tensor.narrow(self.axis, self.start, self.size)
        return tensor.index_select(self.axis, self.places(tensor.device))

    def add(self, tensor: Tensor, part: Tensor) -> Tensor:
        """The parameter with something added to this part; shapes: `part` broadcasts against `of(tensor)`."""
        if self.more:
            changed = replace(self, axis=self.joint, more=()).add(self._joined(tensor), part)
            sizes = [tensor.shape[axis] for axis in self.axes]
            return changed.reshape(resized(changed.shape, self.joint, *sizes)).movedim(self._together, self.axes)
        if self.outer == 1:
            inside = self.of(tensor) + part.to(tensor)
            whole = self.size == tensor.shape[self.axis]
            return inside if whole else tensor.slice_scatter(inside, self.axis, self.start, self.stop)
        at = self.places(tensor.device)
        return tensor.index_add(self.axis, at, part.to(tensor).expand(resized(tensor.shape, self.axis, self.size)))


def places_of(run: Run, device: torch.device | None = None) -> Tensor:
    """The positions of a piece along its axis: (size,)."""
    start, stop, outer, period = run
    inner = torch.arange(start, stop, device=device)
    return inner if outer == 1 else (torch.arange(outer, device=device).unsqueeze(1) * period + inner).reshape(-1)


def numbered(run: Run, length: int) -> Tensor:
    """An axis of this length with the entries of a piece numbered from one, and nothing elsewhere: (length,)."""
    start, stop, outer, _ = run
    line = torch.zeros(length, dtype=torch.float64)
    numbers = torch.arange(1, outer * (stop - start) + 1, dtype=torch.float64)
    # A run is copied in one piece, which takes a tenth of the time.
    line[slice(start, stop) if outer == 1 else places_of(run)] = numbers
    return line


def pieces(parameter: str, axis: int, term: Term, start: int = 0) -> list[Piece]:
    """The parts of an axis: one for each part of a concatenation, also of one inside a product."""
    if isinstance(term, Concat) and term.order:
        moved = [_moved(piece, term.places, start) for piece in pieces(parameter, axis, Concat(term.parts))]
        whole = Piece(parameter, axis, start, start + term.size, term)
        return [whole] if None in moved else [piece for piece in moved if piece is not None]
    if isinstance(term, Concat):
        split = []
        for part in term.parts:
            split += pieces(parameter, axis, part, start)
            start += part.size
        return split
    if isinstance(term, Product):
        split_factors = [number for number, factor in enumerate(term.factors) if _split(factor)]
        if len(split_factors) == 1:
            return _runs(parameter, axis, term, split_factors[0], start)
    return [Piece(parameter, axis, start, start + term.size, term)]


def _moved(piece: Piece, places: Sequence[int], start: int) -> Piece | None:
    """A piece whose entries stand at other places, counted from `start`; None where these are no runs of one length."""
    return placed(piece, [start + places[entry] for entry in piece.entries()])


def placed(like: Piece, at: list[int]) -> Piece | None:
    """The piece that has these positions in this order, if they are runs of one length at one distance."""
    (first, stop), *others = spans = runs(at)
    period = others[0][0] - first if others else 0
    piece = replace(like, start=first, stop=stop, outer=len(spans), period=period)
    return piece if list(piece.entries()) == at else None


def _runs(parameter: str, axis: int, term: Product, at: int, start: int) -> list[Piece]:
    """The parts of a product over a concatenation (heads over query, key and value)."""
    before, inner, after = term.factors[:at], term.factors[at], term.factors[at + 1 :]
    whole = Piece(parameter, axis, start, start + term.size, term)
    if not isinstance(inner, Concat) or any(map(_split, inner.parts)):
        return [whole]
    outer, width, period = _size(before), _size(after), _size((inner, *after))
    found: list[Piece | None] = []
    offset = 0
    for part in inner.parts:
        like = replace(whole, term=Product((*before, part, *after)))
        if inner.order:
            entries = [
                row * width + place for row in inner.places[offset : offset + part.size] for place in range(width)
            ]
            found.append(placed(like, [start + turn * period + entry for turn in range(outer) for entry in entries]))
        else:
            first, stop = start + offset * width, start + (offset + part.size) * width
            found.append(replace(like, start=first, stop=stop, outer=outer, period=period if outer > 1 else 0))
        offset += part.size
    return [whole] if None in found else [piece for piece in found if piece is not None]


def _size(factors: tuple[Term, ...]) -> int:
    return Product(factors).size


def _split(term: Term) -> bool:
    return isinstance(term, Concat) or (isinstance(term, Product) and any(map(_split, term.factors)))
