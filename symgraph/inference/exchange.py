"""Whether branches of a graph can change places once classes are known, and the spaces that they then share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.branches import Branches
from symgraph.inference.equations import branches_value
from symgraph.inference.resolve import Draft, SpaceDraft
from symgraph.symmetry.terms import Leaf, Product, Term, leaves


@dataclass(frozen=True, slots=True)
class Exchange:
    """Branches that can change places: the space of their positions, and spaces of which each branch has its own.

    `own` holds for each such space those of all branches, in order.
    """

    space: int
    branches: Branches
    own: tuple[tuple[int, ...], ...]


def exchange(
    d: Draft,
    drafts: list[SpaceDraft],
    space_of: Mapping[int, int],
    terms: Mapping[str, tuple[Term, ...]],
    number: int,
    branches: Branches,
) -> Exchange | None:
    """The exchange of one family of branches, or None where some branch is treated unlike the others.

    Args:
        terms: of all parameters and buffers, with spaces as `space_of` numbers them.
    """
    ((axis,),) = d.eq.values[branches_value(number)]
    if d.eq.store.children(axis) is not None or d.root(axis) not in space_of:
        return None
    space = space_of[d.root(axis)]
    if drafts[space].group is not SymmetryClass.PERMUTATION:
        return None
    mine = list(branches.tensors(d.eq.graph))
    alike: dict[int, tuple[int, ...]] = {}
    for row in (row for names in mine for row in _side_by_side([terms[n] for n in names])):
        spaces = tuple(x.space for x in row)
        kinds = {(x.size, x.dual, *_exponents(d, drafts, x)) for x in row}
        if len(row) < branches.count or len(kinds) > 1 or alike.setdefault(spaces[0], spaces) != spaces:
            return None
    own = tuple(spaces for spaces in alike.values() if len(set(spaces)) > 1)
    return Exchange(space, branches, own) if _separate(drafts, terms, mine, own) else None


def _side_by_side(axes: list[tuple[Term, ...]]) -> Iterator[tuple[Leaf, ...]]:
    """The leaves of several tensors, those of one place together; an empty row where they are put together unlike."""
    for terms in zip(*axes, strict=True):
        kinds = {type(t) for t in terms}
        if kinds == {Leaf}:
            yield terms
            continue
        inner = [t.factors if isinstance(t, Product) else t.parts for t in terms if not isinstance(t, Leaf)]
        if len(kinds) > 1 or len({len(parts) for parts in inner}) > 1:
            yield ()
        else:
            yield from _side_by_side(inner)


def _exponents(d: Draft, drafts: list[SpaceDraft], leaf: Leaf) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Scales and signs of the leaf's frame."""
    if leaf.space < 0:
        return (), ()
    root = d.root(2 * d.nodes[leaf.frame])
    return drafts[leaf.space].scales[root], drafts[leaf.space].signs[root]


def _separate(
    drafts: list[SpaceDraft],
    terms: Mapping[str, tuple[Term, ...]],
    mine: list[tuple[str, ...]],
    own: tuple[tuple[int, ...], ...],
) -> bool:
    """Whether a branch's own spaces are of one kind with those of the others, and occur in its own tensors alone."""
    belongs = {space: j for spaces in own for j, space in enumerate(spaces)}
    if len(belongs) != sum(map(len, own)):
        return False
    if any(len({(drafts[s].group, drafts[s].bound) for s in spaces}) > 1 for spaces in own):
        return False
    home = {name: j for names in mine for j, name in enumerate(names)}
    found = ((name, x.space) for name, axes in terms.items() for t in axes for x in leaves(t))
    return all(home.get(name) == belongs[space] for name, space in found if space in belongs)


def joined(drafts: list[SpaceDraft], exchanges: Iterable[Exchange], space_of: dict[int, int]) -> list[SpaceDraft]:
    """The drafts with the spaces of all branches made one, that of the first; `space_of` is changed to say so."""
    found = list(drafts)
    for spaces in (spaces for e in exchanges for spaces in e.own):
        first, parts = spaces[0], [drafts[s] for s in spaces]
        members = tuple(m for part in parts for m in part.members)
        scales = {m: x for part in parts for m, x in part.scales.items()}
        signs = {m: x for part in parts for m, x in part.signs.items()}
        found[first] = replace(found[first], members=members, scales=scales, signs=signs)
        space_of.update(dict.fromkeys(members, first))
    return found
