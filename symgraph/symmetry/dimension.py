"""How many continuous directions of parameter space leave the function as it is, as numbers and over named sizes.

Every direction is counted once. Families of constants are a basis of one null space, so that they do not overlap among
each other; two overlaps are left:

- a constant that only moves between terms of a centred stream is there already along the ones vector, as a mean;
- what is constant along two axes of one parameter (a map from one centred stream into another) belongs to both means.

Permutations and signs are discrete and count zero. The group acts on parameters and on the buffers that checkpoints
store (batch statistics are scaled with their channels), so directions are counted over both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from symgraph.errors import UsageError
from symgraph.symmetry.axis_parts import Piece, Place
from symgraph.symmetry.families import Constant, Lean, Port, beside, nested
from symgraph.symmetry.fold import WIDTH, Folded, fold, wrapped
from symgraph.symmetry.idle_elements import IdleElements, Measure
from symgraph.symmetry.lengths import Radial
from symgraph.symmetry.overlooked import Overlooked
from symgraph.symmetry.shears import Shear
from symgraph.symmetry.sizes import Sizes
from symgraph.symmetry.structure import Space, Structure
from symgraph.symmetry.terms import Leaf, Product, Term
from symgraph.symmetry.thin import Thin
from symgraph.symmetry.updates import Update

if TYPE_CHECKING:
    from sympy import Expr


class Family(StrEnum):
    """What a part of the dimension belongs to."""

    SPACE = "space"
    GAIN = "absorbed gain"
    MOVE = "moved constant"
    NULL = "unseen constant"
    TRANSLATION = "translation"
    WRITTEN = "written mean"
    READ = "read mean"
    LEAN = "read mean, leaning"
    TILT = "tilted bias"
    THIN = "thin stream"
    OVERLOOKED = "overlooked part"
    SHEAR = "sheared stream"
    SPECTRAL = "gain of one spectrum"
    UPDATE = "update of a matrix"
    STATISTICS = "stored statistics"
    RADIAL = "length"
    NUMBER = "learned number"
    TRADED = "traded factor"


@dataclass(frozen=True, slots=True)
class Part:
    """The directions of one space, or of one member of a family without a space.

    `name` is the space's, or the parameters'; `expression` is the number over the symbols of `Dimension.sizes`.
    `tensors` are the parameters and buffers that a member of a family takes, or that it depends on.
    """

    family: Family
    name: str
    number: int
    expression: Expr
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dimension:
    """The dimension of the whole inferred group: its parts, their sum, and the sizes that the symbols stand for.

    Where it is not `exact` there are no more directions than that: some of several spaces in a row do the same.
    """

    parts: tuple[Part, ...]
    number: int
    expression: Expr
    sizes: tuple[tuple[str, int], ...]
    exact: bool = True

    def of(self, name: str) -> Part:
        """The part of a space, or of a family's member by its name.

        Raises:
            UsageError: there is none of that name.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise UsageError(f"no part of the dimension is called {name!r}", remedy="print the dimension to see its parts")

    def family(self, family: Family) -> int:
        """The directions of one family together."""
        return sum(part.number for part in self.parts if part.family is family)

    def __str__(self) -> str:
        return _text(self)


def dimension(symmetry: Structure) -> Dimension:
    """Counts the continuous directions of every inferred group and family, each once.

    Source: design section 9 (the kernel of the Jacobian, for generic parameters).
    """
    from sympy import Add, Integer

    sizes, idle = Sizes(symmetry), IdleElements(symmetry)
    counts, symbolic = (_counts(symmetry, idle, each) for each in (sizes.numbers, sizes.symbols))
    parts = tuple(
        Part(own.family, own.name, int(own.number), Integer(0) + over.number, _tensors(symmetry, own.member))
        for own, over in zip(counts, symbolic, strict=True)
    )
    total = Add(*(part.expression for part in parts))
    used = {str(symbol) for symbol in total.free_symbols}
    legend = tuple(size for size in sizes.legend if size[0] in used)
    return Dimension(parts, sum(part.number for part in parts), total, legend, idle.exact)


def _tensors(symmetry: Structure, member: object) -> tuple[str, ...]:
    named = () if isinstance(member, Space) else nested(member, str)
    read = (name for name in named if name in symmetry.shapes)
    return tuple(dict.fromkeys(stored for name in read for stored in symmetry.reading.stored(name)))


# -- counting ------------------------------------------------------------------------------------------------------
# Each function counts with integers or with symbols, whichever `sizes` holds for every space id.


