"""Passes over a graph that take out what changes no value: casts, copies, factors of one, dead calls, empty parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from symgraph.ir import Graph, Kind, Node, Ref, rewired
from symgraph.tracing.naming import numbering
from symgraph.tracing.operators import short_name
from symgraph.tracing.picked_maps import with_exponents_apart
from symgraph.tracing.pieces import without_partial_writes
from symgraph.tracing.positions import with_whole_tables
from symgraph.tracing.shuffles import with_shuffles
from symgraph.tracing.spellings import SPELLINGS, keeps_kind
from symgraph.tracing.stored_norms import with_stored_norms
from symgraph.tracing.uniform import uniform
from symgraph.tracing.writes import reading, with_nodes
from symgraph.tracing.written_out import written_out

_IDENTITIES = frozenset(
    {
        "aten.contiguous.default",
        "aten.alias.default",
        "aten.detach.default",
        "aten.clone.default",
        "aten.lift.default",
        "aten.lift_fresh.default",
        "aten.lift_fresh_copy.default",
        "aten.positive.default",
        "aten.resolve_conj.default",
        "aten.resolve_neg.default",
    }
)
_CONSTANTS = frozenset({"zeros", "ones", "full", "scalar_tensor", "eye"})
# What an operator that addresses memory by strides reads depends on the layout that these make.
_COPIES = frozenset({"aten.contiguous.default", "aten.clone.default"})
_PRODUCTS = frozenset({"aten.mul.Tensor", "aten.div.Tensor"})
_CASTS = frozenset(
    {
        "aten.to.dtype",
        "aten.to.dtype_layout",
        "aten.to.device",
        "aten.to.other",
        "aten._to_copy.default",
        "aten.type_as.default",
        "prims.convert_element_type.default",
        "prims.device_put.default",
    }
)


def normalize(graph: Graph) -> Graph:
    """Takes no-ops and dead calls out of a graph without writes, and numbers its values anew."""
    # What reads two equal values reads one: a sum of products is then one of squares.
    written = written_out(without_repetitions(without_identities(graph)))
    plain = with_whole_tables(without_partial_writes(without_factors_of_one(without_identities(written))))
    whole = with_shuffles(with_stored_norms(without_repetitions(plain)))
    return renumbered(without_dead_calls(with_exponents_apart(whole)))


def without_identities(graph: Graph) -> Graph:
    """Copies and casts between floating types replaced by their operand."""
    kept: dict[str, Node] = {}
    same: dict[str, str] = {}
    strided = any(node.target.startswith("aten.as_strided") for node in graph.nodes)
    for raw in graph.nodes:
        node = reading(raw, same)
        for rewrite in SPELLINGS:
            node = rewrite(node, kept)
        operand = None if strided and node.target in _COPIES else _passed_on(node, kept)
        if operand is None:
            kept[node.name] = node
        else:
            same[node.name] = operand
    return with_nodes(graph, kept.values(), same)


def without_factors_of_one(graph: Graph) -> Graph:
    """Products with ones (a mask that nobody gave) replaced by what is multiplied."""
    ones = uniform(graph, 1)
    same: dict[str, str] = {}
    kept: list[Node] = []
    for raw in graph.nodes:
        node = reading(raw, same)
        operand = _times_one(node, graph.by_name, ones)
        if operand is None:
            kept.append(node)
        else:
            same[node.name] = operand
    return with_nodes(graph, kept, same)


def without_repetitions(graph: Graph) -> Graph:
    """Calls that compute what one before them has computed left out.

    Constants stay: each has axes of its own. What is made of equal constants and no parameters is the same.
    """
    first: dict[tuple[object, ...], str] = {}
    same: dict[str, str] = {}
    equal: dict[str, str] = {}
    learned: set[str] = set()
    nodes: list[Node] = []
    for raw in graph.nodes:
        node = reading(raw, same)
        if node.kind is Kind.PARAMETER or any(ref in learned for ref in node.refs()):
            learned.add(node.name)
        asked = node if node.name in learned else reading(node, equal)
        earlier = first.setdefault((node.kind, node.target, repr(asked.args), repr(asked.kwargs)), node.name)
        if node.kind is not Kind.CALL or earlier == node.name:
            nodes.append(node)
        elif short_name(node.target) in _CONSTANTS:
            equal[node.name] = earlier
            nodes.append(node)
        else:
            same[node.name] = earlier
    return with_nodes(graph, nodes, same)


def without_dead_calls(graph: Graph) -> Graph:
    """Calls and unstored buffers that no output depends on left out; parameters and inputs stay."""
    live = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in live:
            live.update(node.refs())
    nodes = tuple(node for node in graph.nodes if node.name in live or _stays(node, graph.transient))
    names = {node.name for node in nodes}
    return replace(graph, nodes=nodes, transient=frozenset(graph.transient & names))


def renumbered(graph: Graph) -> Graph:
    """Calls named after their operators and numbered in order: `linear`, `linear_1`, ..."""
    taken = {node.name for node in graph.nodes if node.kind is not Kind.CALL}
    fresh, names, nodes = numbering(taken), dict[str, str](), list[Node]()

    def renamed(ref: Ref) -> Ref:
        return Ref(names.get(ref.name, ref.name))

    for node in graph.nodes:
        if node.kind is Kind.CALL:
            names[node.name] = fresh(short_name(node.target))
            node = rewired(node, renamed, name=names[node.name], module=node.module)
        nodes.append(node)
    return with_nodes(graph, nodes, names)


def _stays(node: Node, transient: frozenset[str]) -> bool:
    return node.kind in (Kind.PARAMETER, Kind.INPUT) or (node.kind is Kind.BUFFER and node.target not in transient)


def _times_one(node: Node, known: Mapping[str, Node], ones: frozenset[str]) -> str | None:
    """The operand of a product that its value equals, where all others are ones."""
    if node.target not in _PRODUCTS or not all(isinstance(a, Ref) for a in node.args[:2]):
        return None
    left, right = (a.name for a in node.args[:2])
    pairs = ((left, right), (right, left)) if node.target == "aten.mul.Tensor" else ((left, right),)
    plain = (value for value, other in pairs if other in ones and _is_alike(known[value], node))
    return next(plain, None)


def _is_alike(before: Node, after: Node) -> bool:
    """Whether two values have one shape and one kind of numbers."""
    return keeps_kind(before, after) and before.shape == after.shape


def _passed_on(node: Node, known: Mapping[str, Node]) -> str | None:
    """The operand that the value of `node` equals, if there is one."""
    if not node.args or not isinstance(node.args[0], Ref):
        return None
    operand = node.args[0].name
    if node.target in _IDENTITIES:
        return operand
    return operand if node.target in _CASTS and keeps_kind(known[operand], node) else None
