"""Gains that can be one: a parameter that multiplies one frame into another goes into what stands beside it.

A *gain* multiplies a frame entry by entry into another one, as the weight of a norm does. If the frame after it is
only ever read linearly, the gain can be absorbed into its readers; if the frame before it is only ever written
linearly, into its writers. In the gauge where the gain is one, both frames are one space (design section 6).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from symgraph.groups.lattice import RIGID, TOP, Bound
from symgraph.inference.draft import Draft, Gain
from symgraph.inference.store import Evidence, Ref


@dataclass(frozen=True, slots=True)
class _Site:
    """A product, by its number, in which a gain multiplies `before` into `after`."""

    relation: int
    before: Ref
    after: Ref


@dataclass(frozen=True, slots=True)
class _Choice:
    """A gain, by its root, that goes into the readers of its sites or, not `forward`, into the writers."""

    root: int
    sites: tuple[_Site, ...]
    forward: bool

    def joins(self) -> list[Ref]:
        """The frames that turn into others: those after the gain, or those before it."""
        return [site.after if self.forward else site.before for site in self.sites]

    def stays(self) -> list[Ref]:
        """The frames on the other side."""
        return [site.before if self.forward else site.after for site in self.sites]


def absorb_gains(draft: Draft) -> Draft:
    """Absorbs gains until none is left that can be; what one leaves behind may free another."""
    while choices := _choices(draft):
        draft = _absorbed(draft, choices)
    return draft


def gain_parameter(draft: Draft, ref: Ref) -> str | None:
    """The parameter of one axis that a factor is, if it is nothing else, before factors are tied."""
    if not _is_gain(draft, ref):
        return None
    return draft.eq.graph.by_name[_source(draft, draft.root(ref))].target


def _is_gain(draft: Draft, ref: Ref) -> bool:
    sources = draft.uses.sources[draft.root(ref)]
    if len(sources) != 1 or draft.bound_of(ref) != TOP:
        return False
    (source,) = sources
    if source is None or [len(block) for block in draft.blocks[source]] != [1]:
        return False
    # A vector that repeats the frame beside single positions has several gains on it.
    return prod(draft.eq.graph.by_name[source].shape) == draft.eq.store.size(ref)


def _source(draft: Draft, root: int) -> str:
    """The value of the one parameter that a gain is."""
    return next(iter(draft.uses.sources[root])) or ""


# -- which -----------------------------------------------------------------------------------------------------------


def _choices(draft: Draft) -> list[_Choice]:
    """The gains that can be absorbed as things are, into readers if possible."""
    choices = []
    for root, sites in _sites(draft).items():
        if set(draft.uses.relations[root]) == {site.relation for site in sites}:
            ways = (_Choice(root, sites, forward) for forward in (True, False))
            choices += [way for way in ways if _is_possible(draft, way)][:1]
    return choices


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


def _is_possible(draft: Draft, choice: _Choice) -> bool:
    """Whether nothing but linear maps sees the frames that turn into others, and these differ from what stays."""
    turning = {draft.root(ref) for ref in choice.joins()}
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
        parameter = self.before.eq.graph.by_name[_source(self.before, choice.root)].target
        nodes = tuple(self.before.relations[site.relation].node for site in choice.sites)
        for frame, flip in sorted({member for ref in choice.joins() for member in self.draft.made_one(ref)}):
            self.gains.append(Gain(parameter, frame, flip, choice.forward, nodes))
        why = Evidence(nodes[0], "absorption", "a gain that is one in the canonical gauge")
        self.bounds[choice.root] = RIGID
        self._add_evidence(choice.root, ((RIGID, why),))
        for site in choice.sites:
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
