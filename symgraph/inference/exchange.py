"""Whether branches of a graph can change places once classes are known, and the spaces that they then share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.branches import Branches
from symgraph.inference.equations import branches_value
from symgraph.inference.spaces import Exchange, SpaceDraft, Spaces
from symgraph.symmetry.terms import Concat, Leaf, Term, leaves


def exchanges(spaces: Spaces) -> list[Exchange | None]:
    """For each family of branches how they change places, or None where some branch is treated unlike the others."""
    return [_exchange(spaces, number, family) for number, family in enumerate(spaces.draft.eq.branches)]


def _exchange(spaces: Spaces, number: int, branches: Branches) -> Exchange | None:
    draft, drafts = spaces.draft, spaces.drafts
    ((axis,),) = draft.eq.values[branches_value(number)]
    if draft.eq.store.children(axis) is not None or draft.root(axis) not in spaces.space_of:
        return None
    positions = spaces.space_of[draft.root(axis)]
    if drafts[positions].group is not SymmetryClass.PERMUTATION:
        return None
    tensors = list(branches.tensors(draft.eq.graph))
    own = _own_spaces(spaces, tensors)
    return Exchange(positions, branches, own) if own is not None and _are_apart(spaces, tensors, own) else None


def _own_spaces(spaces: Spaces, tensors: list[tuple[str, ...]]) -> tuple[tuple[int, ...], ...] | None:
    """The spaces that differ from branch to branch, those of one place together; None where branches are unlike."""
    by_first: dict[int, tuple[int, ...]] = {}
    for names in tensors:
        for row in _side_by_side([spaces.terms[name] for name in names]):
            places = tuple(leaf.space for leaf in row)
            kinds = {(leaf.size, leaf.dual, *_exponents(spaces, leaf)) for leaf in row}
            if len(kinds) != 1 or by_first.setdefault(places[0], places) != places:
                return None
    return tuple(places for places in by_first.values() if len(set(places)) > 1)


def _side_by_side(axes: list[tuple[Term, ...]]) -> Iterator[tuple[Leaf, ...]]:
    """The leaves of several tensors, those of one place together; an empty row where they are put together unlike."""
    for terms in zip(*axes, strict=True):
        kinds = {type(term) for term in terms}
        if kinds == {Leaf}:
            yield terms
            continue
        inner = [term.children for term in terms if not isinstance(term, Leaf)]
        orders = {term.order for term in terms if isinstance(term, Concat)}
        if len(kinds) > 1 or len(set(map(len, inner))) > 1 or len(orders) > 1:
            yield ()
        else:
            yield from _side_by_side(inner)


def _exponents(spaces: Spaces, leaf: Leaf) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Scales and signs of the leaf's frame."""
    if leaf.space < 0:
        return (), ()
    root, place, _ = spaces.by_frame[leaf.frame]
    return spaces.drafts[place].scales[root], spaces.drafts[place].signs[root]


def _are_apart(spaces: Spaces, tensors: list[tuple[str, ...]], own: tuple[tuple[int, ...], ...]) -> bool:
    """Whether a branch's own spaces are of one kind with those of the others, and occur in its own tensors alone."""
    branch_of = {place: branch for places in own for branch, place in enumerate(places)}
    if len(branch_of) != sum(map(len, own)):
        return False
    kinds = ({(spaces.drafts[place].group, spaces.drafts[place].bound) for place in places} for places in own)
    if any(len(kind) > 1 for kind in kinds):
        return False
    home = {name: branch for names in tensors for branch, name in enumerate(names)}
    on = ((name, leaf.space) for name, axes in spaces.terms.items() for term in axes for leaf in leaves(term))
    return all(home.get(name) == branch_of[place] for name, place in on if place in branch_of)


# -- one space for all branches --------------------------------------------------------------------------------------


def joined(spaces: Spaces, found: tuple[Exchange, ...]) -> Spaces:
    """The spaces of all branches made one, in the place of the first branch's."""
    drafts = list(spaces.drafts)
    for places in (places for exchange in found for places in exchange.own):
        drafts[places[0]] = _union([drafts[place] for place in places])
        for place in places[1:]:
            drafts[place] = replace(drafts[place], members=())
    return replace(spaces, drafts=tuple(drafts), exchanges=found)


def _union(parts: list[SpaceDraft]) -> SpaceDraft:
    scales = {root: powers for part in parts for root, powers in part.scales.items()}
    signs = {root: powers for part in parts for root, powers in part.signs.items()}
    members = tuple(root for part in parts for root in part.members)
    return replace(parts[0], members=members, scales=scales, signs=signs)
