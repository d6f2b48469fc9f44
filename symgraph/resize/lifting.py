"""The narrow model's axes in the terms of the wide one.

A space of one position leaves no trace in the axes of a model: with a single head there is nothing to tell heads from
the inside of a head. Both models run the same operators, so the wide one's terms hold for the narrow one's tensors as
well, in other sizes. These follow from the shapes of all values. What the narrow model's own inference says stays: each
of its terms must be the wide one's, but for spaces of one position, and a space keeps the bound that it had.

*Copied groups.* Where an inner space is larger in the narrow model and the one around it smaller (fewer heads of keys,
with more queries each), positions of the outer one are copied: (s, t) becomes (s r, t / r), and what has s alone is
repeated. The narrow model is then seen as one with s r groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain, pairwise
from math import prod
from operator import and_

from torch import Tensor

from symgraph.groups.lattice import SymmetryClass
from symgraph.ir import Kind
from symgraph.ir import Tensor as Meta
from symgraph.resize.maps import rebuild
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, blocks, leaves

Sizes = dict[int, int]


@dataclass(frozen=True, slots=True)
class Copies:
    """Every position of `outer` stands `times` times, and the positions of `inner` in it are shared out to these."""

    outer: int
    inner: int
    times: int
    text: str

    @property
    def reverse(self) -> str:
        """What cannot be taken back."""
        return f"{self.text}, not to be taken back"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Lifted:
    """A narrow model's symmetry graph in the terms of the wide one: same spaces by id, in the narrow model's sizes.

    `copies` are groups that were copied: terms have the sizes after that, tensors of the model those before.
    `problems` says, by tensor or space, where both are built differently.
    """

    symmetry: SymmetryGraph
    copies: tuple[Copies, ...] = ()
    problems: dict[object, str] = field(default_factory=dict)

    def tensor(self, value: Tensor, axes: Sequence[Term]) -> Tensor:
        """A tensor of the narrow model in the sizes of these axes: unchanged unless groups are copied."""
        for copies in self.copies:
            value = _copied(value, axes, copies)
        return value


def _copied(value: Tensor, axes: Sequence[Term], copies: Copies) -> Tensor:
    before = {copies.outer: lambda size: size // copies.times, copies.inner: lambda size: size * copies.times}

    def size(term: Term) -> int:
        if isinstance(term, Leaf):
            return before[term.space](term.size) if term.space in before else term.size
        return prod(map(size, term.factors)) if isinstance(term, Product) else sum(map(size, term.parts))

    def act(tensor: Tensor, dim: int, flat: Sequence[Term]) -> Tensor:
        here, after = flat[dim], flat[dim + 1] if dim + 1 < len(flat) else None
        if not isinstance(here, Leaf) or here.space != copies.outer:
            return tensor
        if isinstance(after, Leaf) and after.space == copies.inner:
            return tensor.reshape(*tensor.shape[:dim], here.size, after.size, *tensor.shape[dim + 2 :])
        return tensor.repeat_interleave(copies.times, dim)

    return rebuild(value, axes, before, size, act)


def lift(wide: SymmetryGraph, narrow: SymmetryGraph) -> Lifted:
    """The narrow model's graph in the terms of the wide one, whose operators are the same."""
    sites = list(_sites(wide, narrow))
    sizes = _solved(wide, [(term, size) for site in sites for term, size in zip(site.axes, site.shape, strict=True)])
    met = _Met(narrow)
    for site in sites:
        if site.stored:
            met.tensor(site, sizes)
    spaces = [met.space(space, sizes.get(space.id, space.size)) for space in wide.spaces]
    copies = tuple(_copies(wide, spaces))
    for copied in copies:
        sizes[copied.outer] *= copied.times
        sizes[copied.inner] //= copied.times
    lifted = replace(
        narrow,
        spaces=tuple(replace(space, size=sizes.get(space.id, space.size)) for space in spaces),
        frames=wide.frames,
        terms={**narrow.terms, **{site.name: site.resized(sizes) for site in sites if site.stored}},
        values={**narrow.values, **{site.name: site.resized(sizes) for site in sites if not site.stored}},
    )
    return Lifted(lifted, copies, met.problems)


