"""Bases of integer and binary solutions against brute force."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Matrix

from symgraph.inference.scales import Equation, Vector, binary_basis, integer_basis

SIZE = 5


@st.composite
def systems(draw: st.DrawFn, /, limit: int = 2) -> tuple[int, list[Equation]]:
    size = draw(st.integers(1, SIZE))
    equation = st.dictionaries(st.integers(0, size - 1), st.integers(-limit, limit), max_size=4)
    return size, draw(st.lists(equation, max_size=4))


def value(e: Equation, x: Sequence[int]) -> int:
    return sum(v * x[i] for i, v in e.items())


def rank(rows: Sequence[Sequence[int]]) -> int:
    return int(Matrix(rows).rank()) if rows else 0


@settings(max_examples=60)
@given(systems())
def test_integer_basis_is_independent_and_solves(system: tuple[int, list[Equation]]) -> None:
    size, equations = system
    basis = integer_basis(size, equations)
    assert all(value(e, x) == 0 for e in equations for x in basis)
    assert rank(basis) == len(basis)


@settings(max_examples=60)
@given(systems())
def test_integer_basis_spans_every_solution_in_a_box(system: tuple[int, list[Equation]]) -> None:
    size, equations = system
    basis = integer_basis(size, equations)
    found = [x for x in product((-2, -1, 0, 1, 2), repeat=size) if all(value(e, x) == 0 for e in equations)]
    assert rank([*basis, *found]) == len(basis)


@settings(max_examples=60)
@given(systems())
def test_integer_basis_has_the_dimension_of_the_null_space(system: tuple[int, list[Equation]]) -> None:
    size, equations = system
    rows = [[e.get(i, 0) for i in range(size)] for e in equations]
    assert len(integer_basis(size, equations)) == size - rank(rows)


def span(size: int, basis: Sequence[Vector]) -> set[Vector]:
    return {
        tuple(sum(c * b[i] for c, b in zip(choice, basis, strict=True)) % 2 for i in range(size))
        for choice in product((0, 1), repeat=len(basis))
    }


@given(systems())
def test_binary_basis_spans_exactly_the_solutions(system: tuple[int, list[Equation]]) -> None:
    size, equations = system
    basis = binary_basis(size, equations)
    solutions = {x for x in product((0, 1), repeat=size) if all(value(e, x) % 2 == 0 for e in equations)}
    assert span(size, basis) == solutions
    assert 2 ** len(basis) == len(solutions)


@given(systems(), st.randoms())
def test_order_of_equations_does_not_matter(system: tuple[int, list[Equation]], random: Random) -> None:
    size, equations = system
    shuffled = random.sample(equations, len(equations))
    assert binary_basis(size, equations) == binary_basis(size, shuffled)
    assert integer_basis(size, equations) == integer_basis(size, shuffled)


def test_gated_unit_has_one_free_scale() -> None:
    """The gate (0) has no scale; the product (2) has that of `up` (1)."""
    equations: list[Equation] = [{0: 1}, {0: 1, 1: 1, 2: -1}]
    assert integer_basis(3, equations) == [(0, 1, 1)]
    assert binary_basis(3, equations) == [(0, 1, 1)]


def test_square_doubles_the_scale_and_loses_the_sign() -> None:
    equations: list[Equation] = [{0: 2, 1: -1}]
    assert integer_basis(2, equations) == [(1, 2)]
    assert binary_basis(2, equations) == [(1, 0)]


def test_nothing_known_is_free() -> None:
    assert integer_basis(2, []) == binary_basis(2, []) == [(1, 0), (0, 1)]
