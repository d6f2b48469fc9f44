"""How many directions of a group change no parameter: where what is written into a space and what reads it are narrow.

A value of n entries that is written from a numbers, of which r are read, has (n - a)(n - r) directions of GL(n) that
take all that is written to zero and are read as zero themselves. What a narrow space hands on to another one counts
there with what it varies along: so all these numbers are a least fixed point, found from zero on.

Directions that change nothing but what families of streams may change anyway are theirs. Each parameter asks that r X w
vanishes for some rows r and columns w: all rows where what writes may not change, those that see it where it may change
along the others. What is asked is a union of rectangles, and the directions beside it are idle.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from typing import Any, NamedTuple

from symgraph.groups.lattice import SymmetryClass
from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.structure import Space, Structure
from symgraph.symmetry.terms import Leaf, blocks, leaves

Measure = Mapping[int, Any]
# Rows that see, and columns that are seen: names of parameters, None for all there are.
_Names = frozenset[str] | None
# Frames of leaves, with their orientations.
_Keys = frozenset[tuple[int, bool]]
_FLAT = (SymmetryClass.ORTHOGONAL, SymmetryClass.ORTHOGONAL_ONES)


class _Rectangle(NamedTuple):
    """Where a direction has to vanish: in these rows, along these columns."""

    rows: _Names
    columns: _Names

    def is_within(self, other: _Rectangle) -> bool:
        pairs = zip(self, other, strict=True)
        return all(theirs is None or (own is not None and own <= theirs) for own, theirs in pairs)

    def covers(self, row: str, column: str) -> bool:
        return (self.rows is None or row in self.rows) and (self.columns is None or column in self.columns)


class _Claim(NamedTuple):
    """What a family of streams changes of a parameter beside a space: the piece, what has to see it, what is counted.

    `moved` are the directions of it that are counted less what the space does already.
    """

    piece: Piece
    seen_by: frozenset[str]
    moved: int


_EVERYWHERE = _Rectangle(None, None)


@dataclass(frozen=True, slots=True)
class _Columns:
    """What a block of a parameter writes into a space, or reads of it: `beside` times what `other` varies along.

    Each beside is a leaf with the number of its directions that families of means have already; `moved` are the
    constants among them.
    """

    parameter: str
    beside: tuple[tuple[Leaf, int], ...]
    other: Leaf | None
    moved: int

    def count(self, sizes: Measure, seen: Callable[[int], Any]) -> Any:
        """Their number, where `seen` says how many directions of another space there are."""
        lengths = ((sizes[leaf.space] if leaf.space >= 0 else leaf.size) - taken for leaf, taken in self.beside)
        along = 1 if self.other is None else seen(self.other.space)
        return prod(lengths, start=1) * along - self.moved


class IdleElements:
    """The directions of each space's group that change no parameter, for generic parameters.

    Where they are not `exact` there are more of them.
    """

    def __init__(self, symmetry: Structure) -> None:
        self._symmetry = symmetry
        self._spaces = {space.id: space for space in symmetry.spaces if space.is_matrix}
        self._sizes = {space.id: space.size for space in symmetry.spaces}
        self._sides = {(space, dual): list[_Columns]() for space, dual in product(self._spaces, (False, True))}
        if self._spaces:
            self._note_all()
        self._seen = {dual: self._varying(dual) for dual in (False, True)}
        self._in_a_row = self._overlap()
        if self._in_a_row:
            self._seen = {dual: self._sums(dual, self._sizes) for dual in (False, True)}
        self._asked = {space: self._rectangles(space) for space in self._spaces if self._is_general(space)}
        self.exact = not self._in_a_row and None not in self._asked.values()

    def _note_all(self) -> None:
        means, constants = _means(self._symmetry), _constants(self._symmetry)
        for name, block in _acted_on(self._symmetry):
            keys = _keys(block)
            frames = {frame for frame, there in means.get(name, ()) if there <= keys}
            self._note(name, block, frames, [there for there in constants.get(name, ()) if there <= keys])

    def _note(self, parameter: str, block: tuple[Leaf, ...], means: Collection[int], moved: Collection[_Keys]) -> None:
        for at, leaf in enumerate(block):
            if leaf.space not in self._spaces:
                continue
            space = self._spaces[leaf.space]
            others = [other for other in (*block[:at], *block[at + 1 :]) if other.space not in space.fibre]
            contracting = (other for other in others if self._is_general(other.space) and other.dual != leaf.dual)
            beyond = next(contracting, None)
            beside = tuple((other, int(other.frame in means)) for other in others if other is not beyond)
            constants = sum((leaf.frame, leaf.dual) in there for there in moved)
            self._sides[space.id, leaf.dual].append(_Columns(parameter, beside, beyond, constants))

    def _is_general(self, space: int) -> bool:
        return space in self._spaces and self._spaces[space].group is SymmetryClass.INVERTIBLE

    # -- what is written and what is read --------------------------------------------------------------------------

    def _varying(self, dual: bool) -> dict[int, int]:
        """Along how many directions what is written into each space varies; for duals, how many are read."""
        before, found = None, dict.fromkeys(self._spaces, 0)
        while found != before:
            before, found = found, self._sums(dual, found)
        return found

    def _sums(self, dual: bool, seen: Measure) -> dict[int, int]:
        """What stands on one side of each space, where others vary along so many directions."""
        found = {}
        for space in self._spaces.values():
            several = (columns.count(self._sizes, seen.__getitem__) for columns in self._sides[space.id, dual])
            found[space.id] = min(sum(several), space.size)
        return found

    def _overlap(self) -> bool:
        """Whether a narrow space writes into another of which not all is read: elements of both may do the same."""
        narrow = self._narrow(dual=False)
        sources = (columns.other for space in self._narrow(dual=True) for columns in self._sides[space, False])
        return any(source is not None and source.space in narrow for source in sources)

    def _narrow(self, *, dual: bool) -> set[int]:
        """The spaces of which not all directions are written; for duals, of which not all are read."""
        return {space for space, number in self._seen[dual].items() if number < self._sizes[space]}

    # -- what is asked of a direction ------------------------------------------------------------------------------

    def _rectangles(self, space: int) -> tuple[_Rectangle, ...] | None:
        """Where rows and columns of a direction have to vanish; None where the numbers alone do not say how many."""
        claims = self._claims(space)
        if claims is None:
            return None
        writers, readers = (self._parameters(space, dual) for dual in (False, True))
        asked = [_Rectangle(None, writers - claims.keys()), _Rectangle(readers - claims.keys(), None)]
        asked += [_Rectangle(seen_by, frozenset({name})) for name, seen_by in claims.items() if name in writers]
        asked += [_Rectangle(frozenset({name}), seen_by) for name, seen_by in claims.items() if name in readers]
        whole = [
            _Rectangle(self._or_all(space, True, one.rows), self._or_all(space, False, one.columns)) for one in asked
        ]
        kept = tuple(one for one in whole if not any(one != other and one.is_within(other) for other in whole))
        independent = all(self._or_all(space, dual, _together(kept, dual)) is not None for dual in (False, True))
        return kept if independent or _EVERYWHERE in kept else None

    def _claims(self, space: int) -> dict[str, frozenset[str]] | None:
        """Parameters that families of streams change beside the space, and what has to see them; None where unknown."""
        symmetry, found = self._symmetry, dict[str, frozenset[str]]()
        for claim in _of_families(symmetry):
            spaces = {symmetry.frame(leaf.frame).space for leaf in leaves(claim.piece.term) if leaf.frame >= 0}
            if space not in spaces:
                continue
            # Those that are counted less what the space does already are as if they were not there.
            if claim.moved:
                return {}
            (name,) = symmetry.acting_names(claim.piece.parameter)
            seen_by = frozenset(acting for own in claim.seen_by for acting in symmetry.acting_names(own))
            if not isinstance(claim.piece.term, Leaf) or found.setdefault(name, seen_by) != seen_by:
                return None
        return found

    def _parameters(self, space: int, dual: bool) -> frozenset[str]:
        return frozenset(columns.parameter for columns in self._sides[space, dual])

    def _or_all(self, space: int, dual: bool, names: _Names) -> _Names:
        """None for parameters that write, or read, a space as a whole."""
        if names is None or self._number(space, dual, names, self._sizes) >= self._sizes[space]:
            return None
        return names

    def _number(self, space: int, dual: bool, names: Collection[str], sizes: Measure) -> Any:
        """How many rows, or columns, some parameters have on a space."""
        beyond = partial(self._along, dual=dual, sizes=sizes)
        several = (columns for columns in self._sides[space, dual] if columns.parameter in names)
        return sum(columns.count(sizes, sizes.__getitem__ if self._in_a_row else beyond) for columns in several)

    def _along(self, space: int, dual: bool, sizes: Measure) -> Any:
        """Along how many directions a space varies over any sizes: all of them, none, or the sum of some."""
        known = self._seen[dual][space]
        if known in (0, self._sizes[space]):
            return sizes[space] if known else 0
        return self._number(space, dual, self._parameters(space, dual), sizes)

    # -- counting --------------------------------------------------------------------------------------------------

    def count(self, space: Space, sizes: Measure) -> Any:
        """The directions of a space's group that are idle, at each position of its fibre."""
        size = sizes[space.id]
        asked = self._asked.get(space.id)
        if asked is not None:
            return self._beside(space.id, asked, sizes)
        if self._is_general(space.id):
            return prod(size - self._along(space.id, dual, sizes) for dual in (False, True))
        known = sum(self._columns(space.id, self._sizes))
        flat = space.group in _FLAT and known < space.size
        return space.maps.dimension(size - sum(self._columns(space.id, sizes)), 0) if flat else 0

    def _beside(self, space: int, asked: tuple[_Rectangle, ...], sizes: Measure) -> Any:
        """The area that no rectangle covers: of the rows and columns of each parameter, and of the others."""
        if _EVERYWHERE in asked:
            return 0
        lengths = {}
        for dual in (False, True):
            own = {name: self._number(space, dual, {name}, sizes) for name in _together(asked, dual)}
            lengths[dual] = {**own, "": sizes[space] - sum(own.values())}
        rows, columns = lengths[True], lengths[False]
        cells = product(rows, columns)
        free = (cell for cell in cells if not any(rectangle.covers(*cell) for rectangle in asked))
        return sum(rows[row] * columns[column] for row, column in free)

    def _columns(self, space: int, sizes: Measure) -> Iterator[Any]:
        """The columns of what both writes into a space and reads it, each other space as a whole."""
        for dual in (False, True):
            yield from (columns.count(sizes, sizes.__getitem__) for columns in self._sides[space, dual])


