"""Constants where they stand in a value, and what a call that reads it does with them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from symgraph.inference.applied import Applied
from symgraph.inference.entry_numbers import varies
from symgraph.inference.matrix_parts import Axes, Part
from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.families import Hop
from symgraph.symmetry.terms import Term

Window = tuple[int, int]
# The number of a source, and the matrices that its constant has passed since.
Name = tuple[int, tuple[Hop, ...]]


@dataclass(frozen=True, slots=True)
class Spot:
    """`factor` times a constant where it stands in a value.

    `at` is the entry of the constant at every position, counted from one, and zero where there is none; `rows` in the
    same way the row of the table that it comes from, where that is told apart. `window` are the rows otherwise. `even`
    says that all entries are equal, and count as one.

    Shapes: at, rows: that of the value.
    """

    name: Name
    term: Term
    at: Tensor
    rows: Tensor | None = None
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
        return self.window if self.rows is None else span_of(self.rows, self.at)

    def moved(self, at: Tensor, rows: Tensor | None) -> Spot:
        """The same constant at other positions."""
        return replace(self, at=at, rows=rows)

    def narrowed(self, dim: int, start: int, stop: int) -> Spot:
        """What of it stands at some positions along a dimension."""
        rows = None if self.rows is None else self.rows.narrow(dim, start, stop - start)
        return self.moved(self.at.narrow(dim, start, stop - start), rows)

    def spread(self, shape: tuple[int, ...]) -> Spot:
        """The same along dimensions that it had one position of."""
        return self.moved(self.at.expand(shape), None if self.rows is None else self.rows.expand(shape))


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


def span_of(rows: Tensor, at: Tensor) -> Window:
    """The first and the last row (one past it) of those at positions where an entry stands.

    A table has as many positions as entries, but rows and entries vary along dimensions of their own as a rule, and
    then no tensor of that size is made.

    Shapes: rows, at: (...), where strides of zero say that nothing varies.
    """
    if any(varies(rows, i) and varies(at, i) for i in range(rows.dim())):
        kept = rows[at > 0]
    else:
        kept = rows[tuple(slice(None) if varies(rows, i) else slice(1) for i in range(rows.dim()))]
    return int(kept.min()) - 1, int(kept.max())
