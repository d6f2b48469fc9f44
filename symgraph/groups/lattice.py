"""The lattice of symmetry classes (design section 5).

A class is a set of linear maps on one axis. Inclusion of these sets is the order of the lattice; the meet of two
classes is what both admit. Meets need not be one of the named classes (relu admits positive monomial *and*
semi-permutation, which have only permutations in common), so an element of the lattice is a down-closed set of names:
a `Bound`. Meeting bounds is set intersection, which is commutative, associative and idempotent, so that the order in
which rules apply cannot matter.

Source: the four classes of Theus et al., arXiv 2506.22712, section 3, refined.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache


class SymmetryClass(StrEnum):
    """A named class of maps on an axis of size n."""

    IDENTITY = "identity"
    PERMUTATION = "permutation"
    SEMI_PERMUTATION = "semi-permutation"
    SIGNED = "signed permutation"
    POSITIVE_MONOMIAL = "positive monomial"
    MONOMIAL = "monomial"
    ROTARY = "rotary"
    ORTHOGONAL_ONES = "orthogonal fixing ones"
    ORTHOGONAL = "orthogonal"
    INVERTIBLE = "invertible"


_C = SymmetryClass
Bound = frozenset[SymmetryClass]

# What each class directly contains. Rotary maps contain no permutation but the identity. A semi-permutation changes
# the size of the axis, so it is no subset of the square classes; `invertible` stands for any linear map.
_CONTAINS: dict[SymmetryClass, tuple[SymmetryClass, ...]] = {
    _C.IDENTITY: (),
    _C.PERMUTATION: (_C.IDENTITY,),
    _C.SEMI_PERMUTATION: (_C.PERMUTATION,),
    _C.SIGNED: (_C.PERMUTATION,),
    _C.POSITIVE_MONOMIAL: (_C.PERMUTATION,),
    _C.MONOMIAL: (_C.SIGNED, _C.POSITIVE_MONOMIAL),
    _C.ROTARY: (_C.IDENTITY,),
    _C.ORTHOGONAL_ONES: (_C.PERMUTATION,),
    _C.ORTHOGONAL: (_C.SIGNED, _C.ORTHOGONAL_ONES),
    _C.INVERTIBLE: (_C.ORTHOGONAL, _C.MONOMIAL, _C.ROTARY, _C.SEMI_PERMUTATION),
}


@cache
def down(*classes: SymmetryClass) -> Bound:
    """The bound that admits exactly `classes` and everything inside them."""
    found: set[SymmetryClass] = {_C.IDENTITY}
    stack = list(classes)
    while stack:
        c = stack.pop()
        if c not in found:
            found.add(c)
            stack.extend(_CONTAINS[c])
    return frozenset(found)


TOP: Bound = down(_C.INVERTIBLE)
RIGID: Bound = down(_C.IDENTITY)


@cache
def maximal(bound: Bound) -> tuple[SymmetryClass, ...]:
    """The largest classes inside a bound, in the order of the enumeration."""
    inner = {d for c in bound for d in down(c) if d is not c}
    return tuple(c for c in SymmetryClass if c in bound and c not in inner)


@cache
def next_larger(bound: Bound) -> tuple[SymmetryClass, ...]:
    """The smallest classes that a bound does not admit: the ones a tight rule must be shown to break."""
    return tuple(c for c in SymmetryClass if c not in bound and all(d in bound for d in down(c) if d is not c))


# Preference when one name must stand for the group of a space: the largest continuous freedom first.
_GROUP_ORDER = (
    _C.INVERTIBLE,
    _C.ORTHOGONAL,
    _C.ORTHOGONAL_ONES,
    _C.MONOMIAL,
    _C.POSITIVE_MONOMIAL,
    _C.SIGNED,
    _C.ROTARY,
    _C.PERMUTATION,
    _C.IDENTITY,
)


@cache
def group_of(bound: Bound) -> SymmetryClass:
    """The largest *group* inside a bound (a semi-permutation is not invertible, hence never the answer)."""
    return next(c for c in _GROUP_ORDER if c in bound)


def describe(bound: Bound) -> str:
    """A bound as text, largest classes joined by `+`."""
    return " + ".join(maximal(bound))
