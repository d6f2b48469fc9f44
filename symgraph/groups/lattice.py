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
        return {member.name: member for member in self.members}

    @cached_property
    def inside(self) -> dict[SymmetryClass, frozenset[SymmetryClass]]:
        """For each class itself and every class inside of it."""
        direct = {member.name: {member.name, *member.contains} for member in self.members}
        for member in self.members:
            for larger in member.inside:
                direct[larger].add(member.name)
        inside: dict[SymmetryClass, frozenset[SymmetryClass]] = {}
        for name in direct:
            reached, stack = {SymmetryClass.IDENTITY}, [name]
            while stack:
                at = stack.pop()
                if at not in reached:
                    reached.add(at)
                    stack.extend(direct[at])
            inside[name] = frozenset(reached)
        return inside

    @cached_property
    def by_freedom(self) -> tuple[SymmetryClass, ...]:
        """The groups, that with the largest continuous freedom first."""
        groups = [member for member in self.members if member.group]
        rank = {
            member.name: (member.dimension(TYPICAL, member.scales), len(self.inside[member.name])) for member in groups
        }
        return tuple(sorted(rank, key=rank.__getitem__, reverse=True))

    def with_classes(self, *added: MapClass) -> Lattice:
        """The lattice with further classes.

        Raises:
            UsageError: a name is taken, or a class that is said to be inside or outside of it is not there.
        """
        known = [*self.members, *added]
        names = [member.name for member in known]
        twice = sorted({name for name in names if names.count(name) > 1})
        strange = sorted({name for member in added for name in (*member.contains, *member.inside)} - set(names))
        loose = sorted(member.name for member in added if not member.inside)
        if twice or strange or loose:
            reasons = [f"{name} is there already" for name in twice] + [f"there is no class {name}" for name in strange]
            reasons += [f"{name} is said to be inside of no class" for name in loose]
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
    return next((known for known in classes() if known == text), None)


def maps(name: SymmetryClass) -> MapClass:
    """What is known about a class.

    Raises:
        UsageError: there is no such class here.
    """
    member = _current.get().by_name.get(name)
    if member is None:
        remedy = "enter `symgraph.groups.lattice.extended(...)` with the class that has this name"
        raise UsageError(f"there is no class {name!r}", remedy=remedy)
    return member


@dataclass(frozen=True, slots=True)
class Bound:
    """The classes inside of some: a down-closed set of names, held by its largest ones."""

    largest: frozenset[SymmetryClass]

    def __contains__(self, name: object) -> bool:
        return name in _inside(_current.get(), self)

    def __iter__(self) -> Iterator[SymmetryClass]:
        inside = _inside(_current.get(), self)
        return (known for known in classes() if known in inside)

    def __len__(self) -> int:
        return len(_inside(_current.get(), self))

    def __le__(self, other: Bound) -> bool:
        return all(largest in other for largest in self.largest)

    def __and__(self, other: Bound) -> Bound:
        return self if self == other else _meet(_current.get(), self, other)

    def __or__(self, other: Bound) -> Bound:
        return down(*self.largest, *other.largest)

    def __str__(self) -> str:
        return describe(self)


@cache
def _inside(lattice: Lattice, bound: Bound) -> frozenset[SymmetryClass]:
    return frozenset().union(*(lattice.inside[largest] for largest in bound.largest))


@cache
def _meet(lattice: Lattice, one: Bound, other: Bound) -> Bound:
    return _bound(lattice, _inside(lattice, one) & _inside(lattice, other))


def _bound(lattice: Lattice, names: frozenset[SymmetryClass]) -> Bound:
    inner = {smaller for name in names for smaller in lattice.inside[name] if smaller is not name}
    return Bound(names - inner)


def down(*names: SymmetryClass) -> Bound:
    """The bound that admits exactly these classes and everything inside them."""
    return _bound(_current.get(), frozenset((SymmetryClass.IDENTITY, *names)))


TOP = Bound(frozenset({SymmetryClass.INVERTIBLE}))
RIGID = Bound(frozenset({SymmetryClass.IDENTITY}))


def maximal(bound: Bound) -> tuple[SymmetryClass, ...]:
    """The largest classes inside a bound, in order."""
    return tuple(known for known in classes() if known in bound.largest)


def next_larger(bound: Bound) -> tuple[SymmetryClass, ...]:
    """The smallest classes that a bound does not admit: the ones a tight rule must be shown to break."""
    inside = _current.get().inside
    return tuple(
        known
        for known in classes()
        if known not in bound and all(smaller in bound for smaller in inside[known] if smaller is not known)
    )


def group_of(bound: Bound) -> SymmetryClass:
    """The largest *group* inside a bound (a semi-permutation is not invertible, hence never the answer)."""
    return next(group for group in _current.get().by_freedom if group in bound)


def ranked(bound: Bound) -> tuple[int, int]:
    """How much a bound admits, for choosing between two: by its group first, then by how many classes are inside."""
    by_freedom = _current.get().by_freedom
    return -by_freedom.index(group_of(bound)), len(bound)


def describe(bound: Bound) -> str:
    """A bound as text, largest classes joined by `+`."""
    return " + ".join(maximal(bound))