@dataclass(frozen=True, slots=True)
class _Site:
    """A tensor or value: the wide model's terms of it, the narrow one's shape, and the narrow one's own terms."""

    name: str
    stored: bool
    axes: tuple[Term, ...]
    shape: tuple[int, ...]
    own: tuple[Term, ...] | None

    def resized(self, sizes: Sizes) -> tuple[Term, ...]:
        return tuple(_resized(term, sizes, size) for term, size in zip(self.axes, self.shape, strict=True))


def _sites(wide: SymmetryGraph, narrow: SymmetryGraph) -> Iterator[_Site]:
    for own, other in zip(wide.graph.nodes, narrow.graph.nodes, strict=True):
        stored = other.kind in (Kind.PARAMETER, Kind.BUFFER)
        there, here = (wide.terms, narrow.terms) if stored else (wide.values, narrow.values)
        name = other.target if stored else other.name
        axes = there.get(own.target if stored else own.name)
        if axes is not None and isinstance(other.result, Meta) and len(axes) == len(other.shape):
            yield _Site(name, stored, axes, other.shape, here.get(name))


def length_in(term: Term, sizes: Mapping[int, int]) -> int:
    """The length of an axis where some spaces, by id, have other sizes."""
    if isinstance(term, Leaf):
        return sizes.get(term.space, term.size)
    inner = [length_in(part, sizes) for part in term.children]
    return prod(inner) if isinstance(term, Product) else sum(inner)


def _resized(term: Term, sizes: Sizes, length: int | None = None) -> Term:
    """The term in other sizes; what belongs to no space and is a whole axis has that axis's length."""
    if isinstance(term, Leaf):
        own = length if length is not None and term.space < 0 else term.size
        return replace(term, size=sizes.get(term.space, own))
    inner = tuple(_resized(part, sizes) for part in term.children)
    return Product(inner) if isinstance(term, Product) else term.with_parts(inner)


def _solved(wide: SymmetryGraph, equations: Sequence[tuple[Term, int]]) -> Sizes:
    """The size of every space in the narrow model, as far as the lengths of axes tell; others as they are."""
    sizes: Sizes = {}
    todo = list(dict.fromkeys(equations))
    while todo:
        left = []
        for term, length in todo:
            unknown = {leaf.space for leaf in leaves(term) if leaf.space >= 0 and leaf.space not in sizes}
            if len(unknown) == 1:
                space = unknown.pop()
                fits = (size for size in range(1, length + 1) if length_in(term, {**sizes, space: size}) == length)
                sizes[space] = length if isinstance(term, Leaf) else next(fits, wide.spaces[space].size)
            elif unknown:
                left.append((term, length))
        if len(left) == len(todo):
            break
        todo = left
    return sizes


