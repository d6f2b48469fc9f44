"""Frames on the way to spaces, as data.

A *frame* is a class of leaves that unification made equal: axes that carry one element, with all its scales. Frames
that are tied by products share a permutation alone; together they make a space.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from symgraph.groups.lattice import TOP, Bound, SymmetryClass, describe, down
from symgraph.inference.applied import Relation
from symgraph.inference.blocks import Block
from symgraph.inference.claims import Evidence, Ref
from symgraph.inference.equations import Equations
from symgraph.ir import Kind
from symgraph.symmetry.structure import AbsorbedGain
from symgraph.symmetry.terms import Term, prime

MONOMIAL: Bound = down(SymmetryClass.MONOMIAL, SymmetryClass.SEMI_PERMUTATION)
Ends = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Gain:
    """A gain on its frame, and the calls that multiply by it."""

    absorbed: AbsorbedGain
    nodes: tuple[str, ...]

    def __str__(self) -> str:
        gain = self.absorbed
        side = "readers" if gain.forward else "writers"
        return f"{gain.parameter} goes into {side} of f{gain.frame}{prime(gain.flip)}"


@dataclass(frozen=True, slots=True)
class Uses:
    """Where frames occur, by their root in the store.

    `sources` are the parameters whose structural views carry the frame, with None for any other value; `weights` are
    the frames on a parameter that is more than a bias; `relations` are numbers of products.
    """

    sources: dict[int, set[str | None]]
    weights: set[int]
    relations: dict[int, list[int]]


@dataclass(frozen=True)
class Draft:
    """Frames with their bounds; `frames` has one node of each, as it was before gains were absorbed.

    `relations` and `links` are between leaves. `blocks` has the leaves of each value block by block, `found` its axes.
    `terms` are of parameters and buffers, `values` of all values. `merged` has the
    nodes of frames that absorbed gains have made one. `between` has, for a gain that stays, the frames before and after
    it where it alone ties them to permutations. `unabsorbed` is the draft as it was before any gain was absorbed.
    """

    eq: Equations
    relations: tuple[Relation, ...]
    links: tuple[tuple[Ref, Ref], ...]
    frames: dict[int, int]
    bounds: dict[int, Bound]
    evidence: dict[int, tuple[tuple[Bound, Evidence], ...]]
    blocks: dict[str, tuple[Block, ...]]
    terms: dict[str, tuple[Term, ...]]
    values: dict[str, tuple[Term, ...]]
    found: dict[str, Block]
    self_dual: frozenset[int]
    gains: tuple[Gain, ...] = ()
    merged: dict[int, tuple[int, ...]] = field(default_factory=dict)
    between: dict[str, Ends] = field(default_factory=dict)
    unabsorbed: Draft | None = None

    @cached_property
    def nodes(self) -> dict[int, int]:
        """Node of every frame."""
        return {frame: node for node, frame in self.frames.items()}

    @cached_property
    def layouts(self) -> dict[int, str]:
        """Which coordinates make a pair, by root; "" where rules say it in several ways, or pairs are cut apart."""
        found, store = dict[int, str](), self.eq.store
        for axis, layout in self.eq.layouts:
            whole = store.children(axis) is None
            for root in map(self.root, store.leaves(axis)):
                found[root] = layout if whole and found.get(root, layout) == layout else ""
        return found

    def root(self, ref: Ref) -> int:
        """Node that stands for the space of `ref`."""
        return self.eq.store.find(ref) >> 1

    def bound_of(self, ref: Ref) -> Bound:
        """Class admitted by every rule that touched the space of `ref`."""
        return self.bounds.get(self.root(ref), TOP)

    def made_one(self, ref: Ref) -> Iterator[tuple[int, bool]]:
        """Every frame that gains absorbed before have made one with that of `ref`, and whether it is its dual."""
        own = self.eq.store.find(ref)
        for node in self.merged.get(own >> 1, (own >> 1,)):
            yield self.frames[node], bool((self.eq.store.find(2 * node) ^ own) & 1)

    @cached_property
    def uses(self) -> Uses:
        """Where frames occur."""
        return _uses(self)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for name, axes in self.terms.items():
            yield f"{name} [{', '.join(map(str, axes))}]"
        for frame, node in self.nodes.items():
            root, size = self.root(2 * node), self.eq.store.size(2 * node)
            same = f" is f{self.frames[root]}" if root != node and root in self.frames else ""
            yield f"f{frame} of size {size}{same}: {describe(self.bounds.get(root, TOP))}"
        yield from map(str, self.gains)
        yield from (relation.text(self._name) for relation in self.relations)
        yield from (f"{self._name(first)} is permuted with {self._name(second)}" for first, second in self.links)
        yield from (
            f"{gain} stays between frames {before} and {after}" for gain, (before, after) in self.between.items()
        )

    def _name(self, ref: Ref) -> str:
        leaf = self.eq.store.find(ref)
        return f"f{self.frames.get(leaf >> 1, -1)}{prime(leaf & 1)}"


def _uses(draft: Draft) -> Uses:
    views = _views(draft.eq)
    # Most values are on axes that others are on as well.
    alike: dict[tuple[Block, ...], set[str | None]] = defaultdict(set)
    for name, blocks in draft.blocks.items():
        alike[blocks].add(views.get(name))
    sources: dict[int, set[str | None]] = defaultdict(set)
    for blocks, names in alike.items():
        for root in (draft.root(ref) for block in blocks for ref in block):
            sources[root] |= names
    on_parameters = (draft.blocks[parameter.name] for parameter in draft.eq.graph.parameters.values())
    several = (block for blocks in on_parameters for block in blocks if len(block) > 1)
    weights = {draft.root(ref) for block in several for ref in block}
    relations: dict[int, list[int]] = defaultdict(list)
    for number, relation in enumerate(draft.relations):
        for root in map(draft.root, relation.refs):
            relations[root].append(number)
    return Uses(sources, weights, relations)


def _views(eq: Equations) -> dict[str, str]:
    """Values that are a parameter, or a structural view of one, with the name of the parameter's value."""
    parameter_of = {n.name: n.name for n in eq.graph.nodes if n.kind is Kind.PARAMETER}
    for applied in eq.applied:
        sources = {parameter_of.get(name) for name in applied.node.refs()}
        if applied.rule.structure and len(sources) == 1 and (source := sources.pop()):
            parameter_of[applied.node.name] = source
    return parameter_of
