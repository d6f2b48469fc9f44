"""Outputs as a softmax loss sees them: up to a shift along their last axis."""

from __future__ import annotations

from dataclasses import replace

from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.tracing.naming import numbering


def seen_by_softmax(graph: Graph) -> Graph:
    """The graph with the logarithm of a softmax behind every floating output that has an axis."""
    fresh = numbering(graph.by_name.keys())
    added: dict[str, Node] = {}
    for name in graph.outputs:
        node = graph.by_name[name]
        if node.is_floating and node.shape:
            args = (Ref(name), -1)
            added[name] = Node(fresh("log_softmax"), Kind.CALL, "aten.log_softmax.int", args, result=node.result)
    outputs = tuple(added[o].name if o in added else o for o in graph.outputs)
    return replace(graph, nodes=(*graph.nodes, *added.values()), outputs=outputs)
