"""Products with masks that nothing needs: what they close is closed again before anything sees it.

A model of texts of several lengths may multiply its stream by the mask of these in every block. If closed keys and
values have no weight, and the last product closes all that is left, the others do nothing but hide the constants that
a bias adds from what could make up for them. Which entries of a value are seen is followed backwards from the outputs,
by what rules say of axes, while masks are drawn; a product that closes unseen entries alone is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.regions import Dataflow, dataflow, unless_refused
from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.ir import Tensor as Meta
from symgraph.rules.binding import Binding
from symgraph.rules.book import RuleBook
from symgraph.rules.facts import Facts
from symgraph.rules.moving import PICKING
from symgraph.tracing.arguments import arguments
from symgraph.tracing.interpreter import Interpreter, call
from symgraph.tracing.operators import short_name
from symgraph.tracing.writes import reading

# How many masks are drawn entry by entry, and how many that close what lies behind a place of each row.
_DRAWN, _LENGTHS = 2, 1
# Numbers that leave a score no weight.
_SHUT = -1e30
_SHAPED = {
    "aten.expand_as.default": "aten.expand.default",
    "aten.view_as.default": "aten.reshape.default",
    "aten.reshape_as.default": "aten.reshape.default",
}
_PRODUCTS = frozenset({"matmul", "bmm"})
Values = Mapping[str, Tensor]


def without_needless_masks(graph: Graph, book: RuleBook) -> Graph:
    """The graph without products with masks of which nothing sees what they close."""
    products = [node for node in graph.calls if any(_is_made_of_truth(ref, graph) for ref in _factors(node))]
    if not products:
        return graph
    flow = dataflow(_by_shapes(graph))
    masks = {node.name: mask for node in products if (mask := _mask_of(node, flow)) is not None}
    by_seed: dict[str, list[str]] = {}
    for name, mask in masks.items():
        if (seed := _seed(mask, flow)) is not None:
            by_seed.setdefault(seed, []).append(name)
    needless = set[str]()
    for seed, names in by_seed.items():
        needless |= unless_refused(partial(_needless, flow, book, seed, names, masks), frozenset())
    return _without(graph, flow, needless) if needless else graph


def _by_shapes(graph: Graph) -> Graph:
    """The graph with shapes in the place of values of which nothing else is read, so that masks depend on no data."""
    return replace(graph, nodes=tuple(map(_by_shape, graph.nodes)))


def _by_shape(node: Node) -> Node:
    target = _SHAPED.get(node.target)
    return node if target is None else replace(node, target=target, args=(node.args[0], node.shape), kwargs=())


def _factors(node: Node) -> tuple[str, ...]:
    """The two values that a call multiplies."""
    refs = tuple(node.refs()) if short_name(node.target) == "mul" else ()
    return refs if len(refs) == 2 else ()


def _is_made_of_truth(value: str, graph: Graph) -> bool:
    """Whether a value is made of truth values by calls that read nothing else."""
    node = graph.by_name[value]
    while node.kind is Kind.CALL and not _is_truth(node):
        refs = list(node.refs())
        if len(refs) != 1:
            return False
        node = graph.by_name[refs[0]]
    return _is_truth(node)


def _is_truth(node: Node) -> bool:
    return isinstance(node.result, Meta) and node.result.dtype == "bool"


def _mask_of(node: Node, flow: Dataflow) -> str | None:
    """What a product multiplies data by that depends on inputs alone, where the data have the shape of the result."""
    live = flow.live_operands(node)
    masks = [ref for ref in _factors(node) if ref in flow.fed and ref not in flow.learned]
    alike = len(live) == len(masks) == 1 and flow.graph.by_name[live[0]].shape == node.shape
    return masks[0] if alike else None


def _seed(mask: str, flow: Dataflow) -> str | None:
    """The first truth values that a mask is made of, if it is made of nothing else that inputs decide."""
    found, name = None, mask
    while True:
        node = flow.graph.by_name[name]
        if _is_truth(node):
            found = name
        fed = [ref for ref in dict.fromkeys(node.refs()) if ref in flow.fed]
        if node.kind is not Kind.CALL or len(fed) != 1:
            return found
        name = fed[0]


def _without(graph: Graph, flow: Dataflow, needless: set[str]) -> Graph:
    same: dict[str, str] = {}
    nodes: list[Node] = []
    for raw in graph.nodes:
        if raw.name in needless:
            (value,) = flow.live_operands(raw)
            same[raw.name] = same.get(value, value)
        else:
            nodes.append(reading(raw, same))
    return replace(graph, nodes=tuple(nodes))


def _needless(
    flow: Dataflow, book: RuleBook, seed: str, products: Sequence[str], masks: Mapping[str, str]
) -> frozenset[str]:
    """Those of some products by masks of one seed that close nothing that is seen, whatever is drawn."""
    left = {name: torch.zeros(flow.graph.by_name[name].shape, dtype=torch.bool) for name in products}
    tables = _Tables(flow, seed)
    rules = _Rules(flow.graph, book)
    for drawn in _drawn(flow.graph.by_name[seed].shape):
        known = tables.at(drawn)
        seen = _Seen(flow, rules, known).entries(products)
        for name in list(left):
            table = known[masks[name]]
            closed = (table == 0).expand(flow.graph.by_name[name].shape)
            if bool((table != table.bool()).any()) or bool((closed & seen[name]).any()):
                del left[name]
            else:
                left[name] |= closed
        if not left:
            break
    return frozenset(name for name, ever_closed in left.items() if bool(ever_closed.all()))


def _drawn(shape: Sequence[int]) -> Iterator[Tensor]:
    """Truth values that a seed may have: none, at random, and those up to a place of each row."""
    generator = torch.Generator().manual_seed(0)
    yield torch.zeros(shape, dtype=torch.bool)
    for _ in range(_DRAWN):
        yield torch.rand(shape, generator=generator) < 0.5
    length = shape[-1] if shape else 1
    for _ in range(_LENGTHS):
        ends = torch.randint(0, length + 1, (*shape[:-1], 1), generator=generator)
        yield (torch.arange(length) < ends).reshape(shape)


class _Tables:
    """Values that follow from a seed and from the graph alone."""

    def __init__(self, flow: Dataflow, seed: str) -> None:
        graph = flow.graph
        unknown = {n.name for n in graph.nodes if n.kind is not Kind.CALL and n.target not in graph.known}
        unknown |= {n.name for n in graph.parameters.values()}
        nodes = list[Node]()
        for node in graph.nodes:
            if node.name == seed:
                unknown.discard(seed)
                nodes.append(node.as_input())
            elif node.name not in unknown and unknown.isdisjoint(node.refs()):
                nodes.append(node)
            else:
                unknown.add(node.name)
        self.seed, self.known = seed, graph.known
        read = {ref for node in graph.nodes if node.name in unknown for ref in node.refs()}
        self.ends = tuple(n.name for n in nodes if n.name in read and isinstance(n.result, Meta))
        self.run = Interpreter(Graph(tuple(nodes), self.ends))

    def at(self, drawn: Tensor) -> dict[str, Tensor]:
        """The values that others read, with these truth values in the seed."""
        return dict(zip(self.ends, self.run.run(self.known, {self.seed: drawn}), strict=True))


class _Rules:
    """What rules say of calls, once it is proven there."""

    def __init__(self, graph: Graph, book: RuleBook) -> None:
        self.graph, self.book, self.facts = graph, book, Facts(graph)
        self._found: dict[str, Binding | None] = {}
        self._numbers: dict[tuple[str, str], list[Tensor]] = {}

    def numbers(self, node: Node, value: str) -> list[Tensor]:
        """Which entry of an operand, counted from one, stands where in the results of a call that moves entries."""
        if (node.name, value) not in self._numbers:
            shapes = {ref: self.graph.by_name[ref].shape for ref in node.refs()}
            given = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
            count = torch.Size(shapes[value]).numel()
            given[value] = torch.arange(1.0, count + 1, dtype=torch.float64).reshape(shapes[value])
            made: Any = call(self.graph, node.name, given)
            several = made if isinstance(made, list | tuple) else [made]
            # What a call fills in is none of them.
            self._numbers[node.name, value] = [
                torch.where((numbers >= 1) & (numbers <= count), numbers, 0.0).long() for numbers in several
            ]
        return self._numbers[node.name, value]

    def of(self, node: Node) -> Binding | None:
        """The rule at a call, with what holds of it."""
        if node.name not in self._found:
            binding = self.book.binding(node, self.graph)
            if binding is not None and binding.rule.structure is None:
                proof = self.book.proof(binding, node, self.graph, self.facts)
                binding = replace(binding, rule=proof.rule)
            self._found[node.name] = binding
        return self._found[node.name]


@dataclass
class _Seen:
    """Which entries of values anything sees, where masks are `known`."""

    flow: Dataflow
    rules: _Rules
    known: Values
    _seen: dict[str, list[Tensor]] = field(default_factory=dict)

    def entries(self, wanted: Sequence[str]) -> dict[str, Tensor]:
        """Those of these values that outputs depend on; shapes: those of the values."""
        graph, found = self.flow.graph, dict[str, Tensor]()
        for output in graph.outputs:
            for entries in self._of(output):
                entries.fill_(True)
        for node in reversed(graph.nodes):
            if node.name in wanted:
                found[node.name] = self._of(node.name)[0]
            if len(found) == len(wanted):
                break
            if node.kind is Kind.CALL and node.name in self.flow.live:
                self._go_back(node)
        return found

    def _of(self, name: str) -> list[Tensor]:
        if name not in self._seen:
            result = self.flow.graph.by_name[name].result
            metas = result if isinstance(result, tuple) else (result,)
            self._seen[name] = [torch.zeros(m.shape, dtype=torch.bool) for m in metas if isinstance(m, Meta)]
        return self._seen[name]

    def _go_back(self, node: Node) -> None:
        """What a call sees of what it reads, if some of it is seen."""
        seen = self._seen.pop(node.name, [])
        if not any(bool(entries.any()) for entries in seen):
            return
        for value in dict.fromkeys(self.flow.live_operands(node)):
            before = self._of(value)
            if node.target == "getitem":
                before[int(node.args[1])] |= seen[0]
                continue
            for entries in before:
                entries |= self._before(node, value, seen, entries.shape)

    def _before(self, node: Node, value: str, seen: list[Tensor], shape: torch.Size) -> Tensor:
        """Which entries of one of its operands a call sees; all of them where that is not known."""
        everything = torch.ones(shape, dtype=torch.bool)
        if list(node.refs()).count(value) != 1 or len(self._of(value)) != 1:
            return everything
        binding = self.rules.of(node)
        if binding is not None and binding.rule.structure is not None:
            return everything if binding.rule.structure in PICKING else self._moved(node, value, seen, shape)
        if len(seen) != 1:
            return everything
        chosen = self._chosen(node, value, seen[0])
        if chosen is not None:
            return _summed(chosen, shape)
        weighted = self._weighted(node, value, seen[0])
        if weighted is not None:
            return weighted
        return everything if binding is None else _one_by_one(binding, value, seen[0], shape)

    def _chosen(self, node: Node, value: str, seen: Tensor) -> Tensor | None:
        """What a mask leaves of a value where it stands in the result; None if no known one does."""
        given, kind = arguments(node) or {}, short_name(node.target)
        if kind in ("mul", "add") and given.get("alpha", 1) == 1:
            table = next((self.known[ref] for ref in node.refs() if ref in self.known), None)
            # What is added to so large a number is lost in its rounding.
            return None if table is None else seen & (table != 0 if kind == "mul" else table > _SHUT)
        mask = self._known(given.get("mask" if kind == "masked_fill" else "condition"))
        if kind not in ("masked_fill", "where") or mask is None:
            return None
        return seen & (mask if kind == "where" and given["self"] == Ref(value) else ~mask)

    def _known(self, given: object) -> Tensor | None:
        return self.known.get(given.name) if isinstance(given, Ref) else None

    def _weighted(self, node: Node, value: str, seen: Tensor) -> Tensor | None:
        """What a product of weights and values sees of one of them, where some weights are known to be zero."""
        given, kind = arguments(node) or {}, short_name(node.target)
        own = self.flow.graph.by_name[value].shape
        if kind in _PRODUCTS and list(node.refs())[1:] == [value]:
            open_ = self._open(self.flow.graph.by_name[next(iter(node.refs()))])
        elif kind == "scaled_dot_product_attention" and given["query"] != Ref(value):
            open_ = self._let_through(self._known(given["attn_mask"]), (*seen.shape[:-1], own[-2]))
        else:
            return None
        if open_ is None or own[:-2] != seen.shape[:-2]:
            return None
        rows = seen if own[-1] == seen.shape[-1] and given.get("key") != Ref(value) else seen.any(-1, keepdim=True)
        return (open_.double().mT @ rows.double() > 0).expand(own)

    def _open(self, weights: Node) -> Tensor | None:
        """Which weights of a softmax a mask leaves."""
        given = arguments(weights) or {} if short_name(weights.target) in ("softmax", "_softmax") else {}
        if "self" not in given or given["dim"] % len(weights.shape) != len(weights.shape) - 1:
            return None
        scores = self.flow.graph.by_name[given["self"].name]
        made = arguments(scores) or {}
        if short_name(scores.target) == "masked_fill" and isinstance(made["value"], float | int):
            mask = self._known(made["mask"]) if made["value"] <= _SHUT else None
            return self._let_through(None if mask is None else ~mask, weights.shape)
        tables = [self.known[ref] for ref in scores.refs() if ref in self.known]
        is_sum = short_name(scores.target) == "add" and made.get("alpha", 1) == 1 and len(tables) == 1
        return self._let_through(tables[0] if is_sum else None, weights.shape)

    def _let_through(self, mask: Tensor | None, shape: Sequence[int]) -> Tensor | None:
        """Which places have weight: all of a row where a mask leaves none."""
        if mask is None:
            return None
        open_ = (mask if mask.dtype == torch.bool else mask > _SHUT).expand(shape)
        return open_ | ~open_.any(-1, keepdim=True)

    def _moved(self, node: Node, value: str, seen: list[Tensor], shape: torch.Size) -> Tensor:
        """Where a call that moves entries has taken those that are seen from."""
        found = torch.zeros(shape.numel() + 1, dtype=torch.bool)
        for entries, numbers in zip(seen, self.rules.numbers(node, value), strict=True):
            found[numbers[entries]] = True
        return found[1:].reshape(shape)


def _summed(seen: Tensor, shape: torch.Size) -> Tensor:
    """Entries of a result as those of an operand that is spread along some of its axes."""
    lead = seen.dim() - len(shape)
    spread = [i for i in range(seen.dim()) if i < lead or shape[i - lead] == 1 < seen.shape[i]]
    kept = seen.amax(spread, keepdim=True) if spread else seen
    return kept.reshape(shape)


def _one_by_one(binding: Binding, value: str, seen: Tensor, shape: torch.Size) -> Tensor:
    """What a call sees of an operand where it treats the positions of an axis one by one."""
    tokens = next(tokens for ref, tokens in binding.operands.values() if ref.name == value)
    (results, *_) = binding.results
    rule = binding.rule

    def is_single(dim: int) -> bool:
        token = results[dim]
        alone = token.batch or (token.claimed and SymmetryClass.SEMI_PERMUTATION in rule.admits.get(token.axis, ()))
        return alone and token.name in {t.name for t in tokens} and shape[at(dim)] == seen.shape[dim]

    def at(dim: int) -> int:
        return [t.name for t in tokens].index(results[dim].name)

    single = [dim for dim in range(len(results)) if is_single(dim)]
    mixed = [dim for dim in range(len(results)) if dim not in single]
    kept = seen.amax(mixed) if mixed else seen
    places = [at(dim) for dim in single]
    order = sorted(range(len(single)), key=places.__getitem__)
    axes = [shape[i] if i in places else 1 for i in range(len(shape))]
    return kept.permute(order).reshape(axes).expand(shape)
