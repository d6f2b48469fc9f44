"""Writes into a part of a tensor as concatenations: what lies before the part, what is written, what lies behind it.

Where piece after piece is written until nothing is left of the tensor itself, it is gone, and with it a tensor that was
made empty only to be filled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from symgraph.ir import Graph, Node, Ref, Tensor, resized
from symgraph.tracing.arguments import arguments
from symgraph.tracing.naming import numbering
from symgraph.tracing.operators import short_name
from symgraph.tracing.writes import reading, with_nodes

_SLICE, _SELECT = "aten.slice_scatter.default", "aten.select_scatter.default"
Fresh = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Write:
    """One call that writes `source` into positions `start` to `stop` of an axis of `base`."""

    node: Node
    whole: Tensor
    base: str
    source: str
    dim: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Filled:
    """What is known to lie where along one axis: start, end, value."""

    dim: int
    parts: tuple[tuple[int, int, str], ...]

    def with_part(self, start: int, stop: int, value: str) -> Filled:
        """With one more part on top of what it hides or cuts."""
        kept = [part for part in self.parts if part[1] <= start or part[0] >= stop]
        return Filled(self.dim, tuple(sorted([*kept, (start, stop, value)])))

    def covers(self, size: int) -> bool:
        """Whether the parts leave nothing open."""
        return sum(stop - start for start, stop, _ in self.parts) == size


def without_partial_writes(graph: Graph) -> Graph:
    """The graph with writes into slices written as concatenations."""
    fresh = numbering(graph.by_name.keys())
    filled: dict[str, Filled] = {}
    same: dict[str, str] = {}
    nodes: list[Node] = []
    for raw in graph.nodes:
        node = reading(raw, same)
        write = _write(node)
        if write is None:
            nodes.append(node)
            continue
        added, parts = _concatenated(write, filled, fresh)
        nodes += added
        if len(parts) == 1:
            same[node.name] = parts[0]
        else:
            refs = tuple(map(Ref, parts))
            nodes.append(replace(node, target="aten.cat.default", args=(refs, write.dim), kwargs=()))
    return with_nodes(graph, nodes, same)


def _write(node: Node) -> Write | None:
    """The call as a write of one range without gaps, if it is one."""
    if node.target not in (_SLICE, _SELECT) or not isinstance(node.result, Tensor):
        return None
    given = arguments(node) or {}
    dim = int(given["dim"]) % len(node.shape)
    size, step = node.shape[dim], 1
    if node.target == _SELECT:
        start = int(given["index"]) % size
        stop = start + 1
    else:
        start, stop, step = slice(given["start"], given["end"], given["step"]).indices(size)
    if step != 1:
        return None
    return Write(node, node.result, node.args[0].name, node.args[1].name, dim, start, max(start, stop))


def _concatenated(write: Write, filled: dict[str, Filled], fresh: Fresh) -> tuple[list[Node], list[str]]:
    """Calls that make what the write leaves, in order along its axis, and their names; one name alone is all of it."""
    if write.start == write.stop:
        return [], [write.base]
    size = write.node.shape[write.dim]
    source = [_unsqueezed(write, fresh)] if write.node.target == _SELECT else []
    value = source[0].name if source else write.source
    before = filled.get(write.base)
    known = before if before and before.dim == write.dim else Filled(write.dim, ())
    known = filled[write.node.name] = known.with_part(write.start, write.stop, value)
    if known.covers(size):
        return source, [value for _, _, value in known.parts]
    head = [_sliced(write, 0, write.start, fresh)] if write.start else []
    tail = [_sliced(write, write.stop, size, fresh)] if write.stop < size else []
    return [*source, *head, *tail], [
        *(slice_node.name for slice_node in head),
        value,
        *(slice_node.name for slice_node in tail),
    ]


def _unsqueezed(write: Write, fresh: Fresh) -> Node:
    args = (Ref(write.source), write.dim)
    return _made(write, "aten.unsqueeze.default", args, 1, fresh)


def _sliced(write: Write, start: int, stop: int, fresh: Fresh) -> Node:
    args = (Ref(write.base), write.dim, start, stop)
    return _made(write, "aten.slice.Tensor", args, stop - start, fresh)


def _made(write: Write, target: str, args: tuple[Any, ...], size: int, fresh: Fresh) -> Node:
    shape = resized(write.whole.shape, write.dim, size)
    return write.node.call(fresh(short_name(target)), target, args, shape, write.whole.dtype)
