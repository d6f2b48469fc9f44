"""A smaller shape of a model: which spaces shrink, to how many positions, and what that makes of every parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from symgraph.errors import UsageError, shorten
from symgraph.groups.lattice import SymmetryClass, describe
from symgraph.io.options import several
from symgraph.resize.lifting import length_in
from symgraph.resize.stored_shapes import Shapes, stored_shapes
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Product, leaves


@dataclass(frozen=True, slots=True)
class Smaller:
    """The spaces that shrink, their new sizes by id, and the shapes of parameters and buffers before and after.

    `parts` says that their positions are whole parts of the model, such as experts. Tensors of parts that go have no
    shape after. `lengths` are pairs of what axes of parameters and values are long before and after.
    """

    spaces: tuple[Space, ...]
    sizes: dict[int, int]
    before: Shapes
    after: Shapes
    lengths: tuple[tuple[int, int], ...]
    parts: bool = False

    @property
    def streams(self) -> tuple[Space, ...]:
        """The spaces of matrices that nothing is around, as a residual stream."""
        return tuple(space for space in self.spaces if space.is_matrix and not space.fibre)

    @property
    def gone(self) -> frozenset[str]:
        """Tensors of parts that go."""
        return frozenset(self.before.keys() - self.after.keys())

    @property
    def ratios(self) -> tuple[tuple[int, int], ...]:
        """Each pair of an old and a new size once."""
        return tuple(dict.fromkeys((space.size, self.sizes[space.id]) for space in self.spaces))


def smaller(symmetry: SymmetryGraph, ratio: float, patterns: str | Sequence[str] | None) -> Smaller:
    """The shape that is left where a part `ratio` of each space goes.

    Args:
        patterns: of the names of spaces; without them all spaces of units.

    Raises:
        UsageError: nothing would change, nothing would be left of a space, or a space cannot shrink.
    """
    if not (isinstance(ratio, int | float) and 0 < ratio < 1):
        raise UsageError(f"the ratio is {ratio!r}", remedy="give a number between 0 and 1: the part that goes")
    chosen = _chosen(symmetry, patterns)
    sizes = {space.id: space.size - round(ratio * space.size) for space in chosen}
    if gone := [space for space in chosen if sizes[space.id] < 1]:
        least = min(space.size for space in gone)
        cause = f"nothing would be left of {shorten(f'{space.name} ({space.size})' for space in gone)}"
        remedy = f"give a ratio of at most {(least - 1) / least:.3g}, or name other spaces"
        raise UsageError(f"a ratio of {ratio:g} prunes below one unit", cause=cause, remedy=remedy)
    shrunk = tuple(space for space in chosen if sizes[space.id] < space.size)
    if not shrunk:
        cause = f"{shorten(f'{space.name} ({space.size})' for space in chosen)} would keep every unit"
        raise UsageError(f"a ratio of {ratio:g} prunes nothing", cause=cause, remedy="give a larger one")
    parts = _all_parts(symmetry, shrunk)
    _refuse_pieces(symmetry, shrunk, parts)
    sizes |= dict(_of_gains(symmetry, sizes))
    before = {name: symmetry.shapes[name] for name in symmetry.terms}
    taken = {
        member for stack in symmetry.stacks if stack.space in sizes for member in stack.members[sizes[stack.space] :]
    }
    after = stored_shapes(symmetry, sizes, taken)
    return Smaller(shrunk, sizes, before, after, _lengths(symmetry, sizes, shrunk), parts)


def _refuse_pieces(symmetry: SymmetryGraph, spaces: Sequence[Space], whole: bool) -> None:
    """Refuses spaces on tensors in pieces, and parts of a model on tensors of which several axes are read as one.

    Args:
        whole: the positions of the spaces are whole parts.

    Raises:
        UsageError: it is not known how long each piece would be.
    """
    for form in (form for form in symmetry.forms if form.joins or (whole and not form.parts)):
        held = {leaf.space for own in form.terms for term in own for leaf in leaves(term)}
        for space in (space for space in spaces if space.id in held):
            cause = f"{shorten(form.stored)} are read as {form.read[0]}, and {space.name} is on that"
            raise UsageError("how long each piece would be is not known", cause=cause, remedy="name other spaces")


def _all_parts(symmetry: SymmetryGraph, spaces: Sequence[Space]) -> bool:
    """Whether the positions of these spaces are whole parts of the model.

    Raises:
        UsageError: they are of some and not of others.
    """
    parts = [space for space in spaces if is_part(symmetry, space)]
    if parts and len(parts) < len(spaces):
        others = [space.name for space in spaces if space not in parts]
        whole = shorten(space.name for space in parts)
        cause = f"the positions of {whole} are whole parts, those of {shorten(others)} are not"
        remedy = "prune the ones, then the others of the result"
        raise UsageError("these spaces cannot be pruned together", cause=cause, remedy=remedy)
    return bool(parts)


def is_part(symmetry: SymmetryGraph, space: Space) -> bool:
    """Whether each position is a part of the model that something picks or weighs, as a router does with experts.

    A model with fewer of them cannot be embedded in one with more: whatever picks sees how many there are.
    """
    inside = _has_inside(symmetry, space) or _has_branches(symmetry, space)
    return inside and SymmetryClass.SEMI_PERMUTATION not in space.bound


def _lengths(symmetry: SymmetryGraph, sizes: dict[int, int], shrunk: Sequence[Space]) -> tuple[tuple[int, int], ...]:
    """Every length of an axis that changes, with what it becomes; sizes of spaces first."""
    axes = (term for terms in (symmetry.read_terms, symmetry.values) for own in terms.values() for term in own)
    pairs = [
        *((space.size, sizes[space.id]) for space in shrunk),
        *((term.size, length_in(term, sizes)) for term in axes),
    ]
    return tuple(dict.fromkeys((old, new) for old, new in pairs if old != new))


def _of_gains(symmetry: SymmetryGraph, sizes: dict[int, int]) -> Iterator[tuple[int, int]]:
    """The rigid spaces of gains that multiply a space which shrinks: absorbed, they are one in canonical form."""
    for gain in symmetry.gains:
        for space in (symmetry.spaces[symmetry.frame(frame).space] for frame in gain.frames):
            for leaf in (leaf for term in symmetry.read_terms[gain.parameter] for leaf in leaves(term)):
                if space.id in sizes and leaf.space not in sizes and leaf.space >= 0 and leaf.size == space.size:
                    yield leaf.space, sizes[space.id]


def _chosen(symmetry: SymmetryGraph, patterns: str | Sequence[str] | None) -> list[Space]:
    if patterns is None:
        units = [space for space in symmetry.active if _is_units(symmetry, space)]
        if not units:
            cause = "none of its spaces is one of units, such as hidden units or channels, that can be merged"
            remedy = (
                f"name spaces to prune, of {shorten(space.name for space in symmetry.active) or 'which it has none'}"
            )
            raise UsageError("there is nothing to prune", cause=cause, remedy=remedy)
        return units
    return list({space.id: space for pattern in several(patterns) for space in _named(symmetry, pattern)}.values())


def _is_units(symmetry: SymmetryGraph, space: Space) -> bool:
    """Whether positions are units: they can be merged, and have neither a basis inside nor tensors of their own."""
    mergeable = SymmetryClass.SEMI_PERMUTATION in space.bound and not space.is_matrix
    return mergeable and not (_has_inside(symmetry, space) or _has_branches(symmetry, space))


def _has_inside(symmetry: SymmetryGraph, space: Space) -> bool:
    """Whether something with a basis of its own stands inside of each position, as in a head."""
    bases = {space.id for space in symmetry.active if space.is_matrix}
    if any(space.id in inner.fibre for inner in symmetry.active):
        return True
    products = (
        term for name in symmetry.read_on[space.id] for term in symmetry.read_terms[name] if isinstance(term, Product)
    )
    rows = ([leaf.space for leaf in leaves(product)] for product in products)
    return any(bases & set(row[row.index(space.id) :]) for row in rows if space.id in row)


def _has_branches(symmetry: SymmetryGraph, space: Space) -> bool:
    return any(stack.space == space.id for stack in symmetry.stacks)


def _named(symmetry: SymmetryGraph, pattern: str) -> list[Space]:
    """The spaces that a pattern names.

    Raises:
        UsageError: there are none, or a space cannot shrink.
    """
    named = symmetry.matching(pattern)
    active = [space for space in named if not space.rigid]
    if not active:
        why = next(
            (
                f", because of {reason.rule} at {reason.where}"
                for space in named
                for reason in space.evidence
                if len(reason.bound) == 1
            ),
            "",
        )
        cause = f"{named[0].name} is rigid{why}"
        raise UsageError(f"{pattern} cannot be pruned", cause=cause, remedy="`symgraph inspect` lists what is free")
    for space in active:
        if space.maps.paired:
            cause = f"{space.name} is {describe(space.bound)}: its rotary frequencies depend on the size"
            raise UsageError(f"{pattern} cannot be pruned", cause=cause, remedy="name heads, hidden units or a stream")
    return active
