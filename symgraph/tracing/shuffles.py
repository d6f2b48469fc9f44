"""Shuffles of channels that are written out: what a cut, an exchange and the same cut joined again make of them."""

from __future__ import annotations

from dataclasses import replace

from symgraph.ir import Graph, Node, Ref
from symgraph.tracing.arguments import arguments

_CUTS = frozenset(
    f"aten.{name}"
    for name in ("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int")
)


def with_shuffles(graph: Graph) -> Graph:
    """The graph with every such run of calls as one; its first calls stay."""
    nodes = []
    for node in graph.nodes:
        found = _shuffled(node, graph)
        nodes.append(node if found is None else _shuffle(node, *found))
    return replace(graph, nodes=tuple(nodes))


def _shuffle(node: Node, source: Ref, groups: int) -> Node:
    return replace(node, target="aten.channel_shuffle.default", args=(source, groups), kwargs=())


def _shuffled(node: Node, graph: Graph) -> tuple[Ref, int] | None:
    """What a call joins again in another order, and the number of groups that take turns then."""
    exchanged = _operand(node, graph) if node.target in _CUTS else None
    cut = _operand(exchanged, graph) if exchanged is not None and _exchanges(exchanged) else None
    source = _operand(cut, graph) if cut is not None and cut.target in _CUTS else None
    if cut is None or source is None or source.shape != node.shape or len(node.shape) < 3:
        return None
    groups = cut.shape[1]
    parts = (node.shape[0], groups, node.shape[1] // groups, *node.shape[2:])
    return (Ref(source.name), groups) if cut.shape == parts and 1 < groups < node.shape[1] else None


def _operand(node: Node, graph: Graph) -> Node | None:
    value = node.args[0] if node.args else None
    return graph.by_name[value.name] if isinstance(value, Ref) else None


def _exchanges(node: Node) -> bool:
    """Whether a call exchanges the two axes behind the first."""
    given, rank = arguments(node) or {}, len(node.shape)
    if node.target == "aten.permute.default":
        return [dim % rank for dim in given["dims"]] == [0, 2, 1, *range(3, rank)]
    return node.target == "aten.transpose.int" and {given["dim0"] % rank, given["dim1"] % rank} == {1, 2}
