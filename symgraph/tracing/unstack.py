"""Some of several tensors that a reshape has told apart, as a slice taken before the reshape.

A fused projection is often cut into (3, heads, size) and its parts are then picked by position, or into (heads and keys
and values, size) and its parts sliced. Read as it stands, all parts have one space of heads and one of their inside;
picked before the cut, each has its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from symgraph.ir import Graph, Node, Ref, Shape, Tensor
from symgraph.tracing.arguments import arguments
from symgraph.tracing.normalize import without_dead_calls, without_identities
from symgraph.tracing.operators import first_position

_PICKS = frozenset(
    {
        "aten.select.int",
        "aten.unbind.int",
        "aten.slice.Tensor",
        "aten.split.Tensor",
        "aten.split.sizes",
        "aten.split_with_sizes.default",
        "aten.chunk.default",
    }
)
_CUTS = frozenset({"aten.view.default", "aten.reshape.default", "aten.unflatten.int"})
_SIZE_ONE = frozenset({"aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "aten.unsqueeze.default"})


@dataclass(frozen=True, slots=True)
class _Pick:
    """`count` positions of axis `axis` of what `cut` makes, from `start`; `moves` lie between, the last one first."""

    node: Node
    cut: Node
    axis: int
    start: int
    count: int
    moves: tuple[tuple[Node, int], ...]


def without_stacks(graph: Graph) -> Graph:
    """The graph with picks from an axis that a reshape has made taken before that reshape."""
    found: dict[str, tuple[Node, ...]] = {}
    for node in graph.calls:
        pick = _pick(node, graph.by_name)
        parts = None if pick is None else _before_the_cut(pick, graph.by_name)
        if parts is not None:
            found[node.name] = parts
    if not found:
        return graph
    nodes = tuple(part for node in graph.nodes for part in found.get(node.name, (node,)))
    return without_dead_calls(without_identities(replace(graph, nodes=nodes)))


def _pick(node: Node, known: Mapping[str, Node]) -> _Pick | None:
    of = known[node.args[0].name] if node.target == "getitem" else node
    given = arguments(of) or {}
    source = known[given["self"].name] if of.target in _PICKS and isinstance(given.get("self"), Ref) else None
    if source is None or not source.shape or not isinstance(given.get("dim"), int):
        return None
    axis = given["dim"] % len(source.shape)
    part = _part(node, of, given, axis, source.shape[axis])
    return None if part is None else _traced_back(node, source, axis, part, known)


def _part(node: Node, of: Node, given: Mapping[str, Any], axis: int, size: int) -> tuple[int, int] | None:
    """First position and number of positions that a call picks along an axis; None for all of them, or with steps."""
    if node.target == "aten.select.int":
        return int(given["index"]) % size, 1
    if node.target == "aten.slice.Tensor":
        start, count = given.get("start"), node.shape[axis]
        plain = isinstance(start, int | None) and given.get("step", 1) == 1 and 0 < count < size
        return (first_position(start, size), count) if plain else None
    if node.target != "getitem" or not isinstance(of.result, tuple):
        return None
    sizes = [1 if of.target == "aten.unbind.int" else r.shape[axis] for r in of.result]
    at = int(node.args[1]) % len(sizes)
    return (sum(sizes[:at]), sizes[at]) if 0 < sizes[at] < size else None


def _traced_back(node: Node, source: Node, axis: int, part: tuple[int, int], known: Mapping[str, Node]) -> _Pick | None:
    """The way from a pick to the reshape that made its axis, if values are only moved on it."""
    moves: list[tuple[Node, int]] = []
    while source.target not in _CUTS:
        before = _axis_before(source, axis, known)
        if before is None:
            return None
        moves.append((source, axis))
        source, axis = known[source.args[0].name], before
    return _Pick(node, source, axis, *part, tuple(moves))


def _axis_before(node: Node, axis: int, known: Mapping[str, Node]) -> int | None:
    """Where an axis of a result is in the operand; None where the operator does more than to move it."""
    if not node.args or not isinstance(node.args[0], Ref):
        return None
    before, rank = known[node.args[0].name].shape, len(node.shape)
    if node.target == "aten.permute.default":
        return int(node.args[1][axis]) % rank
    if node.target == "aten.transpose.int":
        a, b = (int(d) % rank for d in node.args[1:3])
        return {a: b, b: a}.get(axis, axis)
    if node.target == "aten.slice.Tensor" and before == node.shape:
        return axis
    if node.target not in _SIZE_ONE or node.shape[axis] == 1:
        return None
    # Axes of size one come and go; the others keep their order.
    place = sum(n != 1 for n in node.shape[:axis])
    return [i for i, n in enumerate(before) if n != 1][place]


def _before_the_cut(pick: _Pick, known: Mapping[str, Node]) -> tuple[Node, ...] | None:
    """The calls that stand for a pick: a slice, then reshape and moves as they were, on what is left of the axis."""
    source = known[pick.cut.args[0].name]
    place = _place(source.shape, pick.cut.shape, pick.axis, source.target == "aten.stack.default")
    if place is None:
        return None
    at, outer, inner = place
    size = pick.cut.shape[pick.axis] * inner
    whole = (*source.shape[:at], *([outer] if outer > 1 else []), size, *source.shape[at + 1 :])
    at += outer > 1
    part = (*whole[:at], pick.count * inner, *whole[at + 1 :])
    return tuple(_calls(pick, source, whole, part, (at, pick.start * inner, (pick.start + pick.count) * inner)))


def _place(before: Shape, after: Shape, axis: int, whole: bool) -> tuple[int, int, int] | None:
    """The operand's axis that `axis` is cut from, and how much of it lies outside and inside.

    None if it is not cut, unless `whole` says that this will do.
    """
    lead = prod(after[:axis])
    at = next((i for i in range(len(before)) if prod(before[:i]) <= lead < prod(before[: i + 1])), None)
    if at is None or not prod(after) or lead % prod(before[:at]):
        return None
    outer, taken = lead // prod(before[:at]), lead // prod(before[:at]) * after[axis]
    if before[at] % taken or (before[at] == taken and not whole):
        return None
    inner = before[at] // taken
    ends = [prod(after[axis + 1 : i]) for i in range(axis + 1, len(after) + 1)]
    return (at, outer, inner) if inner in ends else None


def _calls(pick: _Pick, source: Node, whole: Shape, part: Shape, cut: tuple[int, int, int]) -> Iterator[Node]:
    dtype = pick.cut.result.dtype if isinstance(pick.cut.result, Tensor) else ""
    node, at = pick.node, source.name

    def call(number: int, like: Node, target: str, args: tuple[object, ...], shape: Shape) -> Node:
        name = node.name if number < 0 else f"{node.name}.pick{number}"
        return replace(
            node,
            name=name,
            target=target,
            args=(Ref(at), *args),
            kwargs=(),
            result=Tensor(shape, dtype),
            module=like.module,
            source=like.source,
        )

    steps: list[tuple[Node, str, tuple[object, ...], Shape]] = []
    if whole != source.shape:
        steps.append((pick.cut, "aten.reshape.default", (whole,), whole))
    steps.append((pick.cut, "aten.slice.Tensor", cut, part))
    shape = _with(pick.cut.shape, pick.axis, pick.count)
    steps.append((pick.cut, "aten.reshape.default", (shape,), shape))
    for move, axis in reversed(pick.moves):
        shape = _with(move.shape, axis, pick.count)
        moved = move.target in ("aten.permute.default", "aten.transpose.int")
        steps.append(
            (move, move.target, move.args[1:], shape) if moved else (move, "aten.reshape.default", (shape,), shape)
        )
    for number, step in enumerate(steps):
        made = call(number, *step)
        at = made.name
        yield made
    yield call(-1, node, "aten.reshape.default", (node.shape,), node.shape)


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])
