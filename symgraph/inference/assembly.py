"""The last stages: names for spaces, the families without one, and all of it as a symmetry graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

from symgraph.groups.lattice import RIGID, SymmetryClass
from symgraph.inference.claims import Ref
from symgraph.inference.described import Described
from symgraph.inference.fibres import fibres
from symgraph.inference.names import CROSS, Unnamed, name_spaces
from symgraph.inference.shifts import find_families
from symgraph.inference.spaces import SpaceDraft, Spaces
from symgraph.inference.streams import crossing
from symgraph.inference.uncovered import uncovered
from symgraph.inference.unproven import unproven_notes
from symgraph.inference.unread import told
from symgraph.symmetry.forms import Form
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Frame, Reason, Space, Stack
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, leaves

MAX_REASONS = 12


def with_fibres(spaces: Spaces) -> Described:
    """The spaces by whose position an element may vary, branches before all others."""
    outer = fibres(spaces)
    for exchange in spaces.exchanges:
        for first, *_ in exchange.own:
            if spaces.drafts[first].bound != RIGID:
                outer[first] = (exchange.space, *outer[first])
    return Described(spaces, outer)


def with_names(described: Described) -> Described:
    """Names that a person recognises."""
    return replace(described, names=tuple(name_spaces(_unnamed(described))))


def with_families(described: Described) -> Described:
    """The symmetries without a space."""
    draft = described.spaces.draft
    return replace(described, families=find_families(draft, draft.eq.prepared.traced))


def symmetry_graph(described: Described) -> SymmetryGraph:
    """What was found, with the spaces that no parameter touches left out and the others numbered."""
    spaces, draft = described.spaces, described.spaces.draft
    graph, book = draft.eq.graph, draft.eq.prepared.book
    terms = _numbered(spaces.terms, spaces.kept)
    forms = [replace(form, terms=tuple(terms[name] for name in form.read)) for form in draft.eq.prepared.forms]
    stacks, twins = [], []
    for exchange in spaces.exchanges:
        number = spaces.kept[exchange.space]
        stacks += [Stack(number, names) for names in exchange.branches.tensors(graph)]
        twins += [Stack(number, row) for row in exchange.branches.rows]
    return SymmetryGraph(
        draft.eq.prepared.traced,
        tuple(_spaces(described)),
        tuple(_frames(spaces)),
        _stored(forms, terms),
        tuple(gain.absorbed for gain in draft.gains),
        values=_numbered(spaces.values, spaces.kept),
        offsets=dict(draft.eq.prepared.offsets),
        uncovered=uncovered(draft),
        notes=(*book.notes, *unproven_notes(draft.eq.unproven), *told(draft.eq.prepared.traced)),
        rules_hash=book.hash,
        stacks=tuple(stacks),
        partial=tuple(dict.fromkeys(name for exchange in spaces.exchanges for name in exchange.branches.partial)),
        twins=tuple(twins),
        forms=tuple(forms),
        **{family.name: getattr(described.families, family.name) for family in fields(described.families)},
    )


def _stored(forms: Sequence[Form], terms: Mapping[str, tuple[Term, ...]]) -> dict[str, tuple[Term, ...]]:
    """The terms of tensors as they are stored: of an axis that is the same in all that is read of them, its term."""
    found = dict(terms)
    for form in reversed(forms):
        for name in form.stored:
            found[name] = tuple(_axis(form, axis, found) or term for axis, term in enumerate(terms[name]))
    read = {name for form in forms for name in form.read}
    return {name: axes for name, axes in found.items() if name not in read}


def _axis(form: Form, axis: int, terms: Mapping[str, tuple[Term, ...]]) -> Term | None:
    """The term of an axis in all that is read, if it is there and one."""
    places = [form.axis_read(axis, number) for number in range(len(form.read))]
    own = {terms[name][place] for name, place in zip(form.read, places, strict=True) if place is not None}
    return own.pop() if len(own) == 1 and None not in places else None


# -- names -----------------------------------------------------------------------------------------------------------


def _unnamed(described: Described) -> list[Unnamed]:
    """What naming needs to know of every space that is kept."""
    spaces = described.spaces
    owners, labels = _owners(spaces), _labels(spaces)
    summed = {place for axis in spaces.draft.eq.sums for place in _places(spaces, axis)}
    return [
        Unnamed(
            tuple(owners[place]),
            labels.get(place, ""),
            place in summed,
            spaces.drafts[place].group is SymmetryClass.IDENTITY,
            next(iter(owners[place].values())),
            described.kept_fibre(place),
        )
        for place in spaces.kept
    ]


def _owners(spaces: Spaces) -> dict[int, dict[str, int]]:
    """The parameters and buffers of every space, each with the first of its axes there."""
    owners: dict[int, dict[str, int]] = defaultdict(dict)
    for name, axes in spaces.terms.items():
        for axis, term in enumerate(axes):
            for leaf in leaves(term):
                owners[leaf.space].setdefault(name, axis)
    for exchange in spaces.exchanges:
        tensors = exchange.branches.tensors(spaces.draft.eq.graph)
        owners[exchange.space] |= {name: 0 for names in tensors for name in names}
    return owners


def _labels(spaces: Spaces) -> dict[int, str]:
    """What the first rule in the program that names a space calls it."""
    labels, eq = {exchange.space: "branches" for exchange in spaces.exchanges}, spaces.draft.eq
    order = {node.name: number for number, node in enumerate(eq.graph.nodes)}
    across = crossing(eq)
    for label in sorted(eq.labels, key=lambda label: order[label.node]):
        text = f"{CROSS}{label.text}" if label.node in across else label.text
        for place in _places(spaces, label.axis):
            labels.setdefault(place, text)
    return labels


def _places(spaces: Spaces, axis: Ref) -> Iterator[int]:
    """The spaces of an axis; -1 for a part that has none."""
    return (spaces.space_of.get(leaf >> 1, -1) for leaf in spaces.draft.eq.store.leaves(axis))


# -- parts of the graph ----------------------------------------------------------------------------------------------


def _spaces(described: Described) -> Iterator[Space]:
    spaces, draft = described.spaces, described.spaces.draft
    for (place, number), name in zip(spaces.kept.items(), described.names, strict=True):
        space = spaces.drafts[place]
        scales, signs = (len(next(iter(powers.values()))) for powers in (space.scales, space.signs))
        yield Space(
            number,
            name,
            draft.eq.store.size(2 * space.members[0]),
            space.group,
            space.bound,
            described.kept_fibre(place),
            scales,
            signs,
            next((draft.layouts[root] for root in space.members if root in draft.layouts), ""),
            _reasons(spaces, space),
        )


def _reasons(spaces: Spaces, space: SpaceDraft) -> tuple[Reason, ...]:
    """The evidence for a space, most restrictive first, one line for each rule and bound."""
    reasons: dict[tuple[object, ...], Reason] = {}
    nodes = spaces.draft.eq.graph.by_name
    for bound, why in (claim for root in space.members for claim in spaces.draft.evidence.get(root, ())):
        if SymmetryClass.INVERTIBLE not in bound:
            where = nodes[why.node].where if why.node in nodes else why.node
            reasons.setdefault((why.rule, bound, why.reason), Reason(bound, why.rule, where, why.reason))
    return tuple(sorted(reasons.values(), key=lambda reason: (len(reason.bound), reason.rule)))[:MAX_REASONS]


def _frames(spaces: Spaces) -> Iterator[Frame]:
    for frame, (root, place, flip) in spaces.by_frame.items():
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
        return replace(term, parts=tuple(_renumbered(part, numbers) for part in term.parts))
    return Leaf(numbers.get(term.space, -1), term.frame, term.dual, term.size)
