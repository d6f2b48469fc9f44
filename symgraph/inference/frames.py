"""From equations to frames: products are cut at common places, and what unification made equal is one frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import dropwhile, groupby
from math import prod

from symgraph.groups.lattice import RIGID, TOP, Bound, SymmetryClass
from symgraph.inference.applied import Relation
from symgraph.inference.axis_nodes import Shape
from symgraph.inference.blocks import Block, ref_blocks
from symgraph.inference.claims import Evidence, Ref
from symgraph.inference.draft import Draft
from symgraph.inference.equations import Equations
from symgraph.inference.store import Store
from symgraph.inference.structural import Axes
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, joined, reordered

# More positions than patches have that are merged.
FEW = 16


def find_frames(equations: Equations) -> Draft:
    """Frames in the order of the program, with the terms that every value is made of."""
    eq, relations, links = _cut_alike(equations)
    values = {name: tuple(tuple(map(eq.store.find, axes)) for axes in own) for name, own in eq.values.items()}
    # Most values are on axes that others are on as well.
    blocks_of = cache(partial(_blocks, eq.store))
    blocks = {name: blocks_of(results) for name, results in values.items()}
    bounds, evidence = _claimed(eq.store)
    nodes = dict.fromkeys(ref >> 1 for several in blocks.values() for block in several for ref in block)
    multiplied = (eq.store.find(ref) for relation in relations for ref in relation.refs)
    nodes |= dict.fromkeys(ref >> 1 for ref in multiplied if eq.store.size(ref) > 1)
    frames = {node: frame for frame, node in enumerate(nodes)}
    self_dual = frozenset(frames[node] for node in eq.store.self_dual() if node in frames)
    reader = _Terms(eq.store, frames, self_dual)
    return Draft(
        eq,
        relations,
        links,
        frames,
        bounds,
        evidence,
        blocks,
        {node.target: reader.terms(eq.axes(node.name)) for node in eq.graph.state.values()},
        {name: reader.terms(results[0]) for name, results in values.items() if results},
        {name: results[0] if results else () for name, results in values.items()},
        self_dual,
    )


def _blocks(store: Store, results: tuple[Axes, ...]) -> tuple[Block, ...]:
    return tuple(block for axes in results for block in ref_blocks(store, axes))


def _cut_alike(given: Equations) -> tuple[Equations, tuple[Relation, ...], tuple[tuple[Ref, Ref], ...]]:
    """Products and links between leaves: axes that are multiplied are cut at the same places, until no cut is new."""
    eq, products = _with_cuts(given)
    store, relations, links = eq.store, list[Relation](), list[tuple[Ref, Ref]]()
    open_ = _undecided(given.store, store, [*products, *eq.links])
    store.forget_cuts(open_)
    for relation, refs in zip(eq.relations, products, strict=True):
        store.because(relation.node, relation.rule)
        powers = [power for _, power in relation.terms]
        for result, *factors in _side_by_side(store, refs, open_):
            terms = tuple(zip(factors, powers, strict=True))
            relations.append(replace(relation, result=result, terms=terms))
    for pair in eq.links:
        links += ((first, second) for first, second in _side_by_side(store, pair, open_))
    return eq, tuple(relations), tuple(links)


def _with_cuts(given: Equations) -> tuple[Equations, list[tuple[Ref, ...]]]:
    """The equations with axes that are multiplied cut alike, and the axes of each product, in runs.

    What was found to be single positions only after others were cut as it had been is cut first, and all begins anew:
    so the order of products says nothing.
    """
    found = set[int]()
    while True:
        eq = replace(given, store=given.store.copy())
        for node in sorted(found):
            eq.store.part(2 * node)
        _cut_positions(eq.store, {ref for product in eq.relations for ref in product.refs})
        known = found | _positions(eq, given.store)
        products = _cut(eq, given.store)
        found = known | _positions(eq, given.store)
        if found == known:
            return eq, products


def _cut(eq: Equations, given: Store) -> list[tuple[Ref, ...]]:
    """Cuts axes that are multiplied at the same places, until no cut is new; the axes of each product, in runs."""
    before, after, in_runs = (-1, -1), (0, 0), InRuns(eq.store)
    products = list[tuple[Ref, ...]]()
    while before != after:
        products = [tuple(map(in_runs.axis, relation.refs)) for relation in eq.relations]
        before, after = after, (sum(_align(eq.store, refs) for refs in (*products, *eq.links)), eq.store.moves)
        eq.store.settle()
        _take_apart(given, eq.store)
    return products


def _positions(eq: Equations, given: Store) -> set[int]:
    """Parts and factors of axes that are multiplied which were free before, and are single positions now."""
    store, refs = eq.store, [ref for relation in eq.relations for ref in relation.refs]
    inside = {node for ref in refs for node in [*store.nodes(ref)][1:] if node < given.count}
    free = {node for node in inside if given.size(2 * node) > 1 and given.children(2 * node) is None}
    return {node for node in free if all(store.size(leaf) == 1 for leaf in store.leaves(2 * node))}


def _undecided(given: Store, store: Store, products: list[tuple[Ref, ...]]) -> frozenset[int]:
    """Nodes whose cuts one product alone has made, where another one would have made others that do not go with them.

    What came first has won. So all products that such an axis stands in are as those that cannot be cut alike.
    """
    known = given.count
    nodes = [{n for ref in refs for n in store.nodes(ref) if n < known} for refs in products]
    taken = [{n for n in several if given.children(2 * n) is None and store.children(2 * n)} for several in nodes]
    found, before = set[int](), -1
    while before != (before := len(found)):
        for refs, several in zip(products, taken, strict=True):
            if _columns(store, refs) is None or several & found:
                found |= several
    return frozenset(found)


def _take_apart(given: Store, store: Store) -> None:
    """Gives axes that products alone have cut parts of their own, also where what was a factor has parts now."""
    for node in range(given.count):
        if given.children(2 * node) is None and store.children(2 * node) is not None:
            _take_products_apart(store, store.find(2 * node))


def _take_products_apart(store: Store, axis: Ref) -> None:
    shape = store.children(axis)
    if shape is not None and shape[0] is Shape.PRODUCT and len(store.parts(axis)) > 1:
        for own, part in store.take_apart(axis):
            store.align(own, part)
        shape = store.children(axis)
    for child in shape[1] if shape is not None else ():
        _take_products_apart(store, child)


def _align(store: Store, refs: tuple[Ref, ...]) -> int:
    """Cuts axes that are multiplied at the same places; how many leaves they have then, single positions among them.

    What the last of them cut is carried back to those before it.
    """
    first, *others = refs
    for other in (*others, *others[:-1]):
        store.align(first, other)
    return sum(1 for ref in refs for _ in store.leaves(ref))


@dataclass
class InRuns:
    """Axes with each run of single positions as one part, which nothing moves: each may have a factor of its own."""

    store: Store
    # What an axis of these parts was made to: the same again, so that it is cut as before and no cut is new for ever.
    made: dict[tuple[Ref, ...], Ref] = field(default_factory=dict)

    def axis(self, ref: Ref) -> Ref:
        """The axis in runs, itself if it has none of several positions."""
        parts = self.store.parts(ref)
        runs = [(single, list(several)) for single, several in groupby(parts, lambda p: self.store.size(p) == 1)]
        if not any(single and len(several) > 1 for single, several in runs):
            return ref
        if (*parts,) not in self.made:
            self.store.because("", "positions", "nothing moves them")
            whole = [
                [self.store.fresh_rigid(len(several))] if single and len(several) > 1 else several
                for single, several in runs
            ]
            self.made[*parts,] = self.store.concat([part for several in whole for part in several])
        return self.made[*parts,]


def _cut_positions(store: Store, axes: set[Ref]) -> None:
    """A few positions that nothing moves, in front of other factors of an axis, are parts of it, each with its own.

    So what multiplies merged patches may differ from one to the next.
    """
    fixed = {leaf >> 1 for claim in store.claims if claim.bound == RIGID for leaf in store.leaves(claim.ref)}
    for axis in sorted(axes):
        factors = store.factors(axis)
        inner = list(dropwhile(lambda f: f >> 1 in fixed, factors))
        outer = factors[: len(factors) - len(inner)]
        if inner and outer and prod(map(store.size, outer)) <= FEW:
            for factor in outer:
                store.part(factor)


def _side_by_side(store: Store, refs: tuple[Ref, ...], undecided: frozenset[int]) -> Iterator[tuple[Ref, ...]]:
    """The leaves of several axes, those of the first part of each before those of the next.

    A factor that several parts share appears in each of them. Axes that cannot be cut alike become rigid.
    """
    columns = _columns(store, refs)
    if columns is not None and not any(node in undecided for ref in refs for node in store.nodes(ref)):
        yield from zip(*columns, strict=True)
        return
    for ref in refs:
        store.rigid(ref, "the products have no common refinement")


def _columns(store: Store, refs: tuple[Ref, ...]) -> list[list[Ref]] | None:
    """The leaves of each axis, part by part; None where those of two axes have other sizes."""
    columns = [[leaf for part in store.parts(ref) for leaf in store.leaves(part)] for ref in refs]
    return columns if len({tuple(map(store.size, column)) for column in columns}) == 1 else None


def _claimed(store: Store) -> tuple[dict[int, Bound], dict[int, tuple[tuple[Bound, Evidence], ...]]]:
    """What each leaf admits after all claims, and the claims about it."""
    bounds: dict[int, Bound] = {}
    evidence: dict[int, list[tuple[Bound, Evidence]]] = defaultdict(list)
    for claim in store.claims:
        leaves = tuple(store.leaves(claim.ref))
        # What a class without permutations does to an axis of several parts is nothing that the parts do alone.
        bound = RIGID if len(leaves) > 1 and SymmetryClass.PERMUTATION not in claim.bound else claim.bound
        for leaf in leaves:
            bounds[leaf >> 1] = bounds.get(leaf >> 1, TOP) & bound
            evidence[leaf >> 1].append((bound, claim.evidence))
    return bounds, {node: tuple(claims) for node, claims in evidence.items()}


class _Terms:
    """Terms of axes before absorption; leaves know their frame and their parity within it, not yet their space."""

    def __init__(self, store: Store, frames: Mapping[int, int], self_dual: frozenset[int]) -> None:
        self.store, self.frames, self.self_dual = store, frames, self_dual
        self._known: dict[Ref, Term] = {}

    def terms(self, axes: tuple[Ref, ...]) -> tuple[Term, ...]:
        return tuple(self._term(self.store.find(ref)) for ref in axes)

    def _term(self, ref: Ref) -> Term:
        if ref not in self._known:
            self._known[ref] = self._made(ref)
        return self._known[ref]

    def _made(self, ref: Ref) -> Term:
        shape = self.store.children(ref)
        if shape is None:
            return self._leaf(ref)
        if shape[0] is Shape.MOVED:
            (inner,) = self.terms(shape[1])
            return reordered(inner, self.store.order(ref))
        if all(self.store.size(leaf) == 1 for leaf in self.store.leaves(ref)):
            return joined([Leaf(-1, -1, False, 1)] * self.store.size(ref))
        children = self.terms(tuple(c for c in shape[1] if self.store.size(c) != 1 or shape[0] is Shape.CONCAT))
        # In which order an axis was cut says nothing: what is nested within its like is spread out.
        if shape[0] is Shape.PRODUCT:
            nested = (term.factors if isinstance(term, Product) else (term,) for term in children)
            return _multiplied_out(tuple(factor for factors in nested for factor in factors))
        return joined(children)

    def _leaf(self, ref: Ref) -> Leaf:
        frame = self.frames.get(ref >> 1, -1)
        dual = bool(ref & 1) and frame >= 0 and frame not in self.self_dual
        return Leaf(-1, frame, dual, self.store.size(ref))


def _multiplied_out(factors: tuple[Term, ...]) -> Term:
    """A product, as parts side by side where its first factor is: positions, each of several parts in its own way."""
    first, *others = factors
    if not others or not isinstance(first, Concat) or first.order:
        return Product(factors) if others else first
    return joined([_within(part, tuple(others)) for part in first.parts])


def _within(part: Term, others: tuple[Term, ...]) -> Term:
    """One part times the other factors; a single position has these alone."""
    outer = part.factors if isinstance(part, Product) else (part,)
    if part.size == 1:
        return others[0] if len(others) == 1 else _multiplied_out(others)
    return Product((*outer, *others))
