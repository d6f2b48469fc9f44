"""The families of symmetries that have no space of their own (design section 7), as data.

- a *constant*: what is added in one place and made up for in others, or seen by nothing: the bias of a norm into the
  biases of its readers, the key bias into nothing, token embeddings against position embeddings;
- a *centred stream*: every reader subtracts the mean, so the mean of whatever is written is invisible, and so are the
  row means of whatever reads the centred values;
- a *lean*: the latter where the norm's gain or bias stays in place, so that the invisible direction depends on them;
- a *shear* (`symmetry.shears`): what stands along a stream that norms and linear maps alone read and write, where a
  multiple of a direction that norms do not see is added, as large as the value is along one that they never write;
- *thin* streams (`symmetry.thin`): readers of what one map alone writes from fewer dimensions;
- *overlooked* parts (`symmetry.overlooked`): what is written where readers see fewer dimensions than there are;
- *updates* (`symmetry.updates`): what is added beside a matrix that could make it by itself;
- *statistics*: stored means and variances that gain and bias can make up for;
- *radial* (`symmetry.lengths`): maps whose result is divided by its own length, so that a common factor is invisible,
  and maps beside a learned number that can make up for it;
- *spectral* gains: those that a centred norm may have with one and the same spectrum, where it writes into a centred
  stream, and the streams before and after it turn with them.

Constants on their way through two matrices or against a norm's output, leans on a gain, shears, thin streams, updates,
spectral gains and statistics depend on the parameters in a way that no affine map with fixed coefficients expresses.
They are found, verified and counted; the canonical form leaves them as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from math import prod
from typing import TypeVar

from torch import Tensor

from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.terms import Leaf, Term, leaves, multiplied

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class Plane:
    """A reader of a norm's centred output: what it reads lies where (1 / gain) . (x - bias) = 0.

    What reads weights that sum to one lies where 1 . x = `level`.
    `gain` or `bias` is empty where it is absorbed, moved on or absent; `factor` is what the model multiplies the norm's
    output by before it is read: there (1 / gain) . (x - factor bias) = 0. States are those with every offset added.
    """

    reader: Piece
    gain: str
    bias: str
    factor: float = 1.0
    level: float = 0.0

    @property
    def raised(self) -> bool:
        """Whether it does not go through zero."""
        return bool(self.bias) or self.level != 0.0

    @property
    def named(self) -> tuple[str, ...]:
        """The parameters that make the plane: its gain and its bias, where it has them."""
        return tuple(name for name in (self.gain, self.bias) if name)

    def normal(self, state: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """The direction 1 / gain that no value has a part in but for the bias; shapes (n,), the size of the reader."""
        if not self.gain:
            return like.new_ones(self.reader.size)
        return 1.0 / state[self.gain].to(like)

    def height(self, state: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """How far it is from zero along the normal: what a unit of it in the reader adds to what that writes."""
        if not self.bias:
            return like.new_tensor(self.level)
        return self.factor * (self.normal(state, like) * state[self.bias].to(like)).sum()


@dataclass(frozen=True, slots=True)
class Port:
    """Where a constant can be added: entries of a bias, or of every row of a table, in a `window` (axis, start, stop).

    With a `plane` it is a bias that no parameter is: `piece` is what a matrix writes, and u along the plane's normal in
    that matrix adds u times the height of the plane.
    """

    piece: Piece
    window: tuple[int, ...] = ()
    plane: Plane | None = None

    @property
    def place(self) -> tuple[str, int, int, tuple[int, ...]]:
        """What tells this port from every other one of the model."""
        return self.piece.parameter, self.piece.axis, self.piece.start, self.window

    def mean(self, state: Mapping[str, Tensor]) -> Tensor:
        """The constant that is there now: the mean over everything but the entries; shapes (n,)."""
        part = self._seen(state[self.piece.parameter])
        rows = self.piece.of(part).movedim(self.piece.joint, -1)
        return rows.reshape(-1, rows.shape[-1]).mean(0)

    def added(self, tensor: Tensor, constant: Tensor) -> Tensor:
        """The parameter with a constant added; shapes: constant (n,), the size of the piece."""
        shape = [1] * (tensor.dim() - len(self.piece.more))
        shape[self.piece.joint] = -1
        if not self.window:
            return self.piece.add(tensor, constant.reshape(shape))
        changed = tensor.clone()
        part = self._seen(changed)
        part.copy_(self.piece.add(part, constant.reshape(shape)))
        return changed

    def _seen(self, tensor: Tensor) -> Tensor:
        if not self.window:
            return tensor
        axis, start, stop = self.window
        return tensor.narrow(axis, start, stop - start)


@dataclass(frozen=True, slots=True)
class Hop:
    """A matrix on the way of a constant: the part that reads it, and the part of what it writes that goes on.

    Where both are the same entries they multiply, one by one: a gain, or a learned number. One of which a
    `positive` function is read depends on its parameter in no linear way. A gain for each head multiplies a constant
    that has entries `within` heads as well.
    """

    reader: Piece
    rows: Piece
    positive: bool = False
    within: Term | None = None

    @property
    def made(self) -> Term:
        """What a constant is made of behind it."""
        return self.rows.term if self.within is None else self.within

    @property
    def multiplies(self) -> bool:
        """Whether this is no matrix but entries that multiply what they stand beside."""
        return self.reader.place == self.rows.place

    @property
    def is_number(self) -> bool:
        """Whether one learned number multiplies all entries."""
        return self.multiplies and self.reader.size == 1


@dataclass(frozen=True, slots=True)
class Share:
    """What a constant x of the source makes up for elsewhere: `factor` times x, through all matrices of the path."""

    port: Port
    factor: float
    path: tuple[Hop, ...] = ()


@dataclass(frozen=True, slots=True)
class Constant:
    """One vector of the null space of constants: x at the source and what it takes elsewhere that nothing sees it.

    With `even` all entries of x are equal. With `tied` the source is a table that reads a norm too, so that
    x is a multiple of the plane's normal; `sink` is the bias behind the reader that takes what its height adds there.
    With `through` x is what that matrix makes equal entries of: it has as many coordinates as that reads entries, less
    those that it writes, and one; this one is left out where x is `lost`, so that the matrix makes nothing of it.
    """

    source: Port
    shares: tuple[Share, ...] = ()
    tied: Plane | None = None
    sink: str = ""
    even: bool = False
    through: Hop | None = None
    lost: bool = False

    @property
    def whole(self) -> bool:
        """Whether x may be anything."""
        return not (self.even or self.tied is not None or self.through is not None)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of x in its coordinates: (n,), or () where there is one that does not name an entry."""
        if self.whole:
            return (self.source.piece.size,)
        more = self.source.piece.size - self.through.rows.size if self.through is not None else 0
        return (more + (not self.lost),) if more else ()

    @property
    def settled(self) -> bool:
        """Whether the canonical form takes it out: its step has fixed coefficients."""
        ports = (self.source, *(share.port for share in self.shares))
        through = max((len(share.path) for share in self.shares), default=0)
        linear = not any(hop.positive for share in self.shares for hop in share.path)
        return self.whole and through <= 1 and linear and all(port.plane is None for port in ports)

    @property
    def moves(self) -> bool:
        """Whether it is settled and goes on through matrices that read it."""
        return self.settled and any(share.path for share in self.shares)

    @property
    def place(self) -> tuple[str, int, int, tuple[int, ...]]:
        """What tells it from every other one of the model."""
        return self.source.place