class Count(NamedTuple):
    """A number of directions: what they belong to, its name, and the space or the member of the family."""

    family: Family
    name: str
    number: Any
    member: object


def _counts(symmetry: Structure, idle: IdleElements, sizes: Measure) -> Iterator[Count]:
    yield from (others := list(_of_others(symmetry, idle, sizes)))
    for update in symmetry.updates:
        yield Count(Family.UPDATE, update_name(update), _of_update(symmetry, update, sizes, others), update)


def _of_others(symmetry: Structure, idle: IdleElements, sizes: Measure) -> Iterator[Count]:
    for space in symmetry.spaces:
        if not space.rigid:
            yield Count(Family.SPACE, space.name, _of_space(symmetry, idle, space, sizes), space)
    for name in symmetry.gain_sites:
        yield Count(Family.GAIN, name, _of_gain(symmetry, name, sizes), name)
    written = {
        piece.place: _others(symmetry, piece, centred.frame, sizes)
        for centred in symmetry.centred
        if centred.written
        for piece in centred.pieces
    }
    for constant in symmetry.constants:
        number = _of_constant(symmetry, constant, sizes, written)
        yield Count(family_of(constant), constant_name(symmetry, constant), number, constant)
    yield from _means(symmetry, sizes)
    yield from _uneven(symmetry, sizes)


def _of_gain(symmetry: Structure, name: str, sizes: Measure) -> Any:
    """The entries of a gain, by the spaces that it multiplies where all of them are known."""
    sites = symmetry.gain_sites[name]
    spaces_from = {site.start: [symmetry.frame(frame).space for frame in site.frames] for site in sites}
    if any(space < 0 for spaces in spaces_from.values() for space in spaces):
        return prod(symmetry.shapes[name])
    return sum(prod((sizes[space] for space in spaces), start=1) for spaces in spaces_from.values())


def _of_space(symmetry: Structure, idle: IdleElements, space: Space, sizes: Measure) -> Any:
    copies = prod((sizes[outer] for outer in space.fibre), start=1)
    every = space.maps.dimension(sizes[space.id], effective_scales(symmetry, space))
    return copies * (every - (idle.count(space, sizes) if space.is_matrix else 0))


def effective_scales(symmetry: Structure, space: Space) -> int:
    """Free scales of each unit that some parameter or buffer feels; others live on values alone."""
    if not space.scales:
        return 0
    rows = [
        frame.scale
        for frame in symmetry.frames
        if frame.space == space.id and symmetry.parameters_of_frames([frame.id])
    ]
    return _rank(rows)


def _rank(rows: list[tuple[int, ...]]) -> int:
    """Rank of an integer matrix, exactly."""
    left = [[Fraction(entry) for entry in row] for row in rows]
    rank = 0
    while left:
        pivot = left.pop()
        at = next((column for column, entry in enumerate(pivot) if entry), None)
        if at is None:
            continue
        rank += 1
        left = [[entry - row[at] / pivot[at] * lead for entry, lead in zip(row, pivot, strict=True)] for row in left]
    return rank


def _length(symmetry: Structure, term: Term, sizes: Measure) -> Any:
    """Length of an axis; its leaves may not know their spaces yet, but their frames do."""
    if isinstance(term, Leaf):
        known = term.space >= 0 or term.frame < 0
        space = term.space if known else symmetry.frame(term.frame).space
        return sizes[space] if space >= 0 else term.size
    if isinstance(term, Product):
        return prod((_length(symmetry, factor, sizes) for factor in term.factors), start=1)
    return sum(_length(symmetry, part, sizes) for part in term.parts)


def family_of(constant: Constant) -> Family:
    """Which word is said of a constant."""
    if constant.tied is not None or constant.source.plane is not None:
        return Family.LEAN
    if any(share.port.plane is not None for share in constant.shares):
        return Family.TILT
    if any(share.path for share in constant.shares):
        return Family.MOVE
    return Family.TRANSLATION if constant.shares else Family.NULL


def _of_constant(symmetry: Structure, constant: Constant, sizes: Measure, written: Mapping[Place, Any]) -> Any:
    """Its entries, less the ones vectors where every place of it is written into a stream that sees no mean."""
    if not constant.whole:
        through = constant.through if constant.shape else None
        terms = (constant.source.piece.term, through.rows.term) if through is not None else ()
        read, made = (_length(symmetry, term, sizes) for term in terms) if terms else (0, 0)
        return read - made + int(not constant.lost)
    ports = (constant.source, *(share.port for share in constant.shares))
    inside = not any(share.path for share in constant.shares) and all(port.piece.place in written for port in ports)
    unseen = written[constant.source.piece.place] if inside else 0
    return _length(symmetry, constant.source.piece.term, sizes) - unseen


