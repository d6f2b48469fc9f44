"""The families of symmetries that have no space of their own (design section 7), as data.

- a *move*: a bias whose constant reaches only linear readers can go into their biases (norm bias into the next bias,
  value bias into the output bias);
- a *null*: a bias that nothing sees (the key bias, since softmax ignores a constant);
- a *translation*: a constant that moves between summed terms (token and position embeddings);
- a *centred stream*: every reader subtracts the mean, so the mean of whatever is written is invisible, and so are the
  row means of whatever reads the centred values;
- a *lean*: the same where the norm's gain or bias stays in place, so that the invisible direction depends on them;
- a *tilt*: what a norm adds can be turned out of the plane of its centred values, if all its readers turn back;
- *statistics*: stored means and variances that gain and bias can make up for;
- *radial*: maps whose result is divided by its own length, so that a common factor is invisible;
- *spectral* gains: those that a centred norm may have with one and the same spectrum, where it writes into a centred
  stream, and the streams before and after it turn with them;

Leans on a gain, tilts, spectral gains and statistics depend on the parameters in a way that no affine map with fixed
coefficients expresses. They are found, verified and counted; the canonical form leaves them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.symmetry.terms import Concat, Leaf, Product, Term


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one axis of a parameter: `outer` runs of `stop - start` entries, one every `period` entries."""

    parameter: str
    axis: int
    start: int
    stop: int
    term: Term
    outer: int = 1
    period: int = 0

    @property
    def size(self) -> int:
        """Number of entries along the axis."""
        return self.outer * (self.stop - self.start)

    @property
    def place(self) -> tuple[str, int, int, int]:
        """What tells this piece from every other one of the model."""
        return self.parameter, self.axis, self.start, self.stop

    def entries(self) -> range | list[int]:
        """Positions along the axis."""
        if self.outer == 1:
            return range(self.start, self.stop)
        return [k * self.period + i for k in range(self.outer) for i in range(self.start, self.stop)]

    def of(self, tensor: Tensor) -> Tensor:
        """The part of the parameter; a view where it can be one."""
        if self.outer == 1:
            return tensor.narrow(self.axis, self.start, self.size)
        return tensor.index_select(self.axis, torch.tensor(self.entries(), device=tensor.device))

    def add(self, tensor: Tensor, part: Tensor) -> Tensor:
        """The parameter with something added to this part; shapes: `part` broadcasts against `of(tensor)`."""
        at = torch.tensor(self.entries(), device=tensor.device)
        shape = [self.size if i == self.axis else n for i, n in enumerate(tensor.shape)]
        return tensor.index_add(self.axis, at, part.to(tensor).expand(shape))


def pieces(parameter: str, axis: int, term: Term, start: int = 0) -> list[Piece]:
    """The parts of an axis: one for each part of a concatenation, also of one inside a product."""
    if isinstance(term, Concat):
        found = []
        for part in term.parts:
            found += pieces(parameter, axis, part, start)
            start += part.size
        return found
    inside = [i for i, f in enumerate(term.factors) if _split(f)] if isinstance(term, Product) else []
    if len(inside) != 1 or not isinstance(term, Product):
        return [Piece(parameter, axis, start, start + term.size, term)]
    return _runs(parameter, axis, term, inside[0], start)


def _runs(parameter: str, axis: int, term: Product, at: int, start: int) -> list[Piece]:
    """The parts of a product over a concatenation (heads over query, key and value)."""
    before, inner, after = term.factors[:at], term.factors[at], term.factors[at + 1 :]
    if not isinstance(inner, Concat) or any(map(_split, inner.parts)):
        return [Piece(parameter, axis, start, start + term.size, term)]
    outer, width = _size(before), _size(after)
    found, offset = [], start
    for part in inner.parts:
        stop = offset + part.size * width
        kept = Product((*before, part, *after))
        found.append(Piece(parameter, axis, offset, stop, kept, outer, inner.size * width if outer > 1 else 0))
        offset = stop
    return found


def _size(factors: tuple[Term, ...]) -> int:
    return Product(factors).size


