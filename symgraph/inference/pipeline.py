"""`infer`: graph + rules -> SymmetryGraph, as one readable pipeline."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace

from symgraph.groups.lattice import RIGID, SymmetryClass
from symgraph.inference.between import find_between
from symgraph.inference.branches import Branches, find_branches
from symgraph.inference.collect import collect
from symgraph.inference.exchange import Exchange, exchange, joined
from symgraph.inference.fibres import fibres
from symgraph.inference.names import Unnamed, name_spaces
from symgraph.inference.pairs import find_pairs
from symgraph.inference.resolve import Draft, SpaceDraft, draft, spaces, tie
from symgraph.inference.shifts import find_families
from symgraph.inference.uncovered import uncovered
from symgraph.ir import Graph, Kind
from symgraph.rules.book import RuleBook, default_rules
from symgraph.rules.rewrite import rewrite
from symgraph.symmetry.coverage import coverage_error
from symgraph.symmetry.families import Paired
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import AbsorbedGain, Frame, Reason, Space, Stack, Uncovered
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, leaves
from symgraph.tracing.decompose import expand
from symgraph.tracing.unstack import without_stacks

MAX_REASONS = 12


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: all that is made here is kept, and going through it again and again is quadratic."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()
def infer(
    graph: Graph, rules: RuleBook | None = None, *, strict: bool = False, order: Iterable[int] | None = None
) -> SymmetryGraph:
    """Infers the symmetry class of every axis of every parameter.

    Args:
        graph: a traced model.
        rules: the rule book; the shipped rules by default.
        strict: raise if an operator has no rule, instead of treating its axes as rigid.
        order: a permutation of the nodes, for testing that the order of equations cannot matter.

    Raises:
        CoverageError: with `strict`, naming every uncovered operator, its place and the rule to write.
    """
    book = rules or default_rules()
    prepared = prepare(graph, book)
    numbers = list(order) if order is not None else None
    branches = find_branches(prepared)
    while True:
        d = draft(collect(prepared, book, numbers, branches))
        pairs, d.between = find_pairs(d), find_between(d)
        tie(d)
        drafts = spaces(d)
        changed = _exchanges(d, drafts, branches)
        # Where branches cannot change places after all, nothing may have been inferred from that they could.
        kept = [b for b, e in zip(branches, changed, strict=True) if e is not None]
        if len(kept) == len(branches):
            break
        branches = kept
    missing = uncovered(d)
    if strict and missing:
        raise coverage_error(missing)
    return _build(graph, d, drafts, [e for e in changed if e is not None], pairs, missing, book)


def _exchanges(d: Draft, drafts: list[SpaceDraft], branches: list[Branches]) -> list[Exchange | None]:
    if not branches:
        return []
    space_of = {m: i for i, s in enumerate(drafts) for m in s.members}
    terms = _resolved(d, d.terms, space_of, _orientation(d, space_of))
    return [exchange(d, drafts, space_of, terms, i, b) for i, b in enumerate(branches)]


def _resolved(
    d: Draft, terms: Mapping[str, tuple[Term, ...]], space_of: dict[int, int], flips: dict[int, bool]
) -> dict[str, tuple[Term, ...]]:
    return {name: tuple(_resolve(t, d, space_of, flips) for t in axes) for name, axes in terms.items()}


def prepare(graph: Graph, book: RuleBook) -> Graph:
    """Pattern rules applied, uncovered operators decomposed where torch knows how."""
    rewritten = rewrite(without_stacks(graph), book.patterns)
    expanded = expand(rewritten, book.covers)
    # What was taken apart may hold idioms of its own: attention in a kernel that no rule speaks about.
    again = expanded if expanded is rewritten else rewrite(expanded, book.patterns)
    parts = ((node, book.split(node, again) if node.kind is Kind.CALL else None) for node in again.nodes)
    return replace(again, nodes=tuple(n for node, found in parts for n in found or (node,)))


def _build(
    graph: Graph,
    d: Draft,
    drafts: list[SpaceDraft],
    exchanges: list[Exchange],
    pairs: list[Paired],
    missing: tuple[Uncovered, ...],
    book: RuleBook,
) -> SymmetryGraph:
    space_of = {m: i for i, s in enumerate(drafts) for m in s.members}
    drafts = joined(drafts, exchanges, space_of)
    flips = _orientation(d, space_of)
    terms = _resolved(d, d.terms, space_of, flips)
    in_terms = {x.space for axes in terms.values() for t in axes for x in leaves(t) if x.space >= 0}
    used = sorted(in_terms | {e.space for e in exchanges})
    number = {old: new for new, old in enumerate(used)}
    fibre = _fibres(d, drafts, space_of, exchanges, number)
    names = name_spaces(_unnamed(d, drafts, used, terms, space_of, fibre, exchanges))
    layouts = {d.root(ref): text for ref, text in d.eq.layouts}
    found = tuple(
        _space(d, drafts[i], number[i], name, tuple(fibre[i]), layouts) for i, name in zip(used, names, strict=True)
    )
    values = {n: axes for n, axes in _resolved(d, d.values, space_of, flips).items() if n in d.eq.graph.by_name}
    families = find_families(d, graph)
    return SymmetryGraph(
        graph,
        found,
        _frames(d, drafts, space_of, number, flips),
        _renumbered(terms, number),
        tuple(AbsorbedGain(g.parameter, g.frame, g.flip, g.forward) for g in d.gains),
        values=_renumbered(values, number),
        offsets=dict(d.eq.offsets),
        uncovered=missing,
        notes=tuple(book.notes),
        rules_hash=book.hash,
        paired=tuple(pairs),
        stacks=tuple(Stack(number[e.space], n) for e in exchanges for n in e.branches.tensors(d.eq.graph)),
        partial=tuple(dict.fromkeys(n for e in exchanges for n in e.branches.partial)),
        twins=tuple(Stack(number[e.space], row) for e in exchanges for row in e.branches.rows),
        **{f.name: getattr(families, f.name) for f in fields(families)},
    )


def _fibres(
    d: Draft, drafts: list[SpaceDraft], space_of: dict[int, int], exchanges: list[Exchange], number: dict[int, int]
) -> dict[int, list[int]]:
    """For every space that is kept the numbers of the spaces in its fibre, branches before all others."""
    fibre = fibres(d, drafts, space_of)
    for e in exchanges:
        fibre |= {spaces[0]: (e.space, *fibre[spaces[0]]) for spaces in e.own if drafts[spaces[0]].bound != RIGID}
    return {i: [number[f] for f in fibre[i] if f in number] for i in number}


def _renumbered(terms: Mapping[str, tuple[Term, ...]], number: dict[int, int]) -> dict[str, tuple[Term, ...]]:
    return {name: tuple(_renumber(t, number) for t in axes) for name, axes in terms.items()}


def _orientation(d: Draft, space_of: dict[int, int]) -> dict[int, bool]:
    """Per root: whether the space's covariant direction is the root's dual (decided by its first value)."""
    flips: dict[int, bool] = {}
    parameters = {n.name for n in d.eq.graph.state.values()}
    for keep in (False, True):
        for name, blocks in d.blocks.items():
            if (name in parameters) == keep:
                for block in blocks:
                    for ref in block:
                        found = d.eq.store.find(ref)
                        if d.frames[ref >> 1] not in d.self_dual:
                            flips.setdefault(found >> 1, bool(found & 1))
    return defaultdict(bool, flips)


def _resolve(term: Term, d: Draft, space_of: dict[int, int], flips: dict[int, bool]) -> Term:
    if isinstance(term, Product):
        return Product(tuple(_resolve(f, d, space_of, flips) for f in term.factors))
    if isinstance(term, Concat):
        return Concat(tuple(_resolve(p, d, space_of, flips) for p in term.parts))
    if term.frame < 0:
        return term
    found = d.eq.store.find(2 * d.nodes[term.frame] + term.dual)
    root = found >> 1
    dual = bool(found & 1) != flips[root] and term.frame not in d.self_dual
    return Leaf(space_of[root], term.frame, dual, term.size)


def _renumber(term: Term, number: dict[int, int]) -> Term:
    if isinstance(term, Product):
        return Product(tuple(_renumber(f, number) for f in term.factors))
    if isinstance(term, Concat):
        return Concat(tuple(_renumber(p, number) for p in term.parts))
    return Leaf(number.get(term.space, -1), term.frame, term.dual, term.size)


def _frames(
    d: Draft, drafts: list[SpaceDraft], space_of: dict[int, int], number: dict[int, int], flips: dict[int, bool]
) -> tuple[Frame, ...]:
    result = []
    for node, frame in d.frames.items():
        found = d.eq.store.find(2 * node)
        root = found >> 1
        i = space_of[root]
        sign = -1 if flips[root] else 1
        scale = tuple(sign * e for e in drafts[i].scales[root])
        flip = bool(found & 1) != flips[root] and frame not in d.self_dual
        result.append(Frame(frame, number.get(i, -1), flip, scale, drafts[i].signs[root]))
    return tuple(result)


def _unnamed(
    d: Draft,
    drafts: list[SpaceDraft],
    used: list[int],
    terms: dict[str, tuple[Term, ...]],
    space_of: dict[int, int],
    fibre: dict[int, list[int]],
    exchanges: list[Exchange],
) -> list[Unnamed]:
    owners: dict[int, dict[str, int]] = {i: {} for i in used}
    for name, axes in terms.items():
        for axis, term in enumerate(axes):
            for leaf in leaves(term):
                if leaf.space >= 0:
                    owners[leaf.space].setdefault(name, axis)
    for e in exchanges:
        owners[e.space] |= {name: 0 for names in e.branches.tensors(d.eq.graph) for name in names}
    labels: dict[int, str] = {e.space: "branches" for e in exchanges}
    for ref, text, _ in d.eq.labels:
        for x in d.eq.store.leaves(ref):
            labels.setdefault(space_of.get(d.root(x), -1), text)
    summed = {space_of.get(d.root(x), -1) for ref in d.eq.sums for x in d.eq.store.leaves(ref)}
    return [
        Unnamed(
            tuple(owners[i]),
            labels.get(i, ""),
            i in summed,
            drafts[i].group is SymmetryClass.IDENTITY,
            next(iter(owners[i].values())),
            tuple(fibre[i]),
        )
        for i in used
    ]


def _space(d: Draft, s: SpaceDraft, number: int, name: str, fibre: tuple[int, ...], layouts: dict[int, str]) -> Space:
    layout = next((layouts[m] for m in s.members if m in layouts), "")
    width = [len(next(iter(x.values()))) for x in (s.scales, s.signs)]
    size = d.eq.store.size(2 * s.members[0])
    return Space(number, name, size, s.group, s.bound, fibre, width[0], width[1], layout, _reasons(d, s))


def _reasons(d: Draft, s: SpaceDraft) -> tuple[Reason, ...]:
    """The evidence for a space, most restrictive first, one line for each (rule, bound)."""
    found: dict[tuple[str, frozenset[SymmetryClass], str], Reason] = {}
    for m in s.members:
        for bound, why in d.evidence[m]:
            if SymmetryClass.INVERTIBLE in bound:
                continue
            where = d.eq.graph.by_name[why.node].where if why.node in d.eq.graph.by_name else why.node
            found.setdefault((why.rule, bound, why.reason), Reason(bound, why.rule, where, why.reason))
    return tuple(sorted(found.values(), key=lambda r: (len(r.bound), r.rule)))[:MAX_REASONS]
