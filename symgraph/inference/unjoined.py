"""What is picked of tensors that were put side by side, computed from these alone.

Queries and keys may be stacked, turned together and picked again; so may the weights that make them. Read as it stands,
the stack says that they have one inside. What every call on the way treats entry by entry along the axis of the stack
is done to each of them by itself instead, where nothing is left of the stack then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import prod
from typing import Any

import torch

from symgraph.groups.lattice import RIGID, SymmetryClass
from symgraph.inference.structural import KEEPING
from symgraph.ir import Graph, Kind, Node, Ref, Tensor, map_refs, resized
from symgraph.rules.binding import Binding
from symgraph.rules.book import RuleBook
from symgraph.rules.signature import AxisToken
from symgraph.tracing.arguments import arguments, parameters
from symgraph.tracing.interpreter import call
from symgraph.tracing.naming import numbering
from symgraph.tracing.normalize import without_dead_calls, without_identities
from symgraph.tracing.operators import first_position
from symgraph.tracing.picks import picked
from symgraph.tracing.thresholds import fed

_JOINS = frozenset({"cat", "stack"})
_RESHAPES = frozenset({"reshape", "flatten", "unflatten", "squeeze", "unsqueeze"})
_TURNS = frozenset({"permute", "transpose", "movedim"})
# Calls between a pick and what it picks from, at most.
FURTHEST = 60


@dataclass(frozen=True, slots=True)
class _Range:
    """Positions along an axis of a value, of all results of a call with several.

    `computed` says that more is done with them than to move them before they are read, `mixed` that this is a product.
    """

    value: str
    axis: int
    start: int
    stop: int
    step: int = 1
    computed: bool = False
    mixed: bool = False

    @property
    def count(self) -> int:
        """How many they are."""
        return len(range(self.start, self.stop, self.step))


@dataclass(frozen=True, slots=True)
class _Found:
    """What holds the positions of a range, and the joins whose parts it is computed from."""

    value: str
    joins: frozenset[str] = frozenset()


def with_parts_apart(graph: Graph, book: RuleBook) -> Graph:
    """The graph without tensors that are put together only to be picked apart again."""
    picks = {node.name for node in graph.calls if picked(node, graph.by_name) is not None}
    while picks:
        apart = _Apart(graph, book)
        found = without_dead_calls(apart.rewritten(picks))
        # Where something else reads what was put together, nothing is gained by computing some of it once more.
        kept = {name for name, joins in apart.reached.items() if joins.isdisjoint(found.by_name)}
        if kept == apart.reached.keys():
            return without_identities(found) if kept else graph
        picks = kept
    return graph


@dataclass
class _Apart:
    """Writes a graph anew; `reached` has for each pick that is computed from parts alone the joins of these."""

    graph: Graph
    book: RuleBook
    reached: dict[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fresh, self.fed = numbering(self.graph.by_name.keys()), fed(self.graph)
        self.known: dict[_Range, _Found] = {}
        self.nodes: list[Node] = []

    def rewritten(self, picks: set[str]) -> Graph:
        """The graph with these picks computed from parts, where they come from any."""
        for node in self.graph.nodes:
            pick = picked(node, self.graph.by_name) if node.name in picks else None
            if pick is not None:
                at = _Range(pick.source.name, pick.axis, pick.start, pick.start + pick.count)
                found = self._of(at, 0)
                if found.joins:
                    self.reached[node.name] = found.joins
                    reshaped = (Ref(found.value), node.shape)
                    node = replace(node, target="aten.reshape.default", args=reshaped, kwargs=())
            self.nodes.append(node)
        return replace(self.graph, nodes=tuple(self.nodes))

    # -- one range -----------------------------------------------------------------------------------------------------

    def _of(self, at: _Range, depth: int) -> _Found:
        node = self.graph.by_name[at.value]
        if isinstance(node.result, Tensor) and at.count == node.shape[at.axis]:
            return _Found(at.value)
        if at not in self.known:
            found = self._made(node, at, depth + 1) if node.kind is Kind.CALL and depth < FURTHEST else None
            self.known[at] = self._sliced(node, at) if found is None else found
        return self.known[at]

    def _sliced(self, node: Node, at: _Range) -> _Found:
        """As much of a value that is what it is."""
        if not isinstance(node.result, Tensor):
            return _Found("")
        return self._call(node, at, "aten.slice.Tensor", (Ref(at.value), at.axis, at.start, at.stop, at.step))

    def _call(self, like: Node, at: _Range, target: str, args: tuple[Any, ...], *parts: _Found) -> _Found:
        """Appends a call with as many positions along the axis of the results as are asked for."""
        results = like.result if isinstance(like.result, tuple) else (like.result,)
        short = tuple(
            replace(result, shape=resized(result.shape, at.axis, at.count))
            for result in results
            if isinstance(result, Tensor)
        )
        kwargs = like.kwargs if target == like.target else ()
        node = replace(like, name=self.fresh(like.name), kind=Kind.CALL, target=target, args=args, kwargs=kwargs)
        self.nodes.append(replace(node, result=short if isinstance(like.result, tuple) else short[0]))
        return _Found(node.name, frozenset().union(*(part.joins for part in parts)))

    def _again(self, node: Node, at: _Range, parts: Mapping[str, _Found]) -> _Found | None:
        """The same call on some positions of its operands."""
        if not all(part.value for part in parts.values()):
            return None
        found = {name: Ref(part.value) for name, part in parts.items()}
        args, kwargs = map_refs((node.args, node.kwargs), lambda ref: found.get(ref.name, ref))
        return self._call(replace(node, kwargs=kwargs), at, node.target, args, *parts.values())

    def _made(self, node: Node, at: _Range, depth: int) -> _Found | None:
        """A range of what a call makes, where it treats these positions by themselves."""
        if node.target == "getitem":
            (source,) = node.refs()
            whole = self._of(replace(at, value=source), depth)
            return self._again(node, at, {source: whole})
        binding = self.book.binding(node, self.graph)
        if binding is None:
            return None
        structure, given = binding.rule.structure, arguments(node) or {}
        if structure is None:
            return self._of_operands(node, at, binding, depth)
        if structure in _JOINS:
            return self._of_parts(node, at, given, depth)
        before = self._before(node, at, structure, given)
        found = None if before is None else self._moved(node, at, before, structure, given, depth)
        if at.computed and structure in _RESHAPES and not (found is not None and found.joins):
            return self._at_the_cut(node, at, before) or found
        return found

    def _at_the_cut(self, node: Node, at: _Range, before: _Range | None) -> _Found | None:
        """Positions of an axis that a reshape has cut from another, where more is done with them than to move them."""
        source = self.graph.by_name[next(node.refs())]
        if before is None:
            flat = _flat(at, source.shape, node.shape)
            part = None if flat is None else self._cut(node, source, *flat)
        else:
            part = self._sliced(source, before) if source.shape[before.axis] > before.count > at.count else None
        if part is None:
            return None
        shape = resized(node.shape, at.axis, at.count)
        return replace(
            self._call(node, at, "aten.reshape.default", (Ref(part.value), shape)), joins=frozenset([node.name])
        )

    def _cut(self, node: Node, source: Node, at: _Range, shape: tuple[int, ...]) -> _Found:
        """Positions along an axis of a value in another shape."""
        like = replace(node, result=Tensor(shape, ""))
        whole = self._call(
            like, _Range("", at.axis, 0, shape[at.axis]), "aten.reshape.default", (Ref(source.name), shape)
        )
        return self._call(like, at, "aten.slice.Tensor", (Ref(whole.value), at.axis, at.start, at.stop))

    def _moved(
        self, node: Node, at: _Range, before: _Range, structure: str, given: Mapping[str, Any], depth: int
    ) -> _Found | None:
        """The same moves of a part of what a call moves."""
        part = self._of(before, depth)
        others = [ref for ref in node.refs() if ref != before.value]
        if others:
            # They say which shape is wanted.
            like = {ref: self._of(replace(at, value=ref), depth) for ref in others}
            return self._again(node, at, {before.value: part, **like})
        if structure in _RESHAPES or structure == "expand":
            shape = resized(node.shape, at.axis, at.count)
            target = "aten.expand.default" if structure == "expand" else "aten.reshape.default"
            return self._call(node, at, target, (Ref(part.value), shape), part)
        cut = structure == "slice" and given["dim"] % len(node.shape) == at.axis
        return part if cut else self._again(node, at, {before.value: part})

    # -- operators that move entries -----------------------------------------------------------------------------------

    def _of_parts(self, node: Node, at: _Range, given: Mapping[str, Any], depth: int) -> _Found | None:
        stacked = node.target == "aten.stack.default"
        refs, dim = [ref.name for ref in node.args[0]], given["dim"] % len(node.shape)
        if dim != at.axis:
            axis = at.axis - (stacked and dim < at.axis)
            return self._again(node, at, {ref: self._of(replace(at, value=ref, axis=axis), depth) for ref in refs})
        # What stands in a row may have one role in a product; what is stacked has roles of its own.
        if at.step != 1 or (not stacked and at.mixed and node.name in self.fed):
            return None
        ends = [0, *accumulate(1 if stacked else self.graph.by_name[ref].shape[dim] for ref in refs)]
        if at.start not in ends or at.stop not in ends:
            return None
        found: list[_Found] = []
        for ref, first, last in zip(refs, ends, ends[1:], strict=False):
            if at.start <= first < last <= at.stop:
                one = replace(at, start=first, stop=last)
                unsqueezed = (Ref(ref), resized(node.shape, dim, 1))
                found.append(self._call(node, one, "aten.reshape.default", unsqueezed) if stacked else _Found(ref))
        args = (tuple(Ref(part.value) for part in found), dim)
        whole = found[0] if len(found) == 1 else self._call(node, at, "aten.cat.default", args, *found)
        return replace(whole, joins=whole.joins | {node.name})

    def _before(self, node: Node, at: _Range, structure: str, given: Mapping[str, Any]) -> _Range | None:
        """The positions of what a call moves that it moves to a range of its result."""
        shapes = structure in _RESHAPES or structure == "expand"
        refs = list(node.refs())[: 1 if shapes else None]
        before = self.graph.by_name[refs[0]] if len(refs) == 1 else None
        if before is None or not isinstance(before.result, Tensor):
            return None
        source, rank = replace(at, value=before.name), len(before.shape)
        if structure in _RESHAPES:
            return _in_other_cuts(source, before.shape, node.shape)
        if structure in _TURNS:
            turned = self.graph.answers.once((_turned, self.graph.form(node)), lambda: _turned(self.graph, node))
            return replace(source, axis=turned[at.axis])
        if structure == "expand":
            axis = at.axis - len(node.shape) + rank
            here = axis >= 0 and before.shape[axis] == node.shape[at.axis]
            return replace(source, axis=axis) if here else None
        if structure in ("select", "unbind"):
            return replace(source, axis=at.axis + (given["dim"] % rank <= at.axis))
        if structure == "slice" and given["dim"] % rank == at.axis:
            first = first_position(given.get("start"), before.shape[at.axis])
            plain = given["step"] == 1 and at.step == 1
            return replace(source, start=first + at.start, stop=first + at.stop) if plain else None
        if structure == "split" and given["dim"] % rank == at.axis:
            return None
        return source if structure in ("slice", "split", "identity") else None

    # -- operators with a signature ------------------------------------------------------------------------------------

    def _of_operands(self, node: Node, at: _Range, binding: Binding, depth: int) -> _Found | None:
        operands = list(binding.operands.values())
        if not binding.results or len(binding.results[0]) <= at.axis or node.target.startswith("pattern"):
            return None
        token = binding.results[0][at.axis]
        if not _is_by_itself(binding, token) or max(Counter(node.refs()).values()) > 1:
            return None
        having = {ref.name: [t.name for t in tokens].index(token.name) for ref, tokens in operands if token in tokens}
        others = [ref.name for ref, _ in operands if ref.name not in having]
        # A weight that all positions share would be read several times.
        if not having or any(map(self._is_weight, others)):
            return None
        alone = _with_groups(node, at)
        if alone is None:
            return None
        behind = replace(at, computed=True, mixed=at.mixed or _is_product(binding))
        parts = {name: self._of(replace(behind, value=name, axis=axis), depth) for name, axis in having.items()}
        return self._again(alone, at, parts)

    def _is_weight(self, value: str) -> bool:
        """Whether a value is a parameter with several axes, or has the entries of one."""
        node = self.graph.by_name[value]
        while node.kind is Kind.CALL and len(refs := list(node.refs())) == 1:
            binding = self.book.binding(node, self.graph)
            if binding is None or binding.rule.structure not in KEEPING:
                return False
            node = self.graph.by_name[refs[0]]
        return node.kind is Kind.PARAMETER and sum(size > 1 for size in node.shape) > 1


def _with_groups(node: Node, at: _Range) -> Node | None:
    """A call on some positions of an axis, which it takes one by one: a depthwise convolution has as many groups."""
    given = arguments(node) or {}
    if given.get("groups", 1) == 1:
        return node
    if given["groups"] != node.shape[at.axis]:
        return None
    names = [parameter.name for parameter in parameters(node.target) or ()]
    args = tuple(at.count if name == "groups" else value for name, value in zip(names, node.args, strict=False))
    kwargs = tuple((name, at.count if name == "groups" else value) for name, value in node.kwargs)
    return replace(node, args=args, kwargs=kwargs)


def _turned(graph: Graph, node: Node) -> tuple[int, ...]:
    """Which axis of its operand each axis of a result is, as strides tell."""
    (source,) = node.refs()
    rank = len(graph.by_name[source].shape)
    axes = torch.empty(1, dtype=torch.float64).as_strided((1,) * rank, tuple(range(rank)))
    return call(graph, node.name, {source: axes}).stride()


def _in_other_cuts(at: _Range, before: tuple[int, ...], after: tuple[int, ...]) -> _Range | None:
    """Positions of an axis of a reshaped tensor as positions of one axis of what it was, if they are that."""
    lead, inside = prod(after[: at.axis]), prod(after[at.axis + 1 :])
    for axis, size in enumerate(before):
        around, within = prod(before[:axis]), prod(before[axis + 1 :])
        if size == 1 or not around <= lead < around * size:
            continue
        if lead == around and (at.step == 1 or inside == within):
            start, stop = at.start * inside, at.stop * inside
            whole = start % within == 0 == stop % within
            return replace(at, axis=axis, start=start // within, stop=stop // within) if whole else None
        # The one position of an inner axis is one of so many, again and again.
        again = lead > around and at.count == 1 and inside == within and size * around == lead * after[at.axis]
        return replace(at, axis=axis, stop=size, step=after[at.axis]) if again else None
    return None


def _flat(at: _Range, before: tuple[int, ...], after: tuple[int, ...]) -> tuple[_Range, tuple[int, ...]] | None:
    """A range of what a reshape makes as one of a shape where it lies in a row, with that shape.

    Positions that come again and again are those of an axis of their own. An axis with others inside of it, all of them
    cut from one axis of what there was, is joined with these.
    """
    if at.step > 1:
        apart = (*after[: at.axis], at.count, at.step, *after[at.axis + 1 :])
        return replace(at, axis=at.axis + 1, stop=at.start + 1, step=1), apart
    lead = prod(after[: at.axis])
    for axis in range(len(before)):
        around, within = prod(before[:axis]), prod(before[axis + 1 :])
        ends = [end for end in range(at.axis + 1, len(after) + 1) if prod(after[end:]) == within]
        if ends and around < lead < around * before[axis]:
            inside = prod(after[at.axis + 1 : ends[0]])
            flat = (*after[: at.axis], after[at.axis] * inside, *after[ends[0] :])
            return replace(at, start=at.start * inside, stop=at.stop * inside), flat
    return None


def _is_by_itself(binding: Binding, token: AxisToken) -> bool:
    """Whether a call treats the positions along an axis one by one."""
    if token.axis == "*":
        return True
    admits = binding.rule.admits.get(token.axis, RIGID)
    return not token.mark and (SymmetryClass.SEMI_PERMUTATION in admits or SymmetryClass.INVERTIBLE in admits)


def _is_product(binding: Binding) -> bool:
    """Whether a call sums over an axis that several of its operands have."""
    kept = {token.name for result in binding.results for token in result}
    counts = Counter(token.name for _, tokens in binding.operands.values() for token in tokens)
    return any(count > 1 and name not in kept for name, count in counts.items())