def _together(asked: tuple[_Rectangle, ...], dual: bool) -> frozenset[str]:
    """All parameters whose rows, or columns, are told apart."""
    sides = (rectangle.rows if dual else rectangle.columns for rectangle in asked)
    return frozenset(name for names in sides for name in names or ())


def _of_families(symmetry: Structure) -> Iterator[_Claim]:
    """What families of streams change: what writes an overlooked part, what reads a thin stream."""
    for overlooked in symmetry.overlooked:
        readers = frozenset(reader.parameter for reader in overlooked.readers)
        yield _Claim(overlooked.writer, readers, overlooked.moved)
    for thin in symmetry.thin:
        yield _Claim(thin.reader, frozenset({thin.writer.parameter}), thin.moved)


def _acted_on(symmetry: Structure) -> Iterator[tuple[str, tuple[Leaf, ...]]]:
    """The blocks of all parameters but those of gains, which are one where spaces act."""
    for name in symmetry.acting_parameters - symmetry.gain_sites.keys():
        yield from ((name, block) for block in blocks(symmetry.acting_terms.get(name, ())))


def _constants(symmetry: Structure) -> dict[str, list[_Keys]]:
    """The blocks of parameters in which a constant may be anything already."""
    found: dict[str, list[_Keys]] = defaultdict(list)
    for constant in symmetry.constants:
        for name, keys in _spots(symmetry, constant.source.piece) if constant.whole else ():
            found[name].append(keys)
    return found


def _means(symmetry: Structure) -> dict[str, list[tuple[int, _Keys]]]:
    """Frames along which the mean, or what stands for it, may be anything already, and in which blocks."""
    found: dict[str, list[tuple[int, _Keys]]] = defaultdict(list)
    changed = [(centred.frame, piece) for centred in symmetry.centred for piece in centred.pieces]
    for lean in symmetry.leans:
        term = lean.plane.reader.term
        changed += [(term.frame, lean.rows or lean.plane.reader)] if isinstance(term, Leaf) else []
    for frame, piece in changed:
        for name, keys in _spots(symmetry, piece):
            found[name].append((frame, keys))
    return found


def _spots(symmetry: Structure, piece: Piece) -> Iterator[tuple[str, _Keys]]:
    """What the group acts on of a piece, and the leaves that each block of it has."""
    keys = _keys(leaves(piece.term))
    yield from ((own, keys) for own in symmetry.acting_names(piece.parameter))


def _keys(block: Iterable[Leaf]) -> _Keys:
    return frozenset((leaf.frame, leaf.dual) for leaf in block if leaf.frame >= 0)
