"""From equations to spaces: pointwise products, absorption of gains, scales, fibres.

Order matters nowhere: every stage is a function of the set of equations, not of their sequence.

1. Relations of pointwise products are cut at common places (`align`), leaf by leaf.
2. Frames are the classes of leaves that unification made equal. A *gain* is a parameter that multiplies one frame into
   another. If the frame after it is only ever read linearly, the gain can be absorbed into its readers; if the frame
   before it is only ever written linearly, into its writers. In the gauge where the gain is one, both frames are the
   same space (design section 6). Otherwise the product ties the frames by a common permutation.
3. Scales and signs of tied frames are solved for by `scales`.
4. The fibre of a space is what stands beside it wherever it occurs, in parameters and in values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from symgraph.groups.lattice import RIGID, TOP, Bound, SymmetryClass, down, group_of
from symgraph.inference.blocks import Block, ref_blocks
from symgraph.inference.equations import Equations
from symgraph.inference.scales import Equation, binary_basis, integer_basis
from symgraph.inference.store import Evidence, Ref, Shape, Store
from symgraph.ir import Kind
from symgraph.symmetry.terms import Concat, Leaf, Product, Term

C = SymmetryClass
MONOMIAL: Bound = down(C.MONOMIAL, C.SEMI_PERMUTATION)
MATRIX = frozenset({C.ORTHOGONAL, C.ORTHOGONAL_ONES, C.INVERTIBLE, C.ROTARY})


@dataclass(frozen=True, slots=True)
class LeafRelation:
    """element(result) = product of element(term) ** power, on one leaf."""

    result: Ref
    terms: tuple[tuple[Ref, int], ...]
    node: str
    rule: str


@dataclass(frozen=True, slots=True)
class Gain:
    """A parameter that multiplies frame `before` into frame `after`, absorbed into the readers or the writers.

    `flip` says that the value it multiplies has the frame's dual orientation.
    """

    parameter: str
    frame: int
    flip: bool
    forward: bool
    nodes: tuple[str, ...]


@dataclass
class Draft:
    """Spaces while they are being made; `frames` holds one reference per frame, as it was before absorption.

    `between` has, for a gain that stays, the frames before and after it where it alone ties them to permutations.
    """

    eq: Equations
    relations: list[LeafRelation] = field(default_factory=list)
    links: list[tuple[Ref, Ref]] = field(default_factory=list)
    frames: dict[int, int] = field(default_factory=dict)
    gains: list[Gain] = field(default_factory=list)
    merged: dict[int, list[int]] = field(default_factory=dict)
    uses: _Uses | None = None
    evidence: dict[int, list[tuple[Bound, Evidence]]] = field(default_factory=lambda: defaultdict(list))
    bounds: dict[int, Bound] = field(default_factory=dict)
    blocks: dict[str, list[Block]] = field(default_factory=dict)
    terms: dict[str, tuple[Term, ...]] = field(default_factory=dict)
    values: dict[str, tuple[Term, ...]] = field(default_factory=dict)
    found: dict[str, Block] = field(default_factory=dict)
    inside: dict[str, tuple[Block, ...]] = field(default_factory=dict)
    self_dual: frozenset[int] = frozenset()
    between: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    @cached_property
    def nodes(self) -> dict[int, int]:
        """Node of every frame."""
        return {frame: node for node, frame in self.frames.items()}

    def root(self, ref: Ref) -> int:
        """Node that stands for the space of `ref`."""
        return self.eq.store.find(ref) >> 1

    def bound_of(self, ref: Ref) -> Bound:
        """Class admitted by every rule that touched the space of `ref`."""
        return self.bounds.get(self.root(ref), TOP)


def draft(eq: Equations) -> Draft:
    """Runs stages 1 and 2; `tie` ends the second."""
    d = Draft(eq)
    _align(d)
    for name, results in eq.values.items():
        d.blocks[name] = [b for axes in results for b in ref_blocks(eq.store, axes)]
        d.found[name] = tuple(eq.store.find(r) for r in results[0]) if results else ()
        d.inside[name] = tuple(tuple(eq.store.leaves(r)) for r in results[0]) if results else ()
    _collect_bounds(d)
    for blocks in d.blocks.values():
        for block in blocks:
            for ref in block:
                d.frames.setdefault(ref >> 1, len(d.frames))
    d.self_dual = frozenset(d.frames[n] for n in eq.store.self_dual() if n in d.frames)
    for node in eq.graph.state.values():
        d.terms[node.target] = tuple(_term(d, ref) for ref in eq.axes(node.name))
    d.values = {name: tuple(_term(d, ref) for ref in results[0]) for name, results in eq.values.items() if results}
    while _absorb_round(d):
        pass
    d.uses = _uses(d)
    return d


def tie(d: Draft) -> None:
    """What was not absorbed keeps permutations, signs and scales only."""
    for r in d.relations:
        for ref in (r.result, *(t for t, _ in r.terms)):
            node = d.root(ref)
            d.bounds[node] = d.bounds.get(node, TOP) & MONOMIAL
            d.evidence[node].append((MONOMIAL, Evidence(r.node, r.rule, "multiplied entry by entry")))


def _align(d: Draft) -> None:
    store = d.eq.store
    pairs = [(r.result, t) for r in d.eq.relations for t, _ in r.terms] + d.eq.links
    before = -1
    while before != (before := sum(len(store.align(a, b)) for a, b in pairs)):
        pass
    for r in d.eq.relations:
        store.because(r.node, r.rule)
        for row in _side_by_side(store, (r.result, *(t for t, _ in r.terms))):
            terms = tuple((ref, power) for ref, (_, power) in zip(row[1:], r.terms, strict=True))
            d.relations.append(LeafRelation(row[0], terms, r.node, r.rule))
    for pair in d.eq.links:
        d.links.extend((a, b) for a, b in _side_by_side(store, pair))


def _side_by_side(store: Store, refs: tuple[Ref, ...]) -> Iterator[tuple[Ref, ...]]:
    """The leaves of several axes, those of the first part of each before those of the next.

    A factor that several parts share appears in each of them. Axes that cannot be cut alike become rigid.
    """
    columns = [[x for part in store.parts(ref) for x in store.leaves(part)] for ref in refs]
    if len({tuple(map(store.size, c)) for c in columns}) == 1:
        yield from zip(*columns, strict=True)
        return
    for ref in refs:
        store.rigid(ref, "the products have no common refinement")


def _collect_bounds(d: Draft) -> None:
    for claim in d.eq.store.claims:
        for leaf in d.eq.store.leaves(claim.ref):
            node = leaf >> 1
            d.bounds[node] = d.bounds.get(node, TOP) & claim.bound
            d.evidence[node].append((claim.bound, claim.evidence))


# -- absorption ------------------------------------------------------------------------------------------------


@dataclass
class _Uses:
    """Where frames occur, by root node.

    `sources` are the parameters whose structural views carry the frame, with None for any other value; `weights` are
    the frames on a parameter that is more than a bias.
    """

    sources: dict[int, set[str | None]] = field(default_factory=lambda: defaultdict(set))
    weights: set[int] = field(default_factory=set)
    relations: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))


def _uses(d: Draft) -> _Uses:
    uses, pure = _Uses(), _pure(d)
    parameters = {n.name for n in d.eq.graph.parameters.values()}
    for name, blocks in d.blocks.items():
        for block in blocks:
            for ref in block:
                uses.sources[d.root(ref)].add(pure.get(name))
                if len(block) > 1 and name in parameters:
                    uses.weights.add(d.root(ref))
    for i, r in enumerate(d.relations):
        for ref in (r.result, *(t for t, _ in r.terms)):
            uses.relations[d.root(ref)].append(i)
    return uses


def _pure(d: Draft) -> dict[str, str]:
    """Values that are a parameter, or a structural view of one: value name -> parameter's value name."""
    pure = {n.name: n.name for n in d.eq.graph.nodes if n.kind is Kind.PARAMETER}
    for a in d.eq.applied:
        sources = {pure.get(r) for r in a.node.refs()}
        moves = a.node.name in d.eq.shifted or (a.rule is not None and a.rule.structure)
        if moves and len(sources) == 1 and (source := sources.pop()):
            pure[a.node.name] = source
    return pure


