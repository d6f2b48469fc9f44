"""Gains that can be one: a parameter that multiplies one frame into another goes into what stands beside it.

A *gain* multiplies a frame entry by entry into another one, as the weight of a norm does. If the frame after it is
only ever read linearly, the gain can be absorbed into its readers; if the frame before it is only ever written
linearly, into its writers. In the gauge where the gain is one, both frames are one space (design section 6).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from symgraph.groups.lattice import RIGID, TOP, Bound
from symgraph.inference.claims import Evidence, Ref
from symgraph.inference.draft import Draft, Gain
from symgraph.symmetry.structure import AbsorbedGain


@dataclass(frozen=True, slots=True)
class _Site:
    """A product, by its number, in which a gain multiplies `before` into `after`."""

    relation: int
    before: Ref
    after: Ref


@dataclass(frozen=True, slots=True)
class _Part:
    """What of a gain stands on one frame, by its root, and where it is multiplied."""

    root: int
    sites: tuple[_Site, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    """A gain, in all its parts, that goes into the readers of its sites or, not `forward`, into the writers.

    `together` says that the parts are factors of one axis, with a number for each position on all of them.
    """

    parts: tuple[_Part, ...]
    forward: bool
    together: bool = False

    @property
    def sites(self) -> tuple[_Site, ...]:
        """The products of all parts."""
        return tuple(site for part in self.parts for site in part.sites)

    def joins(self) -> list[Ref]:
        """The frames that turn into others: those after the gain, or those before it."""
        return [site.after if self.forward else site.before for site in self.sites]

    def stays(self) -> list[Ref]:
        """The frames on the other side."""
        return [site.before if self.forward else site.after for site in self.sites]


def absorb_gains(draft: Draft) -> Draft:
    """Absorbs gains until none is left that can be; what one leaves behind may free another."""
    before = draft
    while True:
        if choices := _choices(draft):
            draft = _absorbed(draft, choices)
        elif (together := next(_together(draft), None)) is not None:
            draft = _absorbed(draft, [together])
        else:
            return replace(draft, unabsorbed=before)


def gain_parameter(draft: Draft, ref: Ref) -> str | None:
    """The parameter of one axis that a factor is, if it is nothing else, before factors are tied."""
    if not _is_gain(draft, ref) or len(_parts(draft, draft.root(ref))) > 1:
        return None
    return draft.eq.graph.by_name[_source(draft, draft.root(ref))].target


def _is_gain(draft: Draft, ref: Ref) -> bool:
    """Whether a factor is a parameter of one axis, or a part of one that stands on several frames."""
    sources = draft.uses.sources[draft.root(ref)]
    if len(sources) != 1 or draft.bound_of(ref) != TOP:
        return False
    (source,) = sources
    if source is None or any(len(block) != 1 for block in draft.blocks[source]):
        return False
    # A vector that repeats the frame beside single positions has several gains on it.
    sizes = _parts(draft, draft.root(ref))
    return len(sizes) == len(draft.blocks[source]) and prod(draft.eq.graph.by_name[source].shape) == sum(sizes.values())


def _parts(draft: Draft, root: int) -> dict[int, int]:
    """The frames that a gain stands on, by their roots, with the size of each, in the order of its entries."""
    return {draft.root(ref): draft.eq.store.size(ref) for (ref,) in draft.blocks[_source(draft, root)]}


def _source(draft: Draft, root: int) -> str:
    """The value of the one parameter that a gain is."""
    return next(iter(draft.uses.sources[root])) or ""


# -- which -----------------------------------------------------------------------------------------------------------


def _choices(draft: Draft) -> list[_Choice]:
    """The gains that can be absorbed as things are, into readers if possible."""
    choices, sites = [], _sites(draft)
    for root in sites:
        roots = tuple(_parts(draft, root))
        if root == roots[0] and all(_is_only_multiplied(draft, part, sites) for part in roots):
            parts = tuple(_Part(part, sites[part]) for part in roots)
            ways = (_Choice(parts, forward) for forward in (True, False))
            choices += [way for way in ways if _is_possible(draft, way)][:1]
    return choices


def _is_only_multiplied(draft: Draft, root: int, sites: Mapping[int, tuple[_Site, ...]]) -> bool:
    return root in sites and set(draft.uses.relations[root]) == {site.relation for site in sites[root]}


def _sites(draft: Draft) -> Mapping[int, tuple[_Site, ...]]:
    """Products of a gain and one other factor, by the gain."""
    by_gain: dict[int, list[_Site]] = defaultdict(list)
    for number, relation in enumerate(draft.relations):
        if len(relation.terms) != 2 or any(power != 1 for _, power in relation.terms):
            continue
        (first, _), (second, _) = relation.terms
        for gain, other in ((first, second), (second, first)):
            if _is_gain(draft, gain):
                by_gain[draft.root(gain)].append(_Site(number, other, relation.result))
                break
    return {root: tuple(sites) for root, sites in by_gain.items()}


def _together(draft: Draft) -> Iterator[_Choice]:
    """Gains with a number for each position on several frames, as one norm over all heads has, that go into readers."""
    for node in draft.eq.graph.parameters.values():
        (block, *more) = draft.blocks[node.name] or [()]
        roots = [draft.root(ref) for ref in block]
        if more or len(roots) < 2 or len({*roots}) < len(roots) or not _is_alone(draft, node.name, roots):
            continue
        sites = [_multiplied_once(draft, root) for root in roots]
        parts = tuple(_Part(root, (site,)) for root, site in zip(roots, sites, strict=True) if site is not None)
        choice = _Choice(parts, forward=True, together=True)
        if len(parts) == len(roots) and _is_possible(draft, choice) and _stand_together(draft, choice):
            yield choice


def _is_alone(draft: Draft, source: str, roots: list[int]) -> bool:
    """Whether a parameter of one axis has frames of its own, of which nothing is said but what multiplies."""
    entries = prod(draft.eq.store.size(2 * root) for root in roots)
    own = all(draft.uses.sources[root] == {source} and draft.bounds.get(root, TOP) == TOP for root in roots)
    return own and prod(draft.eq.graph.by_name[source].shape) == entries


def _multiplied_once(draft: Draft, root: int) -> _Site | None:
    """The one product of a factor of a gain with one other factor."""
    numbers = draft.uses.relations[root]
    relation = draft.relations[numbers[0]] if len(numbers) == 1 else None
    if relation is None or len(relation.terms) != 2 or any(power != 1 for _, power in relation.terms):
        return None
    others = [ref for ref, _ in relation.terms if draft.root(ref) != root]
    return _Site(numbers[0], others[0], relation.result) if len(others) == 1 else None


def _stand_together(draft: Draft, choice: _Choice) -> bool:
    """Whether the frames after the gain stand beside each other, in one orientation, wherever one of them does."""
    after = [draft.eq.store.find(ref) for ref in choice.joins()]
    nodes = {draft.relations[site.relation].node for site in choice.sites}
    if len(nodes) > 1 or any(len(list(draft.made_one(ref))) > 1 for ref in after):
        return False
    wanted = [sorted(ref ^ dual for ref in after) for dual in (0, 1)]
    roots = {ref >> 1 for ref in after}
    every = (map(draft.eq.store.find, block) for blocks in draft.blocks.values() for block in blocks)
    held = (sorted(ref for ref in block if ref >> 1 in roots) for block in every)
    return all(not found or found in wanted for found in held)


def _is_possible(draft: Draft, choice: _Choice) -> bool:
    """Whether only linear maps see the frames that turn into others, each by one part, and none of them stays."""
    by_part = [{draft.root(ref) for ref in replace(choice, parts=(part,)).joins()} for part in choice.parts]
    turning = set[int]().union(*by_part)
    if len(turning) < sum(map(len, by_part)):
        return False
    staying = {draft.root(ref) for ref in choice.stays()}
    nodes = [ref >> 1 for ref in set(choice.joins())]
    if turning & staying or len(set(nodes)) < len(nodes):
        return False
    own = {site.relation for site in choice.sites}
    return all(_is_linear(draft, root, own) for root in turning)


def _is_linear(draft: Draft, root: int, own: set[int]) -> bool:
    alone = set(draft.uses.relations[root]) <= own
    return alone and draft.bounds.get(root, TOP) == TOP and root in draft.uses.weights


# -- doing it --------------------------------------------------------------------------------------------------------


def _absorbed(draft: Draft, choices: list[_Choice]) -> Draft:
    work = _Absorption(draft)
    for choice in choices:
        work.absorb(choice)
    taken = {site.relation for choice in choices for site in choice.sites}
    relations = tuple(r for number, r in enumerate(draft.relations) if number not in taken)
    return replace(work.draft, relations=relations, gains=tuple(work.gains))


class _Absorption:
    """A copy of a draft whose store, bounds, evidence and merged frames change as gains are absorbed."""

    def __init__(self, draft: Draft) -> None:
        self.before, self.gains = draft, list(draft.gains)
        self.bounds, self.evidence, self.merged = dict(draft.bounds), dict(draft.evidence), dict(draft.merged)
        eq = replace(draft.eq, store=draft.eq.store.copy())
        self.store = eq.store
        self.draft = replace(draft, eq=eq, bounds=self.bounds, evidence=self.evidence, merged=self.merged)

    def absorb(self, choice: _Choice) -> None:
        """Notes the gain, which is rigid from now on, and makes its frames one."""
        if choice.together:
            self._absorb_together(choice)
            return
        start, sizes = 0, _parts(self.before, choice.parts[0].root)
        for part in choice.parts:
            self._absorb(replace(choice, parts=(part,)), start)
            start += sizes[part.root]

    def _absorb(self, choice: _Choice, start: int) -> None:
        """The part of a gain that begins with this entry."""
        (part,) = choice.parts
        parameter = self.before.eq.graph.by_name[_source(self.before, part.root)].target
        nodes = tuple(self.before.relations[site.relation].node for site in part.sites)
        for frame, flip in sorted({member for ref in choice.joins() for member in self.draft.made_one(ref)}):
            self.gains.append(Gain(AbsorbedGain(parameter, frame, flip, choice.forward, start), nodes))
        self._settle(part, nodes[0])

    def _absorb_together(self, choice: _Choice) -> None:
        """A gain with a number for each position on several frames."""
        parameter = self.before.eq.graph.by_name[_source(self.before, choice.parts[0].root)].target
        node = self.before.relations[choice.sites[0].relation].node
        (first, flip), *inside = (next(self.draft.made_one(ref)) for ref in choice.joins())
        absorbed = AbsorbedGain(parameter, first, flip, True, inside=tuple(frame for frame, _ in inside))
        self.gains.append(Gain(absorbed, (node,)))
        for part in choice.parts:
            self._settle(part, node)

    def _settle(self, part: _Part, node: str) -> None:
        """What of a gain is rigid from now on; the frames before and after it are one."""
        why = Evidence(node, "absorption", "a gain that is one in the canonical gauge")
        self.bounds[part.root] = RIGID
        self._add_evidence(part.root, ((RIGID, why),))
        for site in part.sites:
            self._make_one(site.after, site.before)

    def _make_one(self, after: Ref, before: Ref) -> None:
        roots = self.draft.root(after), self.draft.root(before)
        if roots[0] == roots[1]:
            return
        bound = self.bounds.get(roots[0], TOP) & self.bounds.get(roots[1], TOP)
        self.store.unify(after, before)
        kept = self.draft.root(after)
        gone = roots[1] if kept == roots[0] else roots[0]
        self.bounds[kept] = bound
        self.merged[kept] = (*self.merged.pop(kept, (kept,)), *self.merged.pop(gone, (gone,)))
        self._add_evidence(kept, self.evidence.pop(gone, ()))

    def _add_evidence(self, root: int, more: tuple[tuple[Bound, Evidence], ...]) -> None:
        self.evidence[root] = (*self.evidence.get(root, ()), *more)
