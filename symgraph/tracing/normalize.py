"""Passes over a graph that take out what changes no value: casts, copies, dead calls, empty parts, picking all rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from symgraph.ir import DType, Graph, Kind, Node, Ref, Tensor
from symgraph.tracing.naming import numbering
from symgraph.tracing.operators import arguments, is_wide, short_name
from symgraph.tracing.pieces import without_partial_writes
from symgraph.tracing.positions import with_whole_tables
from symgraph.tracing.writes import reading

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
_TRANSPOSES = frozenset({"aten.t.default", "aten.numpy_T.default", "aten.mT.default", "aten.transpose.int"})
_PRODUCTS = frozenset({"aten.matmul.default", "aten.mm.default", "aten.addmm.default"})
# What an operator that addresses memory by strides reads depends on the layout that these make.
_COPIES = frozenset({"aten.contiguous.default", "aten.clone.default"})
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
    plain = with_whole_tables(without_partial_writes(without_identities(graph)))
    return renumbered(without_dead_calls(plain))


def without_identities(graph: Graph) -> Graph:
    """Copies and casts between floating types replaced by their operand."""
    kept: dict[str, Node] = {}
    same: dict[str, str] = {}
    strided = any(n.target.startswith("aten.as_strided") for n in graph.nodes)
    for raw in graph.nodes:
        node = reading(raw, same)
        for rewrite in _SPELLINGS:
            node = rewrite(node, kept)
        operand = None if strided and node.target in _COPIES else _passed_on(node, kept)
        if operand is None:
            kept[node.name] = node
        else:
            same[node.name] = operand
    return replace(graph, nodes=tuple(kept.values()), outputs=tuple(same.get(o, o) for o in graph.outputs))


def without_dead_calls(graph: Graph) -> Graph:
    """Calls and unstored buffers that no output depends on left out; parameters and inputs stay."""
    live = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in live:
            live.update(node.refs())
    nodes = tuple(n for n in graph.nodes if n.name in live or _stays(n, graph.transient))
    names = {n.name for n in nodes}
    return replace(graph, nodes=nodes, transient=frozenset(graph.transient & names))


def renumbered(graph: Graph) -> Graph:
    """Calls named after their operators and numbered in order: `linear`, `linear_1`, ..."""
    taken = {n.name for n in graph.nodes if n.kind is not Kind.CALL}
    fresh, names, nodes = numbering(taken), dict[str, str](), list[Node]()
    for node in graph.nodes:
        if node.kind is Kind.CALL:
            names[node.name] = fresh(short_name(node.target))
            node = replace(reading(node, names), name=names[node.name])
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), outputs=tuple(names.get(o, o) for o in graph.outputs))


def _stays(node: Node, transient: frozenset[str]) -> bool:
    return node.kind in (Kind.PARAMETER, Kind.INPUT) or (node.kind is Kind.BUFFER and node.target not in transient)


def _copied(node: Node, known: Mapping[str, Node]) -> Node:
    """A copy into a tensor as what it makes of the other one: nothing of the first is left but its shape and dtype."""
    if node.target != "aten.copy.default" or not isinstance(node.result, Tensor):
        return node
    source, result = known[node.args[1].name], node.result
    if source.shape == node.shape:
        return replace(node, target="aten.to.dtype", args=(node.args[1], DType(result.dtype)), kwargs=())
    if _keeps_kind(source, node):
        return replace(node, target="aten.expand.default", args=(node.args[1], node.shape), kwargs=())
    return node


def _linear(node: Node, known: Mapping[str, Node]) -> Node:
    """A product with the transpose of a matrix, with or without a sum, as the linear map that it is."""
    if node.target not in _PRODUCTS or not all(isinstance(a, Ref) for a in node.args):
        return node
    *first, left, right = node.args
    turned = known[right.name]
    given = arguments(turned.target, turned.args, turned.kwargs) if turned.target in _TRANSPOSES else {}
    plain = len(turned.shape) == 2 and {given.get("dim0", 0) % 2, given.get("dim1", 1) % 2} == {0, 1}
    if not given or not plain or node.kwargs or any(len(known[b.name].shape) != 1 for b in first):
        return node
    return replace(node, target="aten.linear.default", args=(left, given["self"], *first))


def _filled(node: Node, known: Mapping[str, Node]) -> Node:
    """A choice between a tensor and one number, with the number written out."""
    if node.target != "aten.where.self":
        return node
    number = known[node.args[2].name]
    if number.target != "aten.full.default" or number.shape != () or not _keeps_kind(number, node):
        return node
    return replace(node, target="aten.where.ScalarOther", args=(*node.args[:2], number.args[1]))


def _looked_up(node: Node, known: Mapping[str, Node]) -> Node:
    """Rows of a table without what concerns gradients alone: derivatives of the graph are those of what it computes."""
    gradients = node.target == "aten.embedding.default" and len(node.args) >= 2
    return replace(node, args=node.args[:2], kwargs=()) if gradients else node


def _joined(node: Node, known: Mapping[str, Node]) -> Node:
    """A concatenation without its empty parts (a cache that holds nothing yet); of one part it is a copy."""
    if node.target != "aten.cat.default" or not isinstance(node.args[0], tuple):
        return node
    parts = tuple(r for r in node.args[0] if 0 not in known[r.name].shape)
    # What is empty may still be what makes integers into floats.
    if len(parts) == len(node.args[0]) or not any(_keeps_kind(known[p.name], node) for p in parts):
        return node
    if len(parts) == 1:
        return replace(node, target="aten.alias.default", args=parts, kwargs=())
    return replace(node, args=(parts, *node.args[1:]))


# Several spellings of one thing, each rewritten as the one that rules speak about.
_SPELLINGS = (_copied, _joined, _looked_up, _linear, _filled)


def _passed_on(node: Node, known: Mapping[str, Node]) -> str | None:
    """The operand that the value of `node` equals, if there is one."""
    if not node.args or not isinstance(node.args[0], Ref):
        return None
    operand = node.args[0].name
    if node.target in _IDENTITIES:
        return operand
    return operand if node.target in _CASTS and _keeps_kind(known[operand], node) else None


def _keeps_kind(before: Node, after: Node) -> bool:
    a, b = before.result, after.result
    return isinstance(a, Tensor) and isinstance(b, Tensor) and _kind(a.dtype) == _kind(b.dtype)


def _kind(dtype: str) -> str:
    """Floating types that are computed in are one kind, complex ones another: the executor has one precision each."""
    found: torch.dtype = getattr(torch, dtype)
    return "float" if is_wide(found) else "complex" if found.is_complex else dtype
