"""The last stages: names for spaces, the families without one, and all of it as a symmetry graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.names import Unnamed, name_spaces
from symgraph.inference.shifts import find_families
from symgraph.inference.spaces import SpaceDraft, Spaces
from symgraph.inference.store import Ref
from symgraph.inference.uncovered import uncovered
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import AbsorbedGain, Frame, Reason, Space, Stack
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, leaves

MAX_REASONS = 12


def named(spaces: Spaces) -> Spaces:
    """The spaces with names that a person recognises."""
    return replace(spaces, names=tuple(name_spaces(_unnamed(spaces))))


def with_families(spaces: Spaces) -> Spaces:
    """The spaces with the symmetries that have none."""
    return replace(spaces, families=find_families(spaces.draft, spaces.draft.eq.prepared.traced))


def symmetry_graph(spaces: Spaces) -> SymmetryGraph:
    """What was found, with the spaces that no parameter touches left out and the others numbered."""
    draft, graph, book = spaces.draft, spaces.draft.eq.graph, spaces.draft.eq.prepared.book
    stacks, twins = [], []
    for exchange in spaces.exchanges:
        number = spaces.kept[exchange.space]
        stacks += [Stack(number, names) for names in exchange.branches.tensors(graph)]
        twins += [Stack(number, row) for row in exchange.branches.rows]
    return SymmetryGraph(
        draft.eq.prepared.traced,
        tuple(_spaces(spaces)),
        tuple(_frames(spaces)),
        _numbered(spaces.terms, spaces.kept),
        tuple(AbsorbedGain(gain.parameter, gain.frame, gain.flip, gain.forward) for gain in draft.gains),
        values=_numbered(spaces.values, spaces.kept),
        offsets=dict(draft.eq.offsets),
        uncovered=uncovered(draft),
        notes=tuple(book.notes),
        rules_hash=book.hash,
        paired=draft.paired,
        stacks=tuple(stacks),
        partial=tuple(dict.fromkeys(name for exchange in spaces.exchanges for name in exchange.branches.partial)),
        twins=tuple(twins),
        **{family.name: getattr(spaces.families, family.name) for family in fields(spaces.families)},
    )


# -- names -----------------------------------------------------------------------------------------------------------


def _unnamed(spaces: Spaces) -> list[Unnamed]:
    """What naming needs to know of every space that is kept."""
    owners, labels = _owners(spaces), _labels(spaces)
    summed = {place for axis in spaces.draft.eq.sums for place in _places(spaces, axis)}
    return [
        Unnamed(
            tuple(owners[place]),
            labels.get(place, ""),
            place in summed,
            spaces.drafts[place].group is SymmetryClass.IDENTITY,
            next(iter(owners[place].values())),
            _kept_fibre(spaces, place),
        )
        for place in spaces.kept
    ]


def _owners(spaces: Spaces) -> dict[int, dict[str, int]]:
    """The parameters and buffers of every space, each with the first of its axes there."""
    found: dict[int, dict[str, int]] = defaultdict(dict)
    for name, axes in spaces.terms.items():
        for axis, term in enumerate(axes):
            for leaf in leaves(term):
                found[leaf.space].setdefault(name, axis)
    for exchange in spaces.exchanges:
        tensors = exchange.branches.tensors(spaces.draft.eq.graph)
        found[exchange.space] |= {name: 0 for names in tensors for name in names}
    return found


def _labels(spaces: Spaces) -> dict[int, str]:
    """What rules call a space."""
    found = {exchange.space: "branches" for exchange in spaces.exchanges}
    for axis, text in spaces.draft.eq.labels:
        for place in _places(spaces, axis):
            found.setdefault(place, text)
    return found


def _places(spaces: Spaces, axis: Ref) -> Iterator[int]:
    """The spaces of an axis; -1 for a part that has none."""
    return (spaces.space_of.get(leaf >> 1, -1) for leaf in spaces.draft.eq.store.leaves(axis))


def _kept_fibre(spaces: Spaces, place: int) -> tuple[int, ...]:
    return tuple(spaces.kept[outer] for outer in spaces.fibres[place] if outer in spaces.kept)


# -- parts of the graph ----------------------------------------------------------------------------------------------


def _spaces(spaces: Spaces) -> Iterator[Space]:
    draft = spaces.draft
    layouts = {draft.root(axis): layout for axis, layout in draft.eq.layouts}
    for (place, number), name in zip(spaces.kept.items(), spaces.names, strict=True):
        space = spaces.drafts[place]
        scales, signs = (len(next(iter(powers.values()))) for powers in (space.scales, space.signs))
        yield Space(
            number,
            name,
            draft.eq.store.size(2 * space.members[0]),
            space.group,
            space.bound,
            _kept_fibre(spaces, place),
            scales,
            signs,
            next((layouts[root] for root in space.members if root in layouts), ""),
            _reasons(spaces, space),
        )


def _reasons(spaces: Spaces, space: SpaceDraft) -> tuple[Reason, ...]:
    """The evidence for a space, most restrictive first, one line for each rule and bound."""
    found: dict[tuple[object, ...], Reason] = {}
    nodes = spaces.draft.eq.graph.by_name
    for bound, why in (claim for root in space.members for claim in spaces.draft.evidence.get(root, ())):
        if SymmetryClass.INVERTIBLE not in bound:
            where = nodes[why.node].where if why.node in nodes else why.node
            found.setdefault((why.rule, bound, why.reason), Reason(bound, why.rule, where, why.reason))
    return tuple(sorted(found.values(), key=lambda reason: (len(reason.bound), reason.rule)))[:MAX_REASONS]


def _frames(spaces: Spaces) -> Iterator[Frame]:
    for frame in spaces.draft.frames.values():
        root, place, flip = spaces.of(frame)
        space = spaces.drafts[place]
        orientation = -1 if spaces.flips[root] else 1
        scale = tuple(orientation * power for power in space.scales[root])
        yield Frame(frame, spaces.kept.get(place, -1), flip, scale, space.signs[root])


def _numbered(terms: Mapping[str, tuple[Term, ...]], numbers: Mapping[int, int]) -> dict[str, tuple[Term, ...]]:
    return {name: tuple(_renumbered(term, numbers) for term in axes) for name, axes in terms.items()}


def _renumbered(term: Term, numbers: Mapping[int, int]) -> Term:
    if isinstance(term, Product):
        return Product(tuple(_renumbered(factor, numbers) for factor in term.factors))
    if isinstance(term, Concat):
        return Concat(tuple(_renumbered(part, numbers) for part in term.parts))
    return Leaf(numbers.get(term.space, -1), term.frame, term.dual, term.size)