@dataclass(frozen=True, slots=True)
class Centred:
    """A frame along which a multiple of the ones vector in these pieces is invisible.

    A piece may be a product (heads and their inside): then another multiple for each position beside the frame. Where a
    norm centres several frames side by side, the pieces hold all of them, and the frame is the first.
    """

    frame: int
    pieces: tuple[Piece, ...]
    written: bool


def beside(piece: Piece, frame: int) -> tuple[list[Leaf], list[Leaf]]:
    """The factors before a frame and those after it in a piece's term; side by side with it others are one factor."""
    terms = list(multiplied(piece.term))
    at = next(number for number, term in enumerate(terms) if any(leaf.frame == frame for leaf in leaves(term)))
    return [leaf for term in terms[:at] for leaf in leaves(term)], [
        leaf for term in terms[at + 1 :] for leaf in leaves(term)
    ]


def sides(piece: Piece, frame: int) -> tuple[int, int]:
    """How many positions the factors before the frame have, and those after it."""
    before, after = beside(piece, frame)
    return prod(term.size for term in before), prod(term.size for term in after)


def means(piece: Piece, frame: int, tensor: Tensor) -> Tensor:
    """The mean of a parameter's piece along a frame.

    Shapes: that of the parameter without the piece's axis; where the piece is a product, its other factors stand there.
    """
    before, after = sides(piece, frame)
    part = piece.of(tensor)
    first, last = part.shape[: piece.joint], part.shape[piece.joint + 1 :]
    apart = part.reshape((*first, before, -1, after, *last))
    others = (before * after,) if before * after > 1 else ()
    mean: Tensor = apart.mean(piece.joint + 1).reshape((*first, *others, *last))
    return mean


