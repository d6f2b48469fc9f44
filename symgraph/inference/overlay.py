"""Symmetries as Model Explorer shows them: laid over the graph of an exported program, or in a graph of their own.

Source: the formats of `node_data_builder` and `graph_builder` in ai-edge-model-explorer 0.1.34.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from torch.export import ExportedProgram

from symgraph.groups.lattice import SymmetryClass, maps
from symgraph.inference.annotated import SYMMETRY, annotate
from symgraph.inference.sources import RuleSources
from symgraph.ir import Graph, Kind, Node
from symgraph.symmetry.drawn import SHAPES
from symgraph.symmetry.edges import Axis, edges
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.present import kind

# What its adapter for exported programs calls their graph.
GRAPH = "graph"
RIGID = SymmetryClass.IDENTITY
# Classes have no sums or means; groups of nodes show how often each is there.
_SHOWN = {
    "hideInAggregatedStatsTable": True,
    "hideInChildrenStatsTable": True,
    "showExpandedSummaryOnGroupNode": True,
}
# At this size classes are compared by their dimension.
_TYPICAL = 12


def overlay(symmetry: SymmetryGraph, program: ExportedProgram | None = None, rules: RuleSources = None) -> str:
    """What Model Explorer opens, as JSON: node data for the graph of a program, or else the traced graph with them.

    The value of a node is the largest class on any of its axes, its colour that of the class.

    Args:
        program: the model, where it is an exported program; Model Explorer opens its `.pt2` file, then this.
        rules: those that the graph was inferred with.

    Raises:
        TraceError: the program cannot be run.
    """
    if program is not None:
        annotate(program, rules=rules)
        results = {node.name: _result(node.meta[SYMMETRY]) for node in program.graph.nodes if SYMMETRY in node.meta}
        return json.dumps({GRAPH: {"name": "symmetry", "results": results, **_SHOWN}}, indent=2)
    return json.dumps({"label": symmetry.graph.model or "model", "graphs": [_graph(symmetry)]}, indent=1)


def _result(axes: Sequence[Axis]) -> dict[str, str]:
    group = largest(axes)
    return {"value": str(group), "bgColor": _colour(group), "textColor": "#171b20"}


def largest(axes: Sequence[Axis]) -> SymmetryClass:
    """The class with the most freedom on any of the axes."""
    found = [SymmetryClass(name) for axis in axes for name in axis.classes]
    return max(found, key=lambda group: (maps(group).dimension(_TYPICAL, 1), group != RIGID), default=RIGID)


def _colour(group: SymmetryClass) -> str:
    return SHAPES[kind(maps(group))][2]


def _graph(symmetry: SymmetryGraph) -> dict[str, Any]:
    known = {edge.name: edge.axes for edge in edges(symmetry)}
    graph = symmetry.graph
    return {"id": GRAPH, "nodes": [_node(graph, node, known.get(node.name, ())) for node in graph.nodes]}


def _node(graph: Graph, node: Node, axes: Sequence[Axis]) -> dict[str, Any]:
    home = node.module if node.kind is Kind.CALL else node.target.rpartition(".")[0]
    return {
        "id": node.name,
        "label": node.target,
        "namespace": home.replace(".", "/"),
        "incomingEdges": [{"sourceNodeId": name} for name in dict.fromkeys(node.refs()) if name in graph.by_name],
        "attrs": [{"key": key, "value": value} for key, value in _attributes(node, axes)],
        "style": {"backgroundColor": _colour(largest(axes))},
    }


def _attributes(node: Node, axes: Sequence[Axis]) -> Iterator[tuple[str, str]]:
    yield "kind", str(node.kind)
    if node.source:
        yield "source", node.source
    yield "class", str(largest(axes))
    for number, axis in enumerate(axes):
        yield f"axis {number}", str(axis)