@dataclass
class _Met:
    """Which space of the narrow model stands where a space of the wide one does."""

    narrow: SymmetryGraph
    wide_of: dict[int, int] = field(default_factory=dict)
    found: dict[int, list[int]] = field(default_factory=dict)
    problems: dict[object, str] = field(default_factory=dict)

    def tensor(self, site: _Site, sizes: Sizes) -> None:
        graph = self.narrow.graph
        if site.own is None or site.name in graph.transient or not graph.users[graph.state[site.name].name]:
            return
        for number, (wide, own) in enumerate(zip(site.resized(sizes), site.own, strict=True)):
            place = f"axis {number} of {site.name}"
            pairs = list(leaf_pairs(_plain(wide), _plain(own))) if wide.size == own.size else [None]
            for pair in pairs:
                if pair is None:
                    sides = f"{site.axes[number].size} in the wider model, {own.size} in the other"
                    self.problems[site.name] = f"{place} is built differently ({sides})"
                else:
                    self._leaf(place, *pair)

    def _leaf(self, place: str, wide: Leaf, own: Leaf) -> None:
        if wide.space < 0:
            return
        self.found.setdefault(wide.space, []).append(own.space)
        if own.space >= 0 and self.wide_of.setdefault(own.space, wide.space) != wide.space:
            self.problems[own.space] = f"{place} belongs to other spaces in the wider model"

    def space(self, wide: Space, size: int) -> Space:
        """The wide model's space in the narrow size, with the bound that both admit."""
        ids = dict.fromkeys(self.found.get(wide.id, ()))
        own = [self.narrow.spaces[space] for space in ids if space >= 0]
        bound = reduce(and_, (space.bound for space in own), wide.bound)
        rigid = wide.rigid or any(number < 0 for number in ids) or any(space.rigid for space in own)
        first = own[0] if own else wide
        group = SymmetryClass.IDENTITY if rigid else first.group
        return replace(wide, name=first.name, size=size, group=group, bound=bound, evidence=first.evidence)


def _plain(term: Term) -> Term | None:
    """The term without spaces of one position, and without a nesting that they alone call for."""
    if isinstance(term, Leaf):
        return term if term.size != 1 else None
    inner = [plain for part in term.children if (plain := _plain(part)) is not None]
    if isinstance(term, Concat):
        # Parts of one position are not nothing: their place in the axis is taken.
        whole = replace(term, parts=tuple(_plain(part) or part for part in term.parts))
        return whole if len(term.parts) > 1 else inner[0]
    flat = tuple(factor for part in inner for factor in (part.factors if isinstance(part, Product) else (part,)))
    if len(flat) == 1:
        return flat[0]
    return Product(flat) if flat else None


def leaf_pairs(one: Term | None, other: Term | None) -> Iterator[tuple[Leaf, Leaf] | None]:
    """Corresponding leaves; None where the terms are built differently."""
    if one is None and other is None:
        return
    if isinstance(one, Leaf) and isinstance(other, Leaf):
        yield one, other
    elif isinstance(one, Product | Concat) and isinstance(other, Product | Concat) and _is_alike(one, other):
        for part, other_part in zip(one.children, other.children, strict=True):
            yield from leaf_pairs(part, other_part)
    else:
        yield None


def _is_alike(one: Product | Concat, other: Product | Concat) -> bool:
    return type(one) is type(other) and len(one.children) == len(other.children)


def _copies(wide: SymmetryGraph, narrow: Sequence[Space]) -> Iterator[Copies]:
    """Inner spaces that are larger in the narrow model, where the space around them has room for copies."""
    for space, inner in zip(wide.spaces, narrow, strict=True):
        around = _around(wide, space.id) if inner.size > space.size else None
        if around is None or SymmetryClass.SEMI_PERMUTATION not in narrow[around].bound:
            continue
        room = wide.spaces[around].size // narrow[around].size
        divisors = (times for times in range(2, room + 1) if inner.size % times == 0)
        repeats = next((times for times in divisors if inner.size // times <= space.size), 0)
        if repeats:
            outer = narrow[around]
            more = f"{outer.name}  {outer.size} -> {outer.size * repeats}"
            fewer = f"{inner.name}  {inner.size} -> {inner.size // repeats}"
            yield Copies(around, space.id, repeats, f"{more}, {fewer}  every position of the first copied")


def _around(wide: SymmetryGraph, space: int) -> int | None:
    """The space that stands directly before this one wherever it stands, if there is one."""
    nothing = Leaf(-1, -1, False, 1)
    every = chain.from_iterable(map(blocks, (*wide.terms.values(), *wide.values.values())))
    pairs = chain.from_iterable(pairwise((nothing, *block)) for block in every)
    outer = {before.space for before, leaf in pairs if leaf.space == space}
    return outer.pop() if len(outer) == 1 and min(outer) >= 0 else None
