"""From frames to spaces: frames that products tie share one permutation, their scales and signs obey its equations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from operator import and_

from symgraph.groups.lattice import RIGID, TOP, Bound, SymmetryClass, down, group_of, maps
from symgraph.inference.applied import Relation
from symgraph.inference.branches import Branches
from symgraph.inference.draft import MONOMIAL, Draft
from symgraph.inference.scales import Equation, binary_basis, integer_basis
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, factors, leaves, prime

C = SymmetryClass
# The class of a space by whether it has free scales and free signs: where positions may change places, where both
# coordinates of a frequency pair have one scale and one sign, where they have one sign alone, and where nothing tells
# which coordinates are a pair.
_PERMUTED = {
    (True, True): C.MONOMIAL,
    (True, False): C.POSITIVE_MONOMIAL,
    (False, True): C.SIGNED,
    (False, False): C.PERMUTATION,
}
_PAIRWISE = {
    (True, True): C.PAIRWISE_SIGNED_SCALES,
    (True, False): C.PAIRWISE_SCALES,
    (False, True): C.PAIRWISE_SIGNS,
    (False, False): C.IDENTITY,
}
_IN_PLACE = {
    (True, True): C.DIAGONAL,
    (True, False): C.POSITIVE_DIAGONAL,
    (False, True): C.PAIRWISE_SIGNS,
    (False, False): C.IDENTITY,
}
_UNPAIRED = {(True, False): C.POSITIVE_DIAGONAL, (False, False): C.IDENTITY}
Exponents = dict[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class SpaceDraft:
    """One space: its member roots, joint bound, and scale and sign exponents of each root."""

    members: tuple[int, ...]
    bound: Bound
    group: SymmetryClass
    scales: Exponents
    signs: Exponents


@dataclass(frozen=True, slots=True)
class Exchange:
    """Branches that can change places: the space of their positions, and spaces of which each branch has its own.

    `own` holds for each such space those of all branches, in order.
    """

    space: int
    branches: Branches
    own: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Spaces:
    """All spaces of a draft, by their place in `drafts`; `exchanges` are the branches that can change places."""

    draft: Draft
    drafts: tuple[SpaceDraft, ...]
    exchanges: tuple[Exchange, ...] = ()

    @cached_property
    def space_of(self) -> dict[int, int]:
        """The space of every root."""
        return {root: place for place, space in enumerate(self.drafts) for root in space.members}

    @cached_property
    def flips(self) -> Mapping[int, bool]:
        """Whether a space's covariant direction is its root's dual, decided by the first value that has it."""
        draft, dual = self.draft, dict[int, bool]()
        state = {node.name for node in draft.eq.graph.state.values()}
        # Values first: parameters come before them in a graph, but a space is that of what flows through it.
        blocks = dict.fromkeys(draft.blocks[name] for name in sorted(draft.blocks, key=state.__contains__))
        for ref in dict.fromkeys(ref for several in blocks for block in several for ref in block):
            leaf = draft.eq.store.find(ref)
            if draft.frames[ref >> 1] not in draft.self_dual:
                dual.setdefault(leaf >> 1, bool(leaf & 1))
        return defaultdict(bool, dual)

    @cached_property
    def terms(self) -> dict[str, tuple[Term, ...]]:
        """Terms of all parameters and buffers over these spaces."""
        return {name: tuple(map(self._resolved, axes)) for name, axes in self.draft.terms.items()}

    @cached_property
    def values(self) -> dict[str, tuple[Term, ...]]:
        """Terms of all values of the graph over these spaces."""
        known = self.draft.eq.graph.by_name
        return {name: tuple(map(self._resolved, axes)) for name, axes in self.draft.values.items() if name in known}

    @cached_property
    def kept(self) -> dict[int, int]:
        """The spaces of parameters, buffers and branches, with the numbers that they get."""
        in_terms = {leaf.space for axes in self.terms.values() for term in axes for leaf in leaves(term)}
        places = sorted({place for place in in_terms if place >= 0} | {exchange.space for exchange in self.exchanges})
        return {place: number for number, place in enumerate(places)}

    @cached_property
    def by_frame(self) -> dict[int, tuple[int, int, bool]]:
        """Root and space of every frame, and whether its orientation is dual to the space's."""
        located, draft = dict[int, tuple[int, int, bool]](), self.draft
        for node, frame in draft.frames.items():
            ref = draft.eq.store.find(2 * node)
            flip = bool(ref & 1) != self.flips[ref >> 1] and frame not in draft.self_dual
            located[frame] = ref >> 1, self.space_of[ref >> 1], flip
        return located

    def _resolved(self, term: Term) -> Term:
        if isinstance(term, Product):
            return Product(tuple(map(self._resolved, term.factors)))
        if isinstance(term, Concat):
            return replace(term, parts=tuple(map(self._resolved, term.parts)))
        if term.frame < 0:
            return term
        _, space, flip = self.by_frame[term.frame]
        self_dual = term.frame in self.draft.self_dual
        return Leaf(space, term.frame, (term.dual != flip) and not self_dual, term.size)

    def __str__(self) -> str:
        branches = (f"space {exchange.space} has the positions of {exchange.branches}" for exchange in self.exchanges)
        return "\n".join((*self.lines().values(), *branches))

    def lines(self) -> dict[int, str]:
        """Each space in words: `space 3 of size 5: monomial on f4, f5*s*e`."""
        frames: dict[int, list[str]] = defaultdict(list)
        for frame, (root, place, flip) in self.by_frame.items():
            space = self.drafts[place]
            frames[place].append("*".join((f"f{frame}{prime(flip)}", *factors(space.scales[root], space.signs[root]))))
        sizes = {place: self.draft.eq.store.size(2 * self.drafts[place].members[0]) for place in frames}
        return {
            place: f"space {place} of size {sizes[place]}: {self.drafts[place].group} on {', '.join(members)}"
            for place, members in frames.items()
        }


