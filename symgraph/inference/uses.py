"""Constants where they stand in a value, and what a call that reads it does with them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from symgraph.inference.applied import Applied
from symgraph.inference.entry_numbers import Numbers, Window
from symgraph.inference.matrix_parts import Axes, Part
from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.families import Hop
from symgraph.symmetry.terms import Term

# The number of a source, and the matrices that its constant has passed since.
Name = tuple[int, tuple[Hop, ...]]


@dataclass(frozen=True, slots=True)
class Spot:
    """`factor` times a constant where it stands in a value.

    `window` are the rows of the table that it comes from, where its numbers do not tell them apart. `even` says that
    all entries are equal, and count as one.
    """

    name: Name
    term: Term
    numbers: Numbers
    window: Window | None = None
    factor: float = 1.0
    even: bool = False

    @property
    def entries(self) -> int:
        """How many entries the constant has."""
        return 1 if self.even else self.term.size

    @property
    def span(self) -> Window | None:
        """All rows that it comes from."""
        return self.window if self.numbers.rows is None else self.numbers.span()

    def at(self, numbers: Numbers) -> Spot:
        """The same constant at other positions."""
        return Spot(self.name, self.term, numbers, self.window, self.factor, self.even)


@dataclass(frozen=True, slots=True)
class Seen:
    """A use that cannot be made up for."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A use that passes a constant on into another value."""

    value: str
    spot: Spot


@dataclass(frozen=True, slots=True)
class Chosen:
    """A use of which the result takes some entries, and others from a second operand, where it must be the same.

    `first` says that it is the first of the two. Its constant goes on, unless the call sees their difference alone.
    """

    value: str
    spot: Spot
    first: bool
    passes: bool = True


@dataclass(frozen=True, slots=True)
class Uneven:
    """A use that would not see a constant at all positions along a dimension of an operand, of which this one has some.

    Together with others it may be the same at all of them.
    """

    applied: Applied
    operand: str
    dim: int
    spot: Spot


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where what a matrix writes along these `axes` stands: along `dim` of a call's result, these `places` in order.

    Shapes: places: (size of the result along `dim`,).
    """

    axes: Axes
    dim: int
    places: Tensor


@dataclass(frozen=True, slots=True)
class Read:
    """A matrix, or a part of one, that reads a constant by these pieces of an axis, and writes along the other one."""

    applied: Applied
    part: Part
    readers: tuple[Piece, ...]
    outlet: Outlet


Use = Seen | Passed | Chosen | Uneven | Read
