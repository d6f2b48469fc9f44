"""Operators that write in place, renamed to their functional forms where nothing else sees the write."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from symgraph.ir import Graph, Kind, Node, Ref, map_refs
from symgraph.tracing.operators import aliased, functional, written


def without_writes(graph: Graph) -> Graph | None:
    """Writes become values that later reads of the operand see; None if a write shows through another view."""
    current: dict[str, str] = {}
    memory, last_read = _memory(graph), _last_reads(graph)
    position: dict[str, int] = {}
    nodes: list[Node] = []
    for i, raw in enumerate(graph.nodes):
        node = reading(raw, current)
        for operand in _operands_at(node, written(node.target)):
            names = {n for n, now in current.items() if now == operand} | {operand}
            seen_elsewhere = (m for m in memory[operand] - names if position.get(m, i) < i)
            if functional(node.target) is None or any(last_read.get(m, -1) > i for m in seen_elsewhere):
                return None
            current.update(dict.fromkeys(names, node.name))
        position[node.name] = i
        nodes.append(replace(node, target=functional(node.target) or node.target) if written(node.target) else node)
    return replace(graph, nodes=tuple(nodes), outputs=tuple(current.get(o, o) for o in graph.outputs))


def reading(node: Node, names: Mapping[str, str]) -> Node:
    """`node` reading other values: each operand replaced by the one that `names` gives for it."""
    if not any(r in names for r in node.refs()):
        return node

    def renamed(ref: Ref) -> Ref:
        return Ref(names.get(ref.name, ref.name))

    return replace(
        node, args=map_refs(node.args, renamed), kwargs=tuple((k, map_refs(v, renamed)) for k, v in node.kwargs)
    )


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
        yield from (r for r in node.refs() if aliased(graph.by_name[r].target))
    elif node.kind is Kind.CALL:
        yield from _operands_at(node, aliased(node.target))


def _operands_at(node: Node, positions: tuple[int, ...]) -> list[str]:
    found: list[str] = []
    map_refs([a for i, a in enumerate(node.args) if i in positions], lambda r: found.append(r.name))
    return found


def _last_reads(graph: Graph) -> dict[str, int]:
    found = {name: i for i, node in enumerate(graph.nodes) for name in node.refs()}
    return found | dict.fromkeys(graph.outputs, len(graph.nodes))
