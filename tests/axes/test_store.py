"""Laws of unification: the order of equations does not matter, and terms refine each other exactly.

Two stores agree if the same elements act on the same axes. `action` writes that down without names: for every space
that is neither rigid nor of size one, the permutation of all positions of all axes that one step along it makes, with
the variance of each position.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symgraph.groups.lattice import RIGID, TOP, Bound, SymmetryClass, describe, down
from symgraph.inference.axis_nodes import Shape
from symgraph.inference.claims import Ref
from symgraph.inference.frames import InRuns
from symgraph.inference.store import SELF_DUAL, Store
from symgraph.inference.structural import TRANSFORMERS, Call
from symgraph.symmetry.terms import turn_order

Digits = list[tuple[int, int, int]]


# -- what a store says -----------------------------------------------------------------------------------------------


def bounds(store: Store) -> dict[int, Bound]:
    found: dict[int, Bound] = {}
    for claim in store.claims:
        for leaf in store.leaves(claim.ref):
            found[leaf >> 1] = found.get(leaf >> 1, TOP) & claim.bound
    return found


def positions(store: Store, ref: Ref) -> list[Digits]:
    """For every position of an axis, its (space, digit, variance) on every space above size one.

    A negative "space" numbers the parts of a concatenation, so that no two positions look alike.
    """
    shape = store.children(ref)
    if shape is None:
        leaf = store.find(ref)
        n = store.size(leaf)
        return [[(leaf >> 1, d, leaf & 1)] for d in range(n)] if n > 1 else [[]]
    found = [positions(store, r) for r in shape[1]]
    if shape[0] is Shape.MOVED:
        return [found[0][i] for i in store.order(ref)]
    if shape[0] is Shape.CONCAT:
        return [[(-1, i, 0), *p] for i, part in enumerate(found) for p in part]
    result: list[Digits] = [[]]
    for factor in found:
        result = [a + b for a in result for b in factor]
    return result


def step(axis: list[Digits], space: int, size: int) -> list[int]:
    """Where one step along `space` takes each position of an axis, all its occurrences moving together."""
    moved = [[(s, (d + (s == space)) % size if s == space else d, v) for s, d, v in p] for p in axis]
    at = {tuple(p): i for i, p in enumerate(axis)}
    return [at[tuple(p)] for p in moved]


def action(store: Store, axes: Sequence[Ref]) -> frozenset[tuple[object, ...]]:
    bound = bounds(store)
    spread = [positions(store, a) for a in axes]
    found = set()
    for space in {s for axis in spread for p in axis for s, _, _ in p if s >= 0}:
        if bound.get(space, TOP) == RIGID:
            continue
        size = store.size(2 * space)
        moves = tuple(tuple(step(axis, space, size)) for axis in spread)
        variance = [[v for s, _, v in p if s == space] for axis in spread for p in axis]
        first = next(v[0] for v in variance if v)
        # Inside the orthogonal group an element and its dual are the same.
        relative = None if bound.get(space, TOP) <= SELF_DUAL else tuple(tuple(x ^ first for x in v) for v in variance)
        found.add((moves, relative, describe(bound.get(space, TOP))))
    return frozenset(found)


# -- random systems of equations -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """An axis to be made: a fresh one, a named one, or one put together."""

    kind: str
    size: int
    name: int = 0
    dual: bool = False
    inner: tuple[Term, ...] = ()


@dataclass(frozen=True)
class System:
    """Named axes of one size, further named ones, and equations between axes and terms."""

    size: int
    shared: tuple[int, ...]
    equations: tuple[tuple[int, bool, Term], ...]


COUNT = 3
KINDS = ("product", "concat", "turns")


@st.composite
def terms(draw: st.DrawFn, /, size: int, shared: tuple[int, ...], depth: int, kinds: Sequence[str]) -> Term:
    dual = draw(st.booleans())
    same = [i for i, n in enumerate(shared) if n == size]
    if len(same) > 0 and draw(st.booleans()):
        return Term("shared", size, draw(st.sampled_from(same)), dual)
    kind = draw(st.sampled_from(kinds)) if depth and size > 1 else "fresh"
    inner: list[Term] = []
    if kind == "product":
        left = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
        inner = [draw(terms(n, shared, depth - 1, kinds)) for n in (left, size // left)]
    elif kind == "concat":
        left = draw(st.integers(1, size - 1))
        inner = [draw(terms(n, shared, depth - 1, kinds)) for n in (left, size - left)]
    elif kind == "turns":
        count = draw(st.sampled_from([d for d in range(2, size + 1) if size % d == 0]))
        inner = [draw(terms(size // count, shared, depth - 1, kinds)) for _ in range(count)]
    return Term(kind, size, 0, dual, tuple(inner))


@st.composite
def systems(draw: st.DrawFn, /, kinds: Sequence[str] = KINDS, depth: int = 2) -> System:
    size = draw(st.sampled_from([6, 8, 12, 30]))
    shared = tuple(draw(st.lists(st.sampled_from([2, 3, 4, 5, 6]), max_size=2)))
    one = st.tuples(st.integers(0, COUNT - 1), st.booleans(), terms(size, shared, depth, kinds))
    axis = st.tuples(
        st.integers(0, COUNT - 1),
        st.booleans(),
        st.builds(lambda i: Term("axis", size, i), st.integers(0, COUNT - 1)),
    )
    return System(size, shared, tuple(draw(st.lists(one | axis, min_size=2, max_size=5))))


@dataclass(frozen=True)
class Solution:
    """A store with its named axes and the two sides of every equation."""

    store: Store
    named: list[Ref]
    sides: list[tuple[Ref, Ref]]


def solve(system: System, order: Sequence[int]) -> Solution:
    store = Store()
    axes = [store.new(system.size) for _ in range(COUNT)]
    shared = [store.new(n) for n in system.shared]

    def make(t: Term) -> Ref:
        if t.kind == "axis":
            return axes[t.name]
        if t.kind == "shared":
            return shared[t.name] ^ t.dual
        if t.kind == "fresh":
            return store.new(t.size) ^ t.dual
        inner = [make(i) for i in t.inner]
        if t.kind == "turns":
            return store.moved(store.concat(inner), turn_order(t.size, len(inner))) ^ t.dual
        return (store.product(inner) if t.kind == "product" else store.concat(inner)) ^ t.dual

    sides = [(axes[axis] ^ dual, make(t)) for axis, dual, t in system.equations]
    for i in order:
        store.unify(*sides[i])
    store.settle()
    return Solution(store, [*axes, *shared], sides)


@st.composite
def orders(draw: st.DrawFn, /, kinds: Sequence[str] = KINDS, depth: int = 2) -> tuple[System, list[int]]:
    system = draw(systems(kinds, depth))
    return system, draw(st.permutations(range(len(system.equations))))


@settings(max_examples=120)
@given(orders(kinds=("product",)) | orders(kinds=("concat",)) | orders(kinds=("turns",)) | orders())
def test_order_of_equations_never_matters(case: tuple[System, list[int]]) -> None:
    system, order = case
    one, other = solve(system, range(len(order))), solve(system, order)
    assert action(one.store, one.named) == action(other.store, other.named)


@settings(max_examples=120)
@given(systems())
def test_both_sides_of_an_equation_move_alike(system: System) -> None:
    solved = solve(system, range(len(system.equations)))
    for left, right in solved.sides:
        assert action(solved.store, [left, right]) == action(solved.store, [left, left])


@settings(max_examples=60)
@given(systems())
def test_an_equation_twice_says_no_more(system: System) -> None:
    once = solve(system, range(len(system.equations)))
    twice = solve(system, [*range(len(system.equations))] * 2)
    assert action(once.store, once.named) == action(twice.store, twice.named)


# Calls that read an axis: the operator, which axis, its arguments, and the sizes of its results.
Read = tuple[str, int, dict[str, object], tuple[int, ...]]
HALVES: Read = ("slice", 0, {"dim": 0, "start": 1, "step": 2}, (4,))
READINGS: list[tuple[int, tuple[Read, ...]]] = [
    (8, (HALVES, ("slice", 0, {"dim": 0, "start": 0}, (4,)))),
    (8, (HALVES, ("slice", 0, {"dim": 0, "start": 3}, (5,)))),
    (8, (HALVES, ("reshape", 0, {}, (2, 4)), ("slice", 3, {"dim": 0, "start": 1}, (3,)))),
    (8, (HALVES, ("reshape", 0, {}, (4, 2)), ("slice", 2, {"dim": 0, "start": 1}, (3,)))),
    (6, (("pad", 0, {"pad": [1, 1]}, (8,)), ("slice", 1, HALVES[2], (4,)), ("reshape", 1, {}, (4, 2)))),
    (9, (("slice", 0, {"dim": 0, "start": 1, "step": 2}, (4,)), ("slice", 0, {"dim": 0, "start": 4}, (5,)))),
]  # fmt: skip


def read(size: int, calls: Sequence[Read], order: Sequence[int]) -> frozenset[tuple[object, ...]]:
    """What calls say of an axis, and of all that they make of it, whichever is met first."""
    store = Store()
    axes = [store.new(size)]
    made = [[store.new(n) for n in sizes] for *_, sizes in calls]
    axes += [axis for results in made for axis in results]
    for i in order:
        structure, at, arguments, sizes = calls[i]
        found = TRANSFORMERS[structure](store, Call(((axes[at],),), arguments, (sizes,)))[0]
        for axis, other in zip(made[i], found, strict=True):
            store.unify(axis, other)
    store.settle()
    return action(store, axes)


@pytest.mark.parametrize(("size", "calls"), READINGS)
def test_parts_that_take_turns_are_cut_in_any_order(size: int, calls: tuple[Read, ...]) -> None:
    first, *others = (read(size, calls, order) for order in itertools.permutations(range(len(calls))))
    assert first
    assert all(other == first for other in others)


# -- refinement ------------------------------------------------------------------------------------------------------


def cuts_of(store: Store, refs: Sequence[Ref], *, product: bool) -> set[int]:
    found, at = set(), 1 if product else 0
    for ref in refs:
        at = at * store.size(ref) if product else at + store.size(ref)
        found.add(at)
    return found


def product_at(store: Store, cuts: Sequence[int]) -> Ref:
    ends = [1, *cuts]
    return store.product([store.new(b // a) for a, b in itertools.pairwise(ends)])


def concat_at(store: Store, cuts: Sequence[int]) -> Ref:
    ends = [0, *cuts]
    return store.concat([store.new(b - a) for a, b in itertools.pairwise(ends)])


@given(st.permutations([2, 2, 2, 3, 3, 5]), st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4)))
def test_products_on_one_chain_are_cut_at_all_places(primes: list[int], a: set[int], b: set[int]) -> None:
    chain = list(itertools.accumulate(primes, lambda x, y: x * y))
    store = Store()
    one, other = (product_at(store, [chain[i] for i in [*sorted(at), 5]]) for at in (a, b))
    store.unify(one, other)
    assert not store.claims
    assert cuts_of(store, store.factors(one), product=True) == {chain[i] for i in {*a, *b, 5}}
    assert list(store.leaves(one)) == list(store.leaves(other))


@given(st.sets(st.integers(1, 19)), st.sets(st.integers(1, 19)))
def test_concatenations_are_cut_at_all_offsets(a: set[int], b: set[int]) -> None:
    store = Store()
    one, other = (concat_at(store, [*sorted(at), 20]) for at in (a, b))
    store.unify(one, other)
    assert not store.claims
    assert cuts_of(store, store.parts(one), product=False) == {*a, *b, 20}
    assert action(store, [one, other]) == action(store, [one, one])


@given(st.integers(2, 5), st.integers(2, 5), st.data())
def test_cut_inside_a_product_leaves_the_rest_free(outer: int, inner: int, data: st.DataObject) -> None:
    store = Store()
    p, q = store.new(outer), store.new(inner)
    at = data.draw(st.integers(1, outer * inner - 1))
    store.unify(store.product([p, q]), concat_at(store, [at, outer * inner]))
    assert not store.claims
    units, offset = divmod(at, inner)
    assert cuts_of(store, store.parts(p), product=False) == {units, units + (offset > 0), outer} - {0}
    assert cuts_of(store, store.parts(q), product=False) == {offset, inner} - {0}


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 4))
def test_product_over_a_concatenation_distributes(m: int, n: int, k: int) -> None:
    store = Store()
    a, b, c = store.new(m), store.new(n), store.new(k)
    x, y = store.new(m * k), store.new(n * k)
    store.unify(store.concat([x, y]), store.product([store.concat([a, b]), c]))
    assert [show(store, r, {a: "a", b: "b", c: "c"}) for r in (x, y)] == [
        "c" if m == 1 else "(a*c)",
        "c" if n == 1 else "(b*c)",
    ]


def show(store: Store, ref: Ref, names: dict[Ref, str]) -> str:
    shape = store.children(ref)
    if shape is None:
        known = {store.find(r): name for r, name in names.items()}
        leaf = store.find(ref)
        return known.get(leaf) or (known[leaf ^ 1] + "'" if leaf ^ 1 in known else str(store.size(leaf)))
    sign = "*" if shape[0] is Shape.PRODUCT else "+"
    return f"({sign.join(show(store, r, names) for r in shape[1])})"


# -- sizes one and zero ----------------------------------------------------------------------------------------------


def test_factors_of_size_one_and_empty_parts_vanish() -> None:
    store = Store()
    a = store.new(3)
    assert store.product([store.new(1), a, store.new(1)]) == a
    assert store.concat([store.new(0), a]) == a
    assert store.size(store.product([store.new(1)])) == 1


# -- variance --------------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_a_loop_with_an_odd_number_of_duals_is_orthogonal(duals: list[bool]) -> None:
    store = Store()
    axes = [store.new(4) for _ in duals]
    for i, dual in enumerate(duals):
        store.unify(axes[i], axes[(i + 1) % len(axes)] ^ dual)
    expected = SELF_DUAL if sum(duals) % 2 else TOP
    assert bounds(store).get(store.find(axes[0]) >> 1, TOP) == expected


def test_the_dual_of_a_product_is_the_product_of_the_duals() -> None:
    store = Store()
    a, b = store.new(2), store.new(3)
    x, y, whole = store.new(2), store.new(3), store.new(6)
    store.unify(whole, store.product([a, b]) ^ 1)
    store.unify(whole, store.product([x, y]))
    assert [show(store, r, {a: "a", b: "b"}) for r in (whole, x, y)] == ["(a'*b')", "a'", "b'"]


# -- clashes ---------------------------------------------------------------------------------------------------------


def reasons(store: Store, ref: Ref) -> set[tuple[str, str, str]]:
    return {
        (c.evidence.node, c.evidence.rule, c.evidence.reason)
        for c in store.claims
        if set(store.leaves(c.ref)) & {r ^ f for r in store.leaves(ref) for f in (0, 1)}
    }


def test_products_without_common_refinement_are_rigid_with_a_reason() -> None:
    store = Store()
    one, other = (store.product([store.new(n) for n in sizes]) for sizes in ((5, 2, 3, 7), (5, 3, 2, 7)))
    store.because("view_1", "reshape", "about the rule")
    store.unify(one, other)
    store.settle()
    why = ("view_1", "reshape", "the products have no common refinement")
    for ref in (one, other):
        five, x, y, seven = store.factors(ref)
        assert [reasons(store, r) for r in (five, x, y, seven)] == [set(), {why}, {why}, set()]
    assert store.factors(one)[0] == store.factors(other)[0]
    assert store.factors(one)[3] == store.factors(other)[3]


def test_only_what_cannot_be_cut_is_rigid() -> None:
    store = Store()
    ten, three, fifteen, two = map(store.new, (10, 3, 15, 2))
    store.unify(store.product([ten, three]), store.product([fifteen, two]))
    store.settle()
    assert [store.size(r) for r in store.factors(ten)] == [5, 2]
    assert [bounds(store).get(r >> 1, TOP) for r in store.factors(ten)] == [TOP, RIGID]
    assert bounds(store)[three >> 1] == bounds(store)[two >> 1] == RIGID


def test_unequal_sizes_are_rigid_with_a_reason() -> None:
    store = Store()
    a, b = store.new(2), store.new(3)
    store.because("add", "sum")
    store.unify(a, b)
    assert reasons(store, a) == reasons(store, b) == {("add", "sum", "the sizes differ")}
    assert bounds(store) == {a >> 1: RIGID, b >> 1: RIGID}


# -- bounds ----------------------------------------------------------------------------------------------------------


@given(st.permutations([SymmetryClass.ORTHOGONAL, SymmetryClass.SEMI_PERMUTATION, SymmetryClass.MONOMIAL]))
def test_bounds_meet_in_any_order_before_and_after_cuts(classes: list[SymmetryClass]) -> None:
    store = Store()
    whole, left, right = store.new(6), store.new(2), store.new(4)
    store.bound(whole, down(classes[0]))
    store.unify(whole, store.concat([left, right]))
    store.bound(left, down(classes[1]))
    store.bound(whole, down(classes[2]))
    found = bounds(store)
    assert found[store.find(left) >> 1] == down(classes[0]) & down(classes[1]) & down(classes[2])
    assert found[store.find(right) >> 1] == down(classes[0]) & down(classes[2])


# -- align -----------------------------------------------------------------------------------------------------------


def test_align_shares_structure_and_not_identity() -> None:
    store = Store()
    a, b = store.product([store.new(4), store.new(3)]), store.product([store.new(2), store.new(6)])
    pairs = store.align(a, b)
    assert [[store.size(x) for x in store.leaves(r)] for r in (a, b)] == [[2, 2, 3], [2, 2, 3]]
    assert pairs == list(zip(store.leaves(a), store.leaves(b), strict=True))
    assert not set(store.leaves(a)) & set(store.leaves(b))


@pytest.mark.parametrize(("start", "stop", "sizes"), [(0, 5, [2, 3]), (2, 5, [3]), (1, 4, [1, 2]), (4, 5, [1])])
def test_narrow_is_the_part_between(start: int, stop: int, sizes: list[int]) -> None:
    store = Store()
    part = store.narrow(store.concat([store.new(2), store.new(3)]), start, stop)
    assert [store.size(r) for r in store.leaves(part)] == sizes


def test_an_axis_in_a_thousand_parts() -> None:
    store = Store()
    axes = [store.new(3), store.new(3000)]
    shapes = tuple((3, 2) for _ in range(1500))
    results = TRANSFORMERS["split"](store, Call((tuple(axes),), {"dim": 1}, shapes))
    assert [r for r in store.leaves(axes[1])] == [store.find(r[1]) for r in results]


def test_runs_of_single_positions_are_made_to_one_part_once() -> None:
    """Cuts end when none is new: an axis that is looked at again is the same axis, and no node is new."""
    store = Store()
    axis = store.concat([store.new(1), store.new(1), store.new(4)])
    runs = InRuns(store)
    found = runs.axis(axis)
    count = store.count
    assert [store.size(part) for part in store.parts(found)] == [2, 4]
    assert runs.axis(axis) == found
    assert store.count == count
    plain = store.concat([store.new(1), store.new(4)])
    assert runs.axis(plain) == plain