def ones(piece: Piece, frame: int, multiple: Tensor) -> Tensor:
    """Multiples of the ones vector along a frame, shaped as the means, over the entries of the piece."""
    before, after = sides(piece, frame)
    if before * after == 1:
        return multiple.unsqueeze(piece.joint)
    first, last = multiple.shape[: piece.joint], multiple.shape[piece.joint + 1 :]
    every = multiple.reshape((*first, before, 1, after, *last))
    whole = every.expand(*first, before, piece.size // (before * after), after, *last)
    return whole.flatten(piece.joint, piece.joint + 2)


@dataclass(frozen=True, slots=True)
class Lean:
    """A reader of a norm whose gain or bias stays in place: u along the plane's normal is not seen in it.

    The reader's own bias `sink` takes what the height of the plane adds, or nothing sees a constant in `rows`.
    """

    plane: Plane
    sink: str = ""
    rows: Piece | None = None

    @property
    def settled(self) -> bool:
        """Whether the canonical form takes it out: its step has fixed coefficients."""
        return not self.plane.gain

    @property
    def place(self) -> tuple[str, int, int]:
        """What tells this lean from every other one of the model."""
        reader = self.plane.reader
        return reader.parameter, reader.start, self.rows.start if self.rows is not None else 0

    def leaning(self, amounts: Tensor) -> Tensor:
        """The numbers of its rows among one for each row of the reader, which has the reader's other axes."""
        reader = self.plane.reader
        rank = amounts.dim() + len(reader.axes)
        return amounts if self.rows is None else self.rows.within(reader.across(rank)).of(amounts)


@dataclass(frozen=True, slots=True)
class Spectral:
    """The gain of a centred norm between two frames that admit rotations of the plane of mean zero but for this gain.

    `before` and `after` are the frames that the norm reads and writes. Where linear maps read the stream that it writes
    as well, `stream` is its frame, which is sheared too, and `flip` says that the norm writes along the frame's dual.
    """

    gain: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    stream: int = -1
    flip: bool = False


@dataclass(frozen=True, slots=True)
class Statistics:
    """Operands of one call that its gain and bias can make up for, and the tensors of the model that they are.

    `axis` is the position of the channels in the call's result; `ends` are the values of the traced graph that it reads
    as gain and bias, to which the model may have added a number.
    """

    node: str
    axis: int
    operands: tuple[str, ...]
    tensors: tuple[str, ...]
    gain: str
    bias: str
    ends: tuple[str, str]


def nested(value: object, kind: type[Kind]) -> Iterator[Kind]:
    """All values of a kind in a dataclass: texts, among them the parameters that it speaks of, or pieces."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from nested(part, kind)
    elif is_dataclass(value):
        for entry in fields(value):
            yield from nested(getattr(value, entry.name), kind)
