"""Some of several tensors that a reshape has told apart, as a slice taken before the reshape.

A fused projection is often cut into (3, heads, size) and its parts are then picked by position, or into (heads and keys
and values, size) and its parts sliced. Read as it stands, all parts have one space of heads and one of their inside;
picked before the cut, each has its own. Where the cut is into (heads, size, 3) the parts take turns: each is a slice
with a step. Pairs of coordinates that are told apart so are turned by most code, so that these are looked for once
regions have been measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from symgraph.ir import Graph, Node, Ref, Shape, resized
from symgraph.tracing.normalize import without_dead_calls, without_identities
from symgraph.tracing.picks import picked

_CUTS = frozenset({"aten.view.default", "aten.reshape.default", "aten.unflatten.int"})
_SIZE_ONE = frozenset({"aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "aten.unsqueeze.default"})


@dataclass(frozen=True, slots=True)
class _Pick:
    """`count` positions of axis `axis` of what `cut` makes, from `start`; `moves` lie between, the last one first.

    `single` says that all positions of the axis are picked one by one.
    """

    node: Node
    cut: Node
    axis: int
    start: int
    count: int
    moves: tuple[tuple[Node, int], ...]
    single: bool


class _Way(NamedTuple):
    """The way back from a pick to the reshape that made its axis, where that axis is there, and what lies between."""

    cut: Node
    axis: int
    moves: tuple[tuple[Node, int], ...]


class _Place(NamedTuple):
    """The operand's axis that an axis is cut from, and how much of it lies outside and inside of that."""

    axis: int
    outer: int
    inner: int


@dataclass(frozen=True, slots=True)
class _Step:
    """A call to be made of the result of the one before, at the place in the code of the node `like`."""

    like: Node
    target: str
    args: tuple[object, ...]
    shape: Shape


def without_stacks(graph: Graph, turns: bool = False) -> Graph:
    """The graph with picks from an axis that a reshape has made taken before that reshape.

    Args:
        turns: also where the axis is the innermost one, whose parts take turns before the reshape.
    """
    parts_of: dict[str, tuple[Node, ...]] = {}
    for node in graph.calls:
        pick = _pick(node, graph.by_name)
        parts = None if pick is None else _before_the_cut(pick, graph.by_name, turns)
        if parts is not None:
            parts_of[node.name] = parts
    if not parts_of:
        return graph
    nodes = tuple(part for node in graph.nodes for part in parts_of.get(node.name, (node,)))
    return without_dead_calls(without_identities(replace(graph, nodes=nodes)))


def _pick(node: Node, known: Mapping[str, Node]) -> _Pick | None:
    found = picked(node, known)
    way = None if found is None else _traced_back(found.source, found.axis, known)
    if found is None or way is None:
        return None
    return _Pick(node, way.cut, way.axis, found.start, found.count, way.moves, found.single)


def _traced_back(source: Node, axis: int, known: Mapping[str, Node]) -> _Way | None:
    """The way from a pick to the reshape that made its axis, if values are only moved on it."""
    moves: list[tuple[Node, int]] = []
    while source.target not in _CUTS:
        before = _axis_before(source, axis, known)
        if before is None:
            return None
        moves.append((source, axis))
        source, axis = known[source.args[0].name], before
    further = _behind_a_reshape(source, axis, known)
    if further is None:
        return _Way(source, axis, tuple(moves))
    return further._replace(moves=(*moves, (source, axis), *further.moves))


def _behind_a_reshape(reshape: Node, axis: int, known: Mapping[str, Node]) -> _Way | None:
    """The way on where a reshape leaves an axis as it is (heads go into the batch) that an earlier one has made."""
    before, after = known[reshape.args[0].name], reshape.shape
    lead = prod(after[:axis])
    kept = [at for at, size in enumerate(before.shape) if size == after[axis] and prod(before.shape[:at]) == lead]
    return _traced_back(before, kept[0], known) if len(kept) == 1 and after[axis] > 1 else None


def _axis_before(node: Node, axis: int, known: Mapping[str, Node]) -> int | None:
    """Where an axis of a result is in the operand; None where the operator does more than to move it."""
    if not node.args or not isinstance(node.args[0], Ref):
        return None
    before, rank = known[node.args[0].name].shape, len(node.shape)
    if node.target == "aten.permute.default":
        return int(node.args[1][axis]) % rank
    if node.target == "aten.transpose.int":
        first, second = (int(dim) % rank for dim in node.args[1:3])
        return {first: second, second: first}.get(axis, axis)
    if node.target == "aten.slice.Tensor" and before == node.shape:
        return axis
    if node.target not in _SIZE_ONE or node.shape[axis] == 1:
        return None
    # Axes of size one come and go; the others keep their order.
    place = sum(size != 1 for size in node.shape[:axis])
    return [axis for axis, size in enumerate(before) if size != 1][place]


