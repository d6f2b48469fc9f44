"""Reshapes of a concatenation as the concatenation of reshapes, where the parts stay apart.

Heads of two kinds may be put side by side and then flattened with their inside (heads, inside). Read as it stands, all
of them have one inside; flattened first, each kind has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from symgraph.ir import Graph, Node, Ref, Shape, resized
from symgraph.tracing.arguments import arguments
from symgraph.tracing.naming import numbering

_RESHAPES = frozenset(
    {"aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten.flatten.using_ints"}
)
_ADD, _DROP = "aten.unsqueeze.default", "aten.squeeze.dim"
_MOVE, _SHUFFLE = "aten.movedim.int", "aten.channel_shuffle.default"
_CAT, _STACK = "aten.cat.default", "aten.stack.default"


@dataclass(frozen=True, slots=True)
class _Join:
    """What a reshape flattens: parts with so many positions each, `inside` entries at each, along its axis `axis`."""

    parts: tuple[Ref, ...]
    counts: tuple[int, ...]
    axis: int
    inside: int


def with_joins_last(graph: Graph) -> Graph:
    """The graph with parts flattened before they are put side by side, where each becomes a part of one axis."""
    fresh = numbering(graph.by_name.keys())
    rewritten: dict[str, tuple[Node, ...]] = {}
    for node in graph.calls:
        join = _join(node, graph.by_name) if node.target in _RESHAPES else None
        if join is not None:
            rewritten[node.name] = tuple(_calls(node, join, fresh))
    return _rewritten(graph, rewritten)


def _rewritten(graph: Graph, rewritten: dict[str, tuple[Node, ...]]) -> Graph:
    """The graph with reshapes as other calls, and without what they alone had read."""
    if not rewritten:
        return graph
    # No more is dropped than what this leaves unread: a graph may be asked for values that are no outputs.
    whole = {graph.by_name[name].args[0].name for name in rewritten} - set(graph.outputs)
    unread = {name for name in whole if all(user.name in rewritten for user in graph.users[name])}
    kept = (node for node in graph.nodes if node.name not in unread)
    return replace(graph, nodes=tuple(call for node in kept for call in rewritten.get(node.name, (node,))))


def with_turns_joined(graph: Graph) -> Graph:
    """The graph with values that take turns along an axis, by a stack in its innermost place, as a shuffle of them.

    They stand one after the other first, so that each is a part of the axis.
    """
    fresh = numbering(graph.by_name.keys())
    rewritten: dict[str, tuple[Node, ...]] = {}
    for node in graph.calls:
        stack = graph.by_name[node.args[0].name] if node.target in _RESHAPES else node
        axis = _axis_of_turns(stack, node) if stack.target == _STACK and node is not stack else None
        if axis is not None:
            rewritten[node.name] = tuple(_shuffled(node, stack.args[0], axis, fresh))
    return _rewritten(graph, rewritten)


def _axis_of_turns(stack: Node, flat: Node) -> int | None:
    """The axis of a reshape along which the parts of a stack take turns; None where they do not, or there is one."""
    dim, shape = int((arguments(stack) or {})["dim"]) % len(stack.shape), stack.shape
    both = shape[dim - 1 : dim + 1] if dim else ()
    if 1 in both or flat.shape != (*shape[: max(dim - 1, 0)], prod(both), *shape[dim + 1 :]):
        return None
    return dim - 1 if dim and (len(flat.shape) > 2 or (len(flat.shape), dim) == (2, 2)) else None


def _shuffled(node: Node, parts: tuple[Ref, ...], axis: int, fresh: Callable[[str], str]) -> Iterator[Node]:
    """The parts side by side, and a shuffle, which is of channels: of the axis behind the first, in front of others."""
    rank, shape = len(node.shape), list(node.shape)
    shape.insert(1, shape.pop(axis))
    whole = node.call(fresh("cat"), _CAT, (parts, axis), node.shape)
    there, back = ((_ADD, (2,)), (_DROP, (2,))) if rank == 2 else ((_MOVE, (axis, 1)), (_MOVE, (1, axis)))
    shape += [1] * (rank == 2)
    moved = node.call(fresh("moved"), there[0], (Ref(whole.name), *there[1]), tuple(shape))
    turns = node.call(fresh("channel_shuffle"), _SHUFFLE, (Ref(moved.name), len(parts)), moved.shape)
    yield from (whole, moved, turns, node.call(node.name, back[0], (Ref(turns.name), *back[1]), node.shape))


def _join(node: Node, known: Mapping[str, Node]) -> _Join | None:
    whole = known[node.args[0].name]
    if whole.target not in (_CAT, _STACK):
        return None
    parts: tuple[Ref, ...] = whole.args[0]
    dim = int((arguments(whole) or {})["dim"]) % len(whole.shape)
    shapes = [known[part.name].shape for part in parts]
    if len(parts) < 2 or any(len(shape) != len(shapes[0]) for shape in shapes):
        return None
    place = _place(whole.shape, node.shape, dim) if prod(node.shape) else None
    counts = tuple(1 if whole.target == _STACK else shape[dim] for shape in shapes)
    return None if place is None else _Join(parts, counts, *place)


def _place(before: Shape, after: Shape, dim: int) -> tuple[int, int] | None:
    """The axis that one is flattened into as its outermost factor, and how much of it lies inside, if there is one."""
    lead = prod(before[:dim])
    inner = [prod(before[dim + 1 : stop]) for stop in range(dim + 1, len(before) + 1)]
    for axis, size in enumerate(after):
        inside = size // before[dim]
        if prod(after[:axis]) == lead and size == before[dim] * inside and inside > 1 and inside in inner:
            return axis, inside
    return None


def _calls(node: Node, join: _Join, fresh: Callable[[str], str]) -> Iterator[Node]:
    flat: list[Ref] = []
    for part, count in zip(join.parts, join.counts, strict=True):
        shape = resized(node.shape, join.axis, count * join.inside)
        reshape = node.call(fresh("reshape"), "aten.reshape.default", (part, shape), shape)
        yield reshape
        flat.append(Ref(reshape.name))
    yield replace(node, target=_CAT, args=(tuple(flat), join.axis), kwargs=())
