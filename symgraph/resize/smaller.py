"""A smaller shape of a model: which spaces shrink, to how many positions, and what that makes of every parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from symgraph.errors import UsageError, shorten
from symgraph.groups.lattice import SymmetryClass, describe
from symgraph.io.options import several
from symgraph.resize.lifting import length_in
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Product, leaves

Shapes = dict[str, tuple[int, ...]]


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
        return tuple(s for s in self.spaces if s.is_matrix and not s.fibre)

    @property
    def gone(self) -> frozenset[str]:
        """Tensors of parts that go."""
        return frozenset(self.before.keys() - self.after.keys())

    @property
    def ratios(self) -> tuple[tuple[int, int], ...]:
        """Each pair of an old and a new size once."""
        return tuple(dict.fromkeys((s.size, self.sizes[s.id]) for s in self.spaces))


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
    sizes = {s.id: s.size - round(ratio * s.size) for s in chosen}
    if gone := [s for s in chosen if sizes[s.id] < 1]:
        least = min(s.size for s in gone)
        cause = f"nothing would be left of {shorten(f'{s.name} ({s.size})' for s in gone)}"
        remedy = f"give a ratio of at most {(least - 1) / least:.3g}, or name other spaces"
        raise UsageError(f"a ratio of {ratio:g} prunes below one unit", cause=cause, remedy=remedy)
    shrunk = tuple(s for s in chosen if sizes[s.id] < s.size)
    if not shrunk:
        cause = f"{shorten(f'{s.name} ({s.size})' for s in chosen)} would keep every unit"
        raise UsageError(f"a ratio of {ratio:g} prunes nothing", cause=cause, remedy="give a larger one")
    parts = _all_parts(symmetry, shrunk)
    sizes |= dict(_of_gains(symmetry, sizes))
    before = {n: tuple(t.size for t in axes) for n, axes in symmetry.terms.items()}
    taken = {n for stack in symmetry.stacks if stack.space in sizes for n in stack.members[sizes[stack.space] :]}
    after = {n: tuple(length_in(t, sizes) for t in axes) for n, axes in symmetry.terms.items() if n not in taken}
    return Smaller(shrunk, sizes, before, after, _lengths(symmetry, sizes, shrunk), parts)


def _all_parts(symmetry: SymmetryGraph, spaces: Sequence[Space]) -> bool:
    """Whether the positions of these spaces are whole parts of the model.

    Raises:
        UsageError: they are of some and not of others.
    """
    parts = [s for s in spaces if is_part(symmetry, s)]
    if parts and len(parts) < len(spaces):
        others = [s.name for s in spaces if s not in parts]
        cause = f"the positions of {shorten(s.name for s in parts)} are whole parts, those of {shorten(others)} are not"
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
    axes = (t for terms in (symmetry.terms, symmetry.values) for found in terms.values() for t in found)
    pairs = [*((s.size, sizes[s.id]) for s in shrunk), *((t.size, length_in(t, sizes)) for t in axes)]
    return tuple(dict.fromkeys((old, new) for old, new in pairs if old != new))


def _of_gains(symmetry: SymmetryGraph, sizes: dict[int, int]) -> Iterator[tuple[int, int]]:
    """The rigid spaces of gains that multiply a space which shrinks: absorbed, they are one in canonical form."""
    for gain in symmetry.gains:
        space = symmetry.spaces[symmetry.frame(gain.frame).space]
        for leaf in (leaf for t in symmetry.terms[gain.parameter] for leaf in leaves(t)):
            if space.id in sizes and leaf.space not in sizes and leaf.space >= 0 and leaf.size == space.size:
                yield leaf.space, sizes[space.id]


def _chosen(symmetry: SymmetryGraph, patterns: str | Sequence[str] | None) -> list[Space]:
    if patterns is None:
        found = [s for s in symmetry.active if _is_units(symmetry, s)]
        if not found:
            cause = "none of its spaces is one of units, such as hidden units or channels, that can be merged"
            remedy = f"name spaces to prune, of {shorten(s.name for s in symmetry.active) or 'which it has none'}"
            raise UsageError("there is nothing to prune", cause=cause, remedy=remedy)
        return found
    return list({s.id: s for pattern in several(patterns) for s in _named(symmetry, pattern)}.values())


def _is_units(symmetry: SymmetryGraph, space: Space) -> bool:
    """Whether positions are units: they can be merged, and have neither a basis inside nor tensors of their own."""
    mergeable = SymmetryClass.SEMI_PERMUTATION in space.bound and not space.is_matrix
    return mergeable and not (_has_inside(symmetry, space) or _has_branches(symmetry, space))


def _has_inside(symmetry: SymmetryGraph, space: Space) -> bool:
    """Whether something with a basis of its own stands inside of each position, as in a head."""
    bases = {s.id for s in symmetry.active if s.is_matrix}
    if any(space.id in s.fibre for s in symmetry.active):
        return True
    products = (t for n in symmetry.parameters_of[space.id] for t in symmetry.terms[n] if isinstance(t, Product))
    rows = ([leaf.space for leaf in leaves(t)] for t in products)
    return any(bases & set(row[row.index(space.id) :]) for row in rows if space.id in row)


def _has_branches(symmetry: SymmetryGraph, space: Space) -> bool:
    return any(stack.space == space.id for stack in symmetry.stacks)


def _named(symmetry: SymmetryGraph, pattern: str) -> list[Space]:
    """The spaces that a pattern names.

    Raises:
        UsageError: there are none, or a space cannot shrink.
    """
    found = symmetry.matching(pattern)
    active = [s for s in found if not s.rigid]
    if not active:
        why = next((f", because of {r.rule} at {r.where}" for s in found for r in s.evidence if len(r.bound) == 1), "")
        cause = f"{found[0].name} is rigid{why}"
        raise UsageError(f"{pattern} cannot be pruned", cause=cause, remedy="`symgraph inspect` lists what is free")
    for s in active:
        if s.maps.paired:
            cause = f"{s.name} is {describe(s.bound)}: its rotary frequencies depend on the size"
            raise UsageError(f"{pattern} cannot be pruned", cause=cause, remedy="name heads, hidden units or a stream")
    return active
