"""Tables that are read row by row from the first to the last: the reading is the table itself.

A position table read through `arange`, or through a buffer that holds one, is then the same graph as a parameter that
is added as it is, so that what meets its first row is told from what meets the others. A table of which an input of
this length reads only a part stays as it is: longer inputs read more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from symgraph.ir import Device, DType, Graph, Kind, Node, Opaque, Ref, map_refs
from symgraph.tracing.arguments import operator
from symgraph.tracing.naming import numbering
from symgraph.tracing.operators import draws, short_name
from symgraph.tracing.writes import reading, with_nodes

_TABLES = {"aten.embedding.default": 1, "aten.index_select.default": 2, "aten.index.Tensor": 1}
# Longer lists of positions than any model's context are data, and stay.
LONGEST = 2**20


def with_whole_tables(graph: Graph) -> Graph:
    """Reads of all rows of a table in order become the table."""
    fresh = numbering(graph.by_name.keys())
    known = _Known(graph)
    nodes: list[Node] = []
    same: dict[str, str] = {}
    for raw in graph.nodes:
        node = _sliced(reading(raw, same), raw, known)
        positions = _positions(raw)
        if positions is None or not _is_whole(graph.by_name[raw.args[0].name], known.value(positions.name)):
            nodes.append(node)
            continue
        shown = _shown(node, graph.by_name[raw.args[0].name].shape, fresh)
        nodes += shown
        same[node.name] = shown[-1].name if shown else node.args[0].name
    return with_nodes(graph, nodes, same)


def _sliced(node: Node, raw: Node, known: _Known) -> Node:
    """Neighbours along one axis of a value, picked by numbers written into the code, as a slice."""
    picks = raw.args[1] if raw.target == "aten.index.Tensor" else ()
    at = [axis for axis, pick in enumerate(picks) if pick is not None]
    source = known.graph.by_name[raw.args[0].name] if len(at) == 1 else None
    if source is None or source.kind is Kind.PARAMETER:
        return node
    rows = known.value(picks[at[0]].name)
    if rows is None or rows.dim() != 1:
        return node
    rows = torch.where(rows < 0, rows + source.shape[at[0]], rows)
    if not is_run(rows):
        return node
    args = (node.args[0], at[0], int(rows[0]), int(rows[-1]) + 1)
    return replace(node, target="aten.slice.Tensor", args=args)


def is_run(values: torch.Tensor) -> bool:
    """Whether the last axis of a tensor of integers counts up by one, the same at every position of the others."""
    if values.dim() == 0 or not values.numel() or values.numel() > LONGEST:
        return False
    first = values.reshape(-1, values.shape[-1])[0]
    counted = torch.arange(int(first[0]), int(first[0]) + len(first), dtype=values.dtype)
    return bool((values == counted).all())


def _is_whole(table: Node, rows: torch.Tensor | None) -> bool:
    """Whether the positions are those of all rows in order."""
    if rows is None or not is_run(rows):
        return False
    return int(rows.reshape(-1)[0]) == 0 and rows.shape[-1] == table.shape[0]


def _positions(node: Node) -> Ref | None:
    """The operand that says which rows of its first operand a call reads."""
    at = _TABLES.get(node.target)
    if at is None or len(node.args) <= at or not isinstance(node.args[0], Ref):
        return None
    if node.target == "aten.index_select.default" and node.args[1] != 0:
        return None
    index = node.args[at]
    if node.target == "aten.index.Tensor":
        index = index[0] if len(index) == 1 else None
    return index if isinstance(index, Ref) else None


def _shown(node: Node, shape: tuple[int, ...], fresh: Any) -> list[Node]:
    """The calls that give a table of this shape the axes that a reading of it has."""
    made: list[Node] = []

    def call(target: str, argument: Any, now: tuple[int, ...]) -> None:
        operand = Ref(made[-1].name) if made else node.args[0]
        made.append(node.call(fresh(short_name(target)), target, (operand, argument), now))

    while len(shape) < len(node.shape):
        shape = (1, *shape)
        call("aten.unsqueeze.default", 0, shape)
    if shape != node.shape:
        call("aten.expand.default", node.shape, node.shape)
    return made


class _Known:
    """Integers that follow from the graph alone, computed where they are asked for."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.found: dict[str, torch.Tensor | None] = {}

    def value(self, name: str) -> torch.Tensor | None:
        """What a value is, or None if that depends on parameters, buffers or inputs."""
        todo = [name]
        while todo:
            node = self.graph.by_name[todo[-1]]
            wanted = [ref for ref in node.refs() if ref not in self.found] if _is_small_integer(node) else []
            if wanted and node.name not in self.found:
                todo += wanted
                continue
            todo.pop()
            if node.name not in self.found:
                self.found[node.name] = _computed(node, self.found)
        return self.found[name]


def _is_small_integer(node: Node) -> bool:
    if node.kind is not Kind.CALL or "int" not in node.dtype:
        return False
    return torch.Size(node.shape).numel() <= LONGEST


def _computed(node: Node, known: Mapping[str, torch.Tensor | None]) -> torch.Tensor | None:
    op = operator(node.target)
    if op is None or not _is_small_integer(node) or any(known[ref] is None for ref in node.refs()):
        return None
    kwargs = {name: _argument(value, known) for name, value in node.kwargs}
    if draws(node.target, node.args, kwargs):
        return None
    value = op(*(_argument(argument, known) for argument in node.args), **kwargs)
    return value if isinstance(value, torch.Tensor) else None


def _argument(value: Any, known: Mapping[str, torch.Tensor | None]) -> Any:
    if isinstance(value, DType):
        return getattr(torch, value.name)
    if isinstance(value, Device):
        return torch.device("cpu")
    if isinstance(value, Opaque):
        return None
    if isinstance(value, list | tuple):
        return [_argument(item, known) for item in value]
    return map_refs(value, lambda ref: known[ref.name])
