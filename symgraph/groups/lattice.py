"""The lattice of symmetry classes (design section 5).

A class is a set of linear maps on one axis. Inclusion of these sets is the order of the lattice; the meet of two
classes is what both admit. Meets need not be one of the named classes (relu admits positive monomial *and*
semi-permutation, which have only permutations in common), so an element of the lattice is a down-closed set of names:
a `Bound`. Meeting bounds is set intersection, which is commutative, associative and idempotent, so that the order in
which rules apply cannot matter.

Everything about a class stands in the file of its own; `BUILT_IN` lists them, and `extended` adds others for a while:

    with extended(MyMaps()):
        graph = symgraph.infer(model, rules=...)

Source: the four classes of Theus et al., arXiv 2506.22712, section 3, refined.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property

from symgraph.errors import UsageError
from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.diagonal import Diagonal
from symgraph.groups.identity import Identity
from symgraph.groups.invertible import Invertible
from symgraph.groups.map_class import MapClass
from symgraph.groups.monomial import Monomial
from symgraph.groups.orthogonal import Orthogonal
from symgraph.groups.orthogonal_fixing_ones import OrthogonalFixingOnes
from symgraph.groups.pairwise_rotations import PairwiseRotations
from symgraph.groups.pairwise_scales import PairwiseScales
from symgraph.groups.pairwise_signed_scales import PairwiseSignedScales
from symgraph.groups.pairwise_signs import PairwiseSigns
from symgraph.groups.permutation import Permutation
from symgraph.groups.positive_diagonal import PositiveDiagonal
from symgraph.groups.positive_monomial import PositiveMonomial
from symgraph.groups.rotary import Rotary
from symgraph.groups.semi_permutation import SemiPermutation
from symgraph.groups.signed_permutation import SignedPermutation

__all__ = [
    "RIGID",
    "TOP",
    "Bound",
    "Lattice",
    "SymmetryClass",
    "classes",
    "describe",
    "down",
    "extended",
    "group_of",
    "maps",
    "maximal",
    "named",
    "next_larger",
    "ranked",
]

# In the order in which texts list them.
BUILT_IN: tuple[MapClass, ...] = (
    Identity(),
    Permutation(),
    SemiPermutation(),
    SignedPermutation(),
    PositiveMonomial(),
    Monomial(),
    PairwiseSigns(),
    PairwiseScales(),
    PairwiseSignedScales(),
    PositiveDiagonal(),
    Diagonal(),
    PairwiseRotations(),
    Rotary(),
    OrthogonalFixingOnes(),
    Orthogonal(),
    Invertible(),
)
# A size at which dimensions are compared.
TYPICAL = 12


@dataclass(frozen=True, eq=False)
class Lattice:
    """Classes with their inclusions."""

    members: tuple[MapClass, ...]

    @cached_property
    def by_name(self) -> dict[SymmetryClass, MapClass]:
        """The classes by name, in order."""
        return {m.name: m for m in self.members}

    @cached_property
    def inside(self) -> dict[SymmetryClass, frozenset[SymmetryClass]]:
        """For each class itself and every class inside of it."""
        direct = {m.name: {m.name, *m.contains} for m in self.members}
        for m in self.members:
            for larger in m.inside:
                direct[larger].add(m.name)
        found: dict[SymmetryClass, frozenset[SymmetryClass]] = {}
        for name in direct:
            reached, stack = {SymmetryClass.IDENTITY}, [name]
            while stack:
                at = stack.pop()
                if at not in reached:
                    reached.add(at)
                    stack.extend(direct[at])
            found[name] = frozenset(reached)
        return found

    @cached_property
    def by_freedom(self) -> tuple[SymmetryClass, ...]:
        """The groups, that with the largest continuous freedom first."""
        groups = [m for m in self.members if m.group]
        rank = {m.name: (m.dimension(TYPICAL, m.scales), len(self.inside[m.name])) for m in groups}
        return tuple(sorted(rank, key=rank.__getitem__, reverse=True))

    def with_classes(self, *added: MapClass) -> Lattice:
        """The lattice with further classes.

        Raises:
            UsageError: a name is taken, or a class that is said to be inside or outside of it is not there.
        """
        known = [*self.members, *added]
        names = [m.name for m in known]
        twice = sorted({n for n in names if names.count(n) > 1})
        strange = sorted({n for m in added for n in (*m.contains, *m.inside)} - set(names))
        loose = sorted(m.name for m in added if not m.inside)
        if twice or strange or loose:
            reasons = [f"{n} is there already" for n in twice] + [f"there is no class {n}" for n in strange]
            reasons += [f"{n} is said to be inside of no class" for n in loose]
            remedy = "give each class a name of its own, what it `contains` and what it is `inside` of"
            raise UsageError("the lattice cannot be extended so", cause="; ".join(reasons), remedy=remedy)
        return Lattice(tuple(known))


_STANDARD = Lattice(BUILT_IN)
_current: ContextVar[Lattice] = ContextVar("lattice", default=_STANDARD)


@contextmanager
def extended(*added: MapClass) -> Iterator[Lattice]:
    """Within this context there are further classes: rules may admit them, inference finds and everything uses them.

    Raises:
        UsageError: they do not fit.
    """
    token = _current.set(_current.get().with_classes(*added))
    try:
        yield _current.get()
    finally:
        _current.reset(token)


def classes() -> tuple[SymmetryClass, ...]:
    """The names of all classes, in order."""
    return tuple(_current.get().by_name)


def named(text: object) -> SymmetryClass | None:
    """The class of that name, if there is one."""
    return next((c for c in classes() if c == text), None)


def maps(name: SymmetryClass) -> MapClass:
    """What is known about a class.

    Raises:
        UsageError: there is no such class here.
    """
    found = _current.get().by_name.get(name)
    if found is None:
        remedy = "enter `symgraph.groups.lattice.extended(...)` with the class that has this name"
        raise UsageError(f"there is no class {name!r}", remedy=remedy)
    return found


@dataclass(frozen=True, slots=True)
class Bound:
    """The classes inside of some: a down-closed set of names, held by its largest ones."""

    largest: frozenset[SymmetryClass]

    def __contains__(self, name: object) -> bool:
        return name in _inside(_current.get(), self)

    def __iter__(self) -> Iterator[SymmetryClass]:
        inside = _inside(_current.get(), self)
        return (c for c in classes() if c in inside)

    def __len__(self) -> int:
        return len(_inside(_current.get(), self))

    def __le__(self, other: Bound) -> bool:
        return all(c in other for c in self.largest)

    def __and__(self, other: Bound) -> Bound:
        return self if self == other else _meet(_current.get(), self, other)

    def __or__(self, other: Bound) -> Bound:
        return down(*self.largest, *other.largest)

    def __str__(self) -> str:
        return describe(self)


@cache
def _inside(lattice: Lattice, bound: Bound) -> frozenset[SymmetryClass]:
    return frozenset().union(*(lattice.inside[c] for c in bound.largest))


@cache
def _meet(lattice: Lattice, a: Bound, b: Bound) -> Bound:
    return _bound(lattice, _inside(lattice, a) & _inside(lattice, b))


def _bound(lattice: Lattice, names: frozenset[SymmetryClass]) -> Bound:
    inner = {d for c in names for d in lattice.inside[c] if d is not c}
    return Bound(names - inner)


def down(*names: SymmetryClass) -> Bound:
    """The bound that admits exactly these classes and everything inside them."""
    return _bound(_current.get(), frozenset((SymmetryClass.IDENTITY, *names)))


TOP = Bound(frozenset({SymmetryClass.INVERTIBLE}))
RIGID = Bound(frozenset({SymmetryClass.IDENTITY}))


def maximal(bound: Bound) -> tuple[SymmetryClass, ...]:
    """The largest classes inside a bound, in order."""
    return tuple(c for c in classes() if c in bound.largest)


def next_larger(bound: Bound) -> tuple[SymmetryClass, ...]:
    """The smallest classes that a bound does not admit: the ones a tight rule must be shown to break."""
    inside = _current.get().inside
    return tuple(c for c in classes() if c not in bound and all(d in bound for d in inside[c] if d is not c))


def group_of(bound: Bound) -> SymmetryClass:
    """The largest *group* inside a bound (a semi-permutation is not invertible, hence never the answer)."""
    return next(c for c in _current.get().by_freedom if c in bound)


def ranked(bound: Bound) -> tuple[int, int]:
    """How much a bound admits, for choosing between two: by its group first, then by how many classes are inside."""
    by_freedom = _current.get().by_freedom
    return -by_freedom.index(group_of(bound)), len(bound)


def describe(bound: Bound) -> str:
    """A bound as text, largest classes joined by `+`."""
    return " + ".join(maximal(bound))