def _before_the_cut(pick: _Pick, known: Mapping[str, Node], turns: bool) -> tuple[Node, ...] | None:
    """The calls that stand for a pick: a slice, then reshape and moves as they were, on what is left of the axis."""
    source = known[pick.cut.args[0].name]
    place = _place(source.shape, pick.cut.shape, pick.axis)
    if place is None:
        return None
    if place.outer > 1 and pick.single and _is_inside(pick, place.outer, known):
        return tuple(_calls(pick, source, _every(pick, source.shape, place))) if turns else None
    if place.inner == 1 and source.target != "aten.stack.default":
        return None
    return tuple(_calls(pick, source, _slice(pick, source.shape, place)))


def _is_inside(pick: _Pick, outer: int, known: Mapping[str, Node]) -> bool:
    """Whether the positions outside of the axis come to stand behind those inside of it: they are what a part holds."""
    shape, around = pick.cut.shape, pick.axis
    while prod(shape[around : pick.axis]) < outer:
        around -= 1
    beside = [axis for axis in _order(pick, known) if axis >= around and axis != pick.axis]
    held = [axis for axis in beside if shape[axis] > 1]
    return bool(held) and held[-1] < pick.axis


def _order(pick: _Pick, known: Mapping[str, Node]) -> list[int]:
    """Which axes of the reshape those are that are left when all has been moved."""
    last = pick.moves[0][0] if pick.moves else pick.cut
    axes = [*range(len(last.shape))]
    for move, _ in pick.moves:
        before = [_axis_before(move, axis, known) for axis in axes if move.shape[axis] > 1]
        axes = [axis for axis in before if axis is not None]
    return axes


def _every(pick: _Pick, shape: Shape, place: _Place) -> Iterator[_Step]:
    """The positions of an axis at which it is the turn of what is picked, each with what it holds inside."""
    count = pick.cut.shape[pick.axis]
    turns, inside = place.outer * count, (place.inner,) if place.inner > 1 else ()
    whole = resized(shape, place.axis, turns, *inside)
    if inside:
        yield _reshaped(pick.cut, whole)
    ends = (place.axis, pick.start, turns, count)
    yield _Step(pick.cut, "aten.slice.Tensor", ends, resized(whole, place.axis, place.outer))


def _slice(pick: _Pick, shape: Shape, place: _Place) -> Iterator[_Step]:
    """A slice of an axis, of what lies inside of `outer` where that stands around what is picked."""
    inner, outside = place.inner, (place.outer,) if place.outer > 1 else ()
    whole = resized(shape, place.axis, *outside, pick.cut.shape[pick.axis] * inner)
    if whole != shape:
        yield _reshaped(pick.cut, whole)
    axis = place.axis + len(outside)
    ends = (axis, pick.start * inner, (pick.start + pick.count) * inner)
    yield _Step(pick.cut, "aten.slice.Tensor", ends, resized(whole, axis, pick.count * inner))


def _place(before: Shape, after: Shape, axis: int) -> _Place | None:
    """Where in its operand an axis of a reshape comes from."""
    lead = prod(after[:axis])
    around = [prod(before[:axis]) for axis in range(len(before) + 1)]
    at = next((axis for axis in range(len(before)) if around[axis] <= lead < around[axis + 1]), None)
    if at is None or not prod(after) or lead % around[at]:
        return None
    outer = lead // around[at]
    taken = outer * after[axis]
    if before[at] % taken:
        return None
    inner = before[at] // taken
    ends = [prod(after[axis + 1 : end]) for end in range(axis + 1, len(after) + 1)]
    return _Place(at, outer, inner) if inner in ends else None


def _calls(pick: _Pick, source: Node, first: Iterable[_Step]) -> Iterator[Node]:
    """The calls of some steps, then reshape and moves as they were; the last has the name of what is picked."""
    node, operand = pick.node, source.name
    steps = [*first, *_as_before(pick), _reshaped(node, node.shape)]
    for number, step in enumerate(steps):
        name = node.name if step is steps[-1] else f"{node.name}.pick{number}"
        yield step.like.call(name, step.target, (Ref(operand), *step.args), step.shape, pick.cut.dtype)
        operand = name


def _as_before(pick: _Pick) -> Iterator[_Step]:
    """The reshape and the moves behind it, on as much of the axis as is picked."""
    yield _reshaped(pick.cut, resized(pick.cut.shape, pick.axis, pick.count))
    for move, axis in reversed(pick.moves):
        shape = resized(move.shape, axis, pick.count)
        moved = move.target in ("aten.permute.default", "aten.transpose.int")
        yield _Step(move, move.target, move.args[1:], shape) if moved else _reshaped(move, shape)


def _reshaped(like: Node, shape: Shape) -> _Step:
    return _Step(like, "aten.reshape.default", (shape,), shape)
