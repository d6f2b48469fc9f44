"""Bounds form a lattice under inclusion, with meets that need not be one named class."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symgraph.groups.lattice import (
    RIGID,
    TOP,
    Bound,
    SymmetryClass,
    classes,
    describe,
    down,
    group_of,
    maximal,
    next_larger,
)

C = SymmetryClass
names = st.sampled_from(classes())
bounds = st.sets(names, max_size=4).map(lambda s: down(*s))


@given(bounds, bounds, bounds)
def test_meet_is_commutative_associative_and_idempotent(a: Bound, b: Bound, c: Bound) -> None:
    assert a & b == b & a
    assert (a & b) & c == a & (b & c)
    assert a & a == a


@given(bounds, bounds)
def test_meet_is_a_bound_and_the_largest_one_inside_both(a: Bound, b: Bound) -> None:
    meet = a & b
    assert meet == down(*meet) == down(*maximal(meet))
    assert set(meet) == {c for c in classes() if down(c) <= a and down(c) <= b}


@given(bounds)
def test_meets_with_everything_and_with_nothing(a: Bound) -> None:
    assert a & TOP == a
    assert a & RIGID == RIGID
    assert tuple(TOP) == classes()


@given(names, names)
def test_inclusion_is_an_order(a: C, b: C) -> None:
    assert a in down(a)
    assert (a in down(b) and b in down(a)) == (a is b)
    if a in down(b):
        assert down(a) <= down(b)


@given(bounds)
def test_next_larger_is_never_admitted_and_a_step_above(a: Bound) -> None:
    for c in next_larger(a):
        assert c not in a
        assert set(down(c)) - {c} <= set(a)
    assert bool(next_larger(a)) == (a != TOP)


@given(bounds, names)
def test_every_class_outside_contains_a_next_larger_one(a: Bound, c: C) -> None:
    assert (c in a) == (not set(next_larger(a)) & set(down(c)))


@given(bounds)
def test_maximal_classes_contain_all_others_and_not_each_other(a: Bound) -> None:
    assert down(*maximal(a)) == a
    assert all(x not in down(y) for x in maximal(a) for y in maximal(a) if x is not y)


@given(bounds)
def test_group_of_a_bound_is_admitted_and_invertible(a: Bound) -> None:
    group = group_of(a)
    assert group in a and group is not C.SEMI_PERMUTATION
    larger = [c for c in a if group in down(c) and c not in (group, C.SEMI_PERMUTATION)]
    assert not larger


@given(bounds, bounds)
def test_a_smaller_bound_has_no_larger_group(a: Bound, b: Bound) -> None:
    assert group_of(a & b) in a & b
    assert group_of(a) not in down(group_of(a & b)) or group_of(a) is group_of(a & b)


@pytest.mark.parametrize(
    ("a", "b", "meet"),
    [
        (C.SEMI_PERMUTATION, C.ORTHOGONAL, "permutation"),
        (C.SEMI_PERMUTATION, C.ORTHOGONAL_ONES, "permutation"),
        (C.POSITIVE_MONOMIAL, C.ORTHOGONAL, "permutation"),
        (C.MONOMIAL, C.ORTHOGONAL, "signed permutation"),
        (C.SIGNED, C.ORTHOGONAL_ONES, "permutation"),
        (C.SIGNED, C.POSITIVE_MONOMIAL, "permutation"),
        (C.MONOMIAL, C.SEMI_PERMUTATION, "permutation"),
        (C.ROTARY, C.ORTHOGONAL, "pairwise rotations"),
        (C.ROTARY, C.ORTHOGONAL_ONES, "identity"),
        (C.ROTARY, C.MONOMIAL, "pairwise signed scales"),
        (C.ROTARY, C.POSITIVE_MONOMIAL, "pairwise scales"),
        (C.ROTARY, C.SIGNED, "pairwise signs"),
        (C.ROTARY, C.SEMI_PERMUTATION, "identity"),
        (C.PAIRWISE_ROTATIONS, C.MONOMIAL, "pairwise signs"),
        (C.DIAGONAL, C.ROTARY, "pairwise signed scales"),
        (C.DIAGONAL, C.ORTHOGONAL, "pairwise signs"),
        (C.DIAGONAL, C.POSITIVE_MONOMIAL, "positive diagonal"),
        (C.POSITIVE_DIAGONAL, C.ROTARY, "pairwise scales"),
        (C.POSITIVE_DIAGONAL, C.SIGNED, "identity"),
        (C.ROTARY, C.INVERTIBLE, "rotary"),
        (C.INVERTIBLE, C.ORTHOGONAL, "orthogonal"),
        (C.PERMUTATION, C.MONOMIAL, "permutation"),
    ],
)
def test_meets(a: C, b: C, meet: str) -> None:
    assert describe(down(a) & down(b)) == meet


@pytest.mark.parametrize(
    ("bound", "text", "larger"),
    [
        (RIGID, "identity", "permutation + pairwise signs + pairwise scales"),
        (
            down(C.PERMUTATION),
            "permutation",
            "semi-permutation + pairwise signs + pairwise scales + orthogonal fixing ones",
        ),
        (
            down(C.SEMI_PERMUTATION, C.POSITIVE_MONOMIAL),
            "semi-permutation + positive monomial",
            "pairwise signs + orthogonal fixing ones",
        ),
        (
            down(C.SIGNED),
            "signed permutation",
            "semi-permutation + pairwise scales + pairwise rotations + orthogonal fixing ones",
        ),
        (down(C.ORTHOGONAL), "orthogonal", "semi-permutation + pairwise scales"),
        (TOP, "invertible", ""),
    ],
)
def test_text_and_neighbours(bound: Bound, text: str, larger: str) -> None:
    assert describe(bound) == text
    assert " + ".join(next_larger(bound)) == larger