def _split(term: Term) -> bool:
    return isinstance(term, Concat) or (isinstance(term, Product) and any(map(_split, term.factors)))


def is_one_block(piece: Piece) -> bool:
    """Whether the piece is a flattened block, so that constants along one of its leaves are constants of it."""
    return not _split(piece.term)


@dataclass(frozen=True, slots=True)
class Sink:
    """Where a moved constant arrives: through `reader` into `bias`, or as it is where there is no reader."""

    reader: Piece | None
    bias: str


@dataclass(frozen=True, slots=True)
class Move:
    """The constant in `source` may go to all `sinks` together; without sinks nothing sees it."""

    source: Piece
    sinks: tuple[Sink, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """One axis of a parameter, within a window (axis, start, stop) of another one where there is one.

    What is added here arrives `factor` times (embeddings that are scaled before positions are added).
    """

    parameter: str
    axis: int
    window: tuple[int, ...] = ()
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Translation:
    """What c adds at every place of one set, and -c at every place of another, cancels; each is over its factor."""

    sets: tuple[tuple[Place, ...], ...]


@dataclass(frozen=True, slots=True)
class Centred:
    """A frame along which a multiple of the ones vector in these pieces is invisible."""

    frame: int
    pieces: tuple[Piece, ...]
    written: bool


@dataclass(frozen=True, slots=True)
class Lean:
    """A reader of a norm whose gain or bias stays in place.

    The values lie where (1 / gain) . (x - bias) = 0, so that u (1 / gain)^T may be added to the reader if its own bias
    `sink` takes -u (1 / gain) . bias. `gain` or `bias` is empty where it is absorbed, moved or absent; `offset` is what
    the model adds to the gain.

    Where the reader is also a table whose rows are summands elsewhere (tied embeddings), u is one number for all rows,
    and the places `givers` of other summands give up there what the rows get. Where the reader has no bias, `rows` is
    the part of what it writes of which nothing sees a constant (keys), or of which the readers' biases `sinks` can take
    it (values).
    """

    reader: Piece
    gain: str
    bias: str
    sink: str
    offset: float = 0.0
    givers: tuple[Place, ...] = ()
    rows: Piece | None = None
    sinks: tuple[Sink, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether the canonical form takes it out: its step has fixed coefficients and meets no other family."""
        return not (self.gain or self.givers or self.sinks)

    @property
    def place(self) -> tuple[str, int, int]:
        """What tells this lean from every other one of the model."""
        return self.reader.parameter, self.reader.start, self.rows.start if self.rows is not None else 0


@dataclass(frozen=True, slots=True)
class Tilt:
    """A norm's bias and all that read its output: x -> x + v (1 . x) / n on one, undone by the others."""

    bias: str
    readers: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Spectral:
    """The gain of a centred norm between two frames that admit rotations of the plane of mean zero but for this gain.

    `before` and `after` are the frames that the norm reads and writes, `offset` what the model adds to the gain.
    """

    gain: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """Operands of one call that its gain and bias can make up for, and the tensors of the model that they are.

    `axis` is the position of the channels in the call's result.
    """

    node: str
    axis: int
    operands: tuple[str, ...]
    tensors: tuple[str, ...]
    gain: str
    bias: str


@dataclass(frozen=True, slots=True)
class Radial:
    """Tensors whose common positive factor nothing sees."""

    tensors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Families:
    """All families found in one graph."""

    moves: tuple[Move, ...] = ()
    translations: tuple[Translation, ...] = ()
    centred: tuple[Centred, ...] = ()
    leans: tuple[Lean, ...] = ()
    tilts: tuple[Tilt, ...] = ()
    spectral: tuple[Spectral, ...] = ()
    statistics: tuple[Statistics, ...] = ()
    radial: tuple[Radial, ...] = ()


def leaf_keys(term: Term) -> list[tuple[int, bool]]:
    """Frame and orientation of every leaf of a flattened block."""
    if isinstance(term, Leaf):
        return [(term.frame, term.dual)]
    return [k for f in (term.factors if isinstance(term, Product) else term.parts) for k in leaf_keys(f)]
