"""Several traces of one model as one graph: parameters shared, the values and outputs of every trace side by side.

What is inferred from a joint graph holds for every kind of input at once, since every rule sees all calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from symgraph.ir import Graph, Kind, Node
from symgraph.tracing.naming import numbering
from symgraph.tracing.operators import short_name
from symgraph.tracing.writes import reading

_STATE = (Kind.PARAMETER, Kind.BUFFER)


def joined(plain: Graph, further: Mapping[str, Graph]) -> Graph:
    """The graph of all traces; inputs of the further ones are called after the kind of input as well."""
    whole = plain
    for kind, graph in further.items():
        whole = _beside(whole, graph, kind)
    return replace(whole, kinds=tuple(further))


def _beside(first: Graph, second: Graph, kind: str) -> Graph:
    fresh = numbering(first.by_name.keys())
    shared = {node.name: node.name for node in second.nodes if node.kind in _STATE}
    names, nodes = dict(shared), list[Node]()
    for node in second.nodes:
        if node.kind in _STATE:
            nodes += [] if node.name in first.by_name else [node]
            continue
        names[node.name] = fresh(node.name if node.kind is Kind.INPUT else short_name(node.target))
        target = f"{kind}: {node.target}" if node.kind is Kind.INPUT else node.target
        nodes.append(replace(reading(node, names), name=names[node.name], target=target))
    return replace(
        first,
        nodes=_ordered((*first.nodes, *nodes)),
        outputs=(*first.outputs, *(names[output] for output in second.outputs)),
        transient=first.transient | second.transient,
        idle=first.idle | second.idle,
        closed=first.closed and second.closed,
        known={**second.known, **first.known},
    )


def _ordered(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """State first, then inputs, then calls, each in their order."""
    order = {Kind.PARAMETER: 0, Kind.BUFFER: 1, Kind.INPUT: 2, Kind.CALL: 3}
    return tuple(sorted(nodes, key=lambda node: order[node.kind]))