def _absorb_round(d: Draft) -> bool:
    """Absorbs every gain that can be at this point; whether there was any."""
    uses = _uses(d)
    by_gain: dict[int, list[tuple[int, Ref, Ref]]] = defaultdict(list)
    for i, r in enumerate(d.relations):
        if len(r.terms) != 2 or any(p != 1 for _, p in r.terms):
            continue
        for (a, _), (b, _) in (r.terms, r.terms[::-1]):
            if _is_gain(d, a, uses):
                by_gain[d.root(a)].append((i, r.result, b))
                break
    chosen = []
    for root, sites in by_gain.items():
        if set(uses.relations[root]) != {i for i, _, _ in sites}:
            continue
        for forward in (True, False):
            if _absorbable(d, sites, uses, forward):
                chosen.append((root, sites, forward))
                break
    taken: set[int] = set()
    for root, sites, forward in chosen:
        _absorb(d, root, sites, forward, uses)
        taken.update(i for i, _, _ in sites)
    d.relations = [r for i, r in enumerate(d.relations) if i not in taken]
    return bool(chosen)


def gain_parameter(d: Draft, ref: Ref) -> str | None:
    """The parameter of one axis that a factor is, if it is nothing else, before factors are tied."""
    uses = d.uses or _uses(d)
    if not _is_gain(d, ref, uses):
        return None
    return d.eq.graph.by_name[next(iter(uses.sources[d.root(ref)])) or ""].target