def _means(symmetry: Structure, sizes: Measure) -> Iterator[Count]:
    """For each piece the product of its other axes, less what is a mean along those as well."""
    taken: dict[str, list[Any]] = {}
    for centred in symmetry.centred:
        family = Family.WRITTEN if centred.written else Family.READ
        for piece in centred.pieces:
            before = taken.setdefault(piece.parameter, [0] * len(symmetry.read_terms[piece.parameter]))
            others = _others(symmetry, piece, centred.frame, sizes)
            number = others * _beside(symmetry, piece, taken, sizes)
            yield Count(family, piece_name(symmetry, piece), number, piece)
            before[piece.axis] += others
    for lean in symmetry.leans:
        reader = lean.plane.reader
        rows = lean.rows
        number = _beside(symmetry, reader, taken, sizes) if rows is None else _length(symmetry, rows.term, sizes)
        yield Count(Family.LEAN, lean_name(symmetry, lean), number, lean)

    for thin in symmetry.thin:
        number = (_beside(symmetry, thin.reader, taken, sizes) - thin.moved) * _idle(symmetry, thin, sizes)
        yield Count(Family.THIN, piece_name(symmetry, thin.reader), number, thin)

    for overlooked in symmetry.overlooked:
        writer = overlooked.writer
        seen = sum(_beside(symmetry, reader, {}, sizes) for reader in overlooked.readers)
        unseen = _length(symmetry, writer.term, sizes) - seen
        number = (_beside(symmetry, writer, taken, sizes) - overlooked.moved) * unseen
        yield Count(Family.OVERLOOKED, piece_name(symmetry, writer), number, overlooked)


def _idle(symmetry: Structure, thin: Thin, sizes: Measure) -> Any:
    """Directions along which a thin stream does not vary."""
    terms, axis = symmetry.read_terms[thin.writer.parameter], thin.writer.axis
    wide, narrow = terms[axis], terms[1 - axis]
    return _length(symmetry, wide, sizes) - _length(symmetry, narrow, sizes) + int(thin.plane is not None)


def _others(symmetry: Structure, piece: Piece, frame: int, sizes: Measure) -> Any:
    """Positions of the piece beside a frame: those of the heads, for the inside of each head."""
    return prod((_length(symmetry, leaf, sizes) for leaf in chain(*beside(piece, frame))), start=1)


def _beside(symmetry: Structure, piece: Piece, taken: Mapping[str, list[Any]], sizes: Measure) -> Any:
    """The numbers of a parameter at each entry of a piece, less those that are `taken` along its other axes."""
    axes = symmetry.read_terms[piece.parameter]
    before = taken.get(piece.parameter, [0] * len(axes))
    others = (_length(symmetry, term, sizes) - before[dim] for dim, term in enumerate(axes) if dim not in piece.axes)
    return prod(others, start=1)


def _uneven(symmetry: Structure, sizes: Measure) -> Iterator[Count]:
    for shear in symmetry.shears:
        space = symmetry.frame(shear.frame).space
        size = sizes[space] if space >= 0 else shear.size
        yield Count(Family.SHEAR, shear_name(symmetry, shear), 1 if shear.single else size - shear.idle, shear)
    for gain in symmetry.spectral:
        yield Count(Family.SPECTRAL, gain.gain, 1, gain)
    for radial in symmetry.radial:
        yield Count(factor_family(radial), radial.name, radial.parts, radial)
    for statistics in symmetry.statistics:
        length = _length(symmetry, symmetry.read_terms[statistics.gain][0], sizes)
        yield Count(Family.STATISTICS, " + ".join(statistics.tensors), len(statistics.tensors) * length, statistics)


def factor_family(radial: Radial) -> Family:
    """The family of a factor: what makes up for it."""
    return Family.NUMBER if radial.by_number else Family.TRADED if radial.is_traded else Family.RADIAL


def _of_update(symmetry: Structure, update: Update, sizes: Measure, others: list[Count]) -> Any:
    """All numbers of what may be anything, less the directions that others have of these."""
    lengths = ([_length(symmetry, term, sizes) for term in symmetry.read_terms[name]] for name in update.free)
    inside = sum(other.number for other in others if _is_within(symmetry, other.member, update))
    return sum(prod(axes, start=1) for axes in lengths) - inside