# -- finding them ----------------------------------------------------------------------------------------------------


def find_spaces(draft: Draft) -> Spaces:
    """Groups of frames with one permutation, in order of first occurrence in the program."""
    leader = _leaders(draft)
    members: dict[int, dict[int, None]] = defaultdict(dict)
    for node in draft.frames:
        root = draft.root(2 * node)
        members[leader(root)][root] = None
    relations: dict[int, list[Relation]] = defaultdict(list)
    for relation in draft.relations:
        relations[leader(draft.root(relation.result))].append(relation)
    found = (_space(draft, tuple(roots), relations[key]) for key, roots in members.items())
    return Spaces(draft, tuple(part for space in found for part in _without_still(space)))


def _without_still(space: SpaceDraft) -> Iterator[SpaceDraft]:
    """A space, and apart from it the members that it leaves as they are: without a scale where positions stay."""
    moving = {root: None for root in space.members if any(space.scales[root]) or any(space.signs[root])}
    if not moving or C.PERMUTATION in down(space.group):
        yield space
        return
    scales, signs = ({root: own[root] for root in moving} for own in (space.scales, space.signs))
    yield replace(space, members=tuple(moving), scales=scales, signs=signs)
    for root in (root for root in space.members if root not in moving):
        yield SpaceDraft((root,), RIGID, C.IDENTITY, {root: ()}, {root: ()})


def _leaders(draft: Draft) -> Callable[[int], int]:
    """For every root the one that stands for all that products and links tie to it."""
    up: dict[int, int] = {}

    def leader(root: int) -> int:
        while up.setdefault(root, root) != root:
            root = up[root]
        return root

    tied = [(factor, relation.result) for relation in draft.relations for factor, _ in relation.terms]
    for first, second in (*tied, *draft.links):
        up[leader(draft.root(first))] = leader(draft.root(second))
    return leader


def _space(draft: Draft, members: tuple[int, ...], relations: list[Relation]) -> SpaceDraft:
    bounds = {root: draft.bounds.get(root, TOP) for root in members}
    joint = reduce(and_, bounds.values(), TOP)
    tied = len(members) > 1 or bool(relations)
    if not tied and (draft.layouts.get(members[0]) or not maps(group_of(joint)).paired):
        alone = _alone(members[0], joint)
        if alone is not None:
            return alone
    joint &= MONOMIAL
    layouts = {draft.layouts[root] for root in members if root in draft.layouts}
    if C.PERMUTATION in joint:
        return _scaled(draft, bounds, relations, joint & down(C.SEMI_PERMUTATION), _PERMUTED)
    # Where positions cannot change places they may still be scaled: each by itself, or both of a frequency pair alike.
    paired = len(layouts) == 1 and "" not in layouts
    kinds = (_PAIRWISE, _IN_PLACE) if paired else (_UNPAIRED,)
    found = [_scaled(draft, bounds, relations, joint & down(C.PERMUTATION), kind) for kind in kinds]
    return max(found, key=partial(_freedom, draft))


def _alone(root: int, bound: Bound) -> SpaceDraft | None:
    """A space of one frame, unless its scales and signs are to be solved for."""
    found = maps(group_of(bound))
    if found.name in (*_PERMUTED.values(), *_PAIRWISE.values(), *_IN_PLACE.values()):
        return None
    return SpaceDraft((root,), bound, found.name, {root: (1,) * found.scales}, {root: (1,) * found.signs})


def _freedom(draft: Draft, space: SpaceDraft) -> tuple[int, int]:
    """How many scales an element of a space has, and how many vectors of signs."""
    scales, signs = (len(exponents[space.members[0]]) for exponents in (space.scales, space.signs))
    return maps(space.group).dimension(draft.eq.store.size(2 * space.members[0]), scales), signs


def _scaled(
    draft: Draft,
    bounds: Mapping[int, Bound],
    relations: list[Relation],
    bare: Bound,
    kinds: Mapping[tuple[bool, bool], SymmetryClass],
) -> SpaceDraft:
    """A space with the scales and signs that its products leave free."""
    members = tuple(bounds)
    scaled, signed = (
        [root for root in members if kinds.get(free) in bounds[root]] for free in ((True, False), (False, True))
    )
    scales = _exponents(members, scaled, integer_basis(len(scaled), _equations(draft, relations, scaled)))
    signs = _exponents(members, signed, binary_basis(len(signed), _equations(draft, relations, signed)))
    group = kinds[any(map(len, scales.values())), any(map(len, signs.values()))]
    return SpaceDraft(members, bare | down(group), group, scales, signs)


def _equations(draft: Draft, relations: list[Relation], free: Sequence[int]) -> list[Equation]:
    """`result = product` in logarithms, for the exponents of the roots that are free to have some."""
    column = {root: i for i, root in enumerate(free)}
    equations: list[Equation] = []
    for relation in relations:
        equation: Equation = defaultdict(int)
        for ref, power in ((relation.result, -1), *relation.terms):
            factor = draft.eq.store.find(ref)
            if factor >> 1 in column:
                equation[column[factor >> 1]] += -power if factor & 1 else power
        equations.append(dict(equation))
    return equations


def _exponents(members: tuple[int, ...], free: Sequence[int], basis: Sequence[tuple[int, ...]]) -> Exponents:
    given = dict(zip(free, zip(*basis, strict=True), strict=True)) if basis else {}
    return {root: given.get(root, (0,) * len(basis)) for root in members}