def _is_gain(d: Draft, ref: Ref, uses: _Uses) -> bool:
    sources = uses.sources[d.root(ref)]
    if len(sources) != 1 or d.bound_of(ref) != TOP:
        return False
    source = next(iter(sources))
    if source is None or [len(b) for b in d.blocks[source]] != [1]:
        return False
    # A vector that repeats the frame beside single positions has several gains on it.
    return prod(d.eq.graph.by_name[source].shape) == d.eq.store.size(ref)


def _absorbable(d: Draft, sites: list[tuple[int, Ref, Ref]], uses: _Uses, forward: bool) -> bool:
    free = {d.root(c if forward else b) for _, c, b in sites}
    fixed = {d.root(b if forward else c) for _, c, b in sites}
    turns = {(r >> 1, r & 1) for _, c, b in sites for r in (c if forward else b,)}
    if free & fixed or len({node for node, _ in turns}) < len(turns):
        return False
    mine = {i for i, _, _ in sites}
    return all(d.bounds.get(f, TOP) == TOP and set(uses.relations[f]) <= mine and f in uses.weights for f in free)


def _absorb(d: Draft, root: int, sites: list[tuple[int, Ref, Ref]], forward: bool, uses: _Uses) -> None:
    source = next(iter(uses.sources[root]))
    parameter = d.eq.graph.by_name[source or ""].target
    nodes = tuple(d.relations[i].node for i, _, _ in sites)
    for frame, flip in sorted({x for _, c, b in sites for x in merged(d, c if forward else b)}):
        d.gains.append(Gain(parameter, frame, flip, forward, nodes))
    d.bounds[root] = RIGID
    d.evidence[root].append((RIGID, Evidence(nodes[0], "absorption", "a gain that is one in the canonical gauge")))
    for _, c, b in sites:
        rc, rb = d.root(c), d.root(b)
        if rc == rb:
            continue
        d.eq.store.unify(c, b)
        keep = d.root(c)
        _join(d, keep, rb if keep == rc else rc)
        d.bounds[keep] = d.bounds.get(rc, TOP) & d.bounds.get(rb, TOP)
        for old in (rc, rb):
            if old != keep:
                d.evidence[keep].extend(d.evidence[old])
                d.evidence[old] = []


def _join(d: Draft, keep: int, gone: int) -> None:
    """Notes that the frames of one root are those of another now; the longer list is the one that grows."""
    short, long = sorted((d.merged.pop(r, [r]) for r in (keep, gone)), key=len)
    long.extend(short)
    d.merged[keep] = long


def merged(d: Draft, ref: Ref) -> Iterator[tuple[int, bool]]:
    """Every frame that gains absorbed before have made one with that of `ref`, and whether it is its dual."""
    found = d.eq.store.find(ref)
    for node in d.merged.get(found >> 1, [found >> 1]):
        yield d.frames[node], bool((d.eq.store.find(2 * node) ^ found) & 1)


