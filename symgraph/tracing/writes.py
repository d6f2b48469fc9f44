"""Operators that write in place, renamed to their functional forms where nothing else sees the write."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from symgraph.ir import Graph, Kind, Node, Ref, map_refs, rewired
from symgraph.tracing.operators import aliased, functional, written


def without_writes(graph: Graph) -> Graph | None:
    """Writes become values that later reads of the operand see; None if a write shows through another view."""
    current: dict[str, str] = {}
    memory, last_read = _memory(graph), _last_reads(graph)
    position: dict[str, int] = {}
    nodes: list[Node] = []
    for place, raw in enumerate(graph.nodes):
        node = reading(raw, current)
        for operand in _operands_at(node, written(node.target)):
            names = {name for name, now in current.items() if now == operand} | {operand}
            seen_elsewhere = (name for name in memory[operand] - names if position.get(name, place) < place)
            if functional(node.target) is None or any(last_read.get(name, -1) > place for name in seen_elsewhere):
                return None
            current.update(dict.fromkeys(names, node.name))
        position[node.name] = place
        nodes.append(replace(node, target=functional(node.target) or node.target) if written(node.target) else node)
    return with_nodes(graph, nodes, current)


def with_nodes(graph: Graph, nodes: Iterable[Node], names: Mapping[str, str]) -> Graph:
    """`graph` of other nodes: each output is the value that `names` gives for it."""
    return replace(graph, nodes=tuple(nodes), outputs=tuple(names.get(output, output) for output in graph.outputs))


def reading(node: Node, names: Mapping[str, str]) -> Node:
    """`node` reading other values: each operand replaced by the one that `names` gives for it."""
    if not any(ref in names for ref in node.refs()):
        return node

    def renamed(ref: Ref) -> Ref:
        return Ref(names.get(ref.name, ref.name))

    return rewired(node, renamed, name=node.name, module=node.module)


def _memory(graph: Graph) -> dict[str, set[str]]:
    """For every value, the values that may share its memory."""
    classes: defaultdict[str, set[str]] = defaultdict(set)
    for node in graph.nodes:
        mine = classes[node.name]
        mine.add(node.name)
        for operand in _aliased_operands(node, graph):
            theirs = classes[operand]
            if theirs is mine:
                continue
            mine |= theirs
            for name in theirs:
                classes[name] = mine
    return classes


def _aliased_operands(node: Node, graph: Graph) -> Iterator[str]:
    if node.target == "getitem":
        # The pieces of a split see its operand; the results of any other operator have memory of their own.
        yield from (ref for ref in node.refs() if aliased(graph.by_name[ref].target))
    elif node.kind is Kind.CALL:
        yield from _operands_at(node, aliased(node.target))


def _operands_at(node: Node, positions: tuple[int, ...]) -> list[str]:
    refs: list[str] = []
    map_refs(
        [argument for place, argument in enumerate(node.args) if place in positions], lambda ref: refs.append(ref.name)
    )
    return refs


def _last_reads(graph: Graph) -> dict[str, int]:
    last = {name: place for place, node in enumerate(graph.nodes) for name in node.refs()}
    return last | dict.fromkeys(graph.outputs, len(graph.nodes))