def _is_within(symmetry: Structure, member: object, update: Update) -> bool:
    """Whether the matrices of an update make up for what a space or a member of a family changes."""
    free = {*update.free}
    if isinstance(member, Space):
        frames = [f.id for f in symmetry.frames if f.space == member.id and (member.is_matrix or any(f.scale))]
        return free.issuperset(symmetry.parameters_of_frames(frames))
    if isinstance(member, Radial):
        return free.issuperset(member.tensors)
    if isinstance(member, Constant):
        changed = {member.source.piece.parameter, *(share.port.piece.parameter for share in member.shares)}
        return member.source.piece.parameter in free or (changed <= {*update.named} and not free.isdisjoint(changed))
    changed_piece = _changed(member)
    return (changed_piece.parameter if isinstance(changed_piece, Piece) else changed_piece) in free


def _changed(member: object) -> object:
    """The piece of the one matrix that a member of a family around norms and streams changes."""
    if isinstance(member, Overlooked):
        return member.writer
    return member.plane.reader if isinstance(member, Lean) else member.reader if isinstance(member, Thin) else member


def piece_name(symmetry: Structure, piece: Piece) -> str:
    """A parameter, with the range of entries where the piece is only a part of it."""
    if piece.size == piece.length(symmetry.shapes[piece.parameter]):
        return piece.parameter
    every = f" every {piece.period}" if piece.outer > 1 else ""
    return f"{piece.parameter}[{piece.start}:{piece.stop}{every}]"


def lean_name(symmetry: Structure, lean: Lean) -> str:
    """The reader that leans, with the range of its rows where only some do."""
    return piece_name(symmetry, lean.plane.reader if lean.rows is None else lean.rows)


def update_name(update: Update) -> str:
    """The parameters that may be anything."""
    return " + ".join(update.free)


def shear_name(symmetry: Structure, shear: Shear) -> str:
    """The first parameter along a sheared stream."""
    return symmetry.parameters_of_frames([shear.frame])[0]


def constant_name(symmetry: Structure, constant: Constant) -> str:
    """Where a constant is added, after the places that give it up as it is where it goes nowhere else."""
    name = port_name(symmetry, constant.source)
    if family_of(constant) is not Family.TRANSLATION:
        return name
    return f"{' + '.join(port_name(symmetry, share.port) for share in constant.shares)} <-> {name}"


def port_name(symmetry: Structure, port: Port) -> str:
    """A parameter, with the entries and the rows where it is only a part of it."""
    if not port.window:
        return piece_name(symmetry, port.piece)
    axis, start, stop = port.window
    return f"{piece_name(symmetry, port.piece)}[{':, ' * axis}{start}:{stop}]"


# -- text ----------------------------------------------------------------------------------------------------------


def _text(dimension: Dimension) -> str:
    """Every part of a dimension, repeated layers folded, then the sum as a formula and the sizes in it."""
    rows = [("dimension", "", "of", "formula")]
    for part, folded in _parts(dimension):
        rows.append(
            (f"{part.number:,}", f"x{folded.count}" if folded.count > 1 else "", folded.pattern, str(part.expression))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    margin = widths[0] + widths[1] + 4
    names = min(widths[2], WIDTH // 2)
    lines = []
    for number, times, name, formula in rows:
        start = f"{number.rjust(widths[0])}  {times.ljust(widths[1])}  "
        if len(name) <= names and margin + names + 2 + len(formula) <= WIDTH:
            lines.append(f"{start}{name.ljust(names)}  {formula}")
        else:
            below = [*wrapped(name, " " * margin), *wrapped(formula, " " * (margin + 4))]
            lines += [start + below[0].lstrip(), *below[1:]]
    most = "" if dimension.exact else "at most "
    lines += ["", *wrapped(f"total {most}{dimension.number:,} = {dimension.expression}", "")]
    sizes = ", ".join(f"{word} = {size}" for word, size in dimension.sizes)
    return "\n".join([*lines, *wrapped(f"with {sizes}", "")] if sizes else lines)


def _parts(dimension: Dimension) -> Iterator[tuple[Part, Folded]]:
    groups: dict[tuple[Family, int, str], list[Part]] = {}
    for part in dimension.parts:
        if part.number:
            groups.setdefault((part.family, part.number, str(part.expression)), []).append(part)
    for parts in groups.values():
        for folded in fold([part.name for part in parts]):
            yield parts[0], folded