# -- spaces ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpaceDraft:
    """One space: its member roots, joint bound, and scale/sign exponents per member root."""

    members: tuple[int, ...]
    bound: Bound
    group: SymmetryClass
    scales: dict[int, tuple[int, ...]]
    signs: dict[int, tuple[int, ...]]


def spaces(d: Draft) -> list[SpaceDraft]:
    """Stage 3: groups of frames with one permutation, in order of first occurrence in the program."""
    leader: dict[int, int] = {}

    def find(x: int) -> int:
        while leader.setdefault(x, x) != x:
            x = leader[x]
        return x

    for r in d.relations:
        for ref, _ in r.terms:
            leader[find(d.root(ref))] = find(d.root(r.result))
    for a, b in d.links:
        leader[find(d.root(a))] = find(d.root(b))
    members: dict[int, list[int]] = {}
    for node in d.frames:
        root = d.root(2 * node)
        group = members.setdefault(find(root), [])
        if root not in group:
            group.append(root)
    grouped: dict[int, list[LeafRelation]] = defaultdict(list)
    for r in d.relations:
        grouped[find(d.root(r.result))].append(r)
    return [_space(d, tuple(m), grouped[k]) for k, m in members.items()]


def _space(d: Draft, members: tuple[int, ...], relations: list[LeafRelation]) -> SpaceDraft:
    bounds = {m: d.bounds.get(m, TOP) for m in members}
    joint = TOP
    for b in bounds.values():
        joint &= b
    tied = len(members) > 1 or bool(relations)
    if joint == RIGID:
        return SpaceDraft(members, RIGID, C.IDENTITY, {m: () for m in members}, {m: () for m in members})
    if tied:
        joint = joint & MONOMIAL
    if C.PERMUTATION not in joint or (not tied and group_of(joint) in MATRIX):
        group = group_of(joint)
        return SpaceDraft(members, joint, group, {m: () for m in members}, {m: () for m in members})
    scales = _exponents(d, members, relations, [m for m in members if C.POSITIVE_MONOMIAL in bounds[m]], binary=False)
    signs = _exponents(d, members, relations, [m for m in members if C.SIGNED in bounds[m]], binary=True)
    top = {(1, 1): C.MONOMIAL, (1, 0): C.POSITIVE_MONOMIAL, (0, 1): C.SIGNED, (0, 0): C.PERMUTATION}
    group = top[(int(_width(scales) > 0), int(_width(signs) > 0))]
    bound = (joint & down(C.SEMI_PERMUTATION)) | down(group)
    return SpaceDraft(members, bound, group, scales, signs)


def _width(exponents: dict[int, tuple[int, ...]]) -> int:
    return len(next(iter(exponents.values())))


def _exponents(
    d: Draft, members: tuple[int, ...], relations: list[LeafRelation], free: list[int], *, binary: bool
) -> dict[int, tuple[int, ...]]:
    index = {m: i for i, m in enumerate(members)}
    equations: list[Equation] = [{index[m]: 1} for m in members if m not in free]
    for r in relations:
        e: Equation = defaultdict(int)
        for ref, power in ((r.result, -1), *r.terms):
            found = d.eq.store.find(ref)
            e[index[found >> 1]] += -power if found & 1 else power
        equations.append(dict(e))
    basis = (binary_basis if binary else integer_basis)(len(members), equations)
    return {m: tuple(v[index[m]] for v in basis) for m in members}


def _term(d: Draft, ref: Ref) -> Term:
    """Term of an axis before absorption; leaves know their frame and their parity within it, not yet their space."""
    store = d.eq.store
    shape = store.children(ref)
    if shape is None:
        found = store.find(ref)
        frame = d.frames.get(found >> 1, -1)
        return Leaf(-1, frame, bool(found & 1) and frame not in d.self_dual, store.size(ref))
    children = [_term(d, r) for r in shape[1] if store.size(r) != 1 or shape[0] is Shape.CONCAT]
    # In which order an axis was cut says nothing: what is nested within its like is spread out.
    if shape[0] is Shape.PRODUCT:
        return Product(tuple(f for c in children for f in (c.factors if isinstance(c, Product) else (c,))))
    return Concat(tuple(p for c in children for p in (c.parts if isinstance(c, Concat) else (c,))))
