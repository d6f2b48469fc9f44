"""Where an axis of a value is summed over together with an axis of another, and nothing else is done along it."""

from __future__ import annotations

from symgraph.ir import Graph, Node, Ref
from symgraph.tracing.arguments import PATTERN, arguments
from symgraph.tracing.operators import short_name

# A product by name, which of its operands the axis comes in by, and where it begins in a concatenation.
Meeting = tuple[str, int, int]
_SAME = frozenset({"to", "to_copy", "contiguous", "clone", "alias", "neg"})
_CUTTING = frozenset({"view", "reshape", "expand", "unsqueeze", "flatten", "squeeze"})


def meetings_of(graph: Graph, value: str, axis: int) -> list[Meeting] | None:
    """The products that sum over an axis of a value; None if anything else is done along it.

    Args:
        axis: counted from the front.
    """
    found: list[Meeting] = []
    todo = [(value, axis, 0)]
    while todo:
        name, at, offset = todo.pop()
        if name in graph.outputs or not graph.users[name]:
            return None
        for user in graph.users[name]:
            operand = _summing(graph, user, name, at)
            onward = _onward(graph, user, name, at) if operand is None else None
            if operand is not None:
                found.append((user.name, operand, offset))
            elif onward is not None:
                todo.append((user.name, onward[0], offset + onward[1]))
            else:
                return None
    return found


def _kind(user: Node) -> str:
    return short_name(user.target).removeprefix(PATTERN)


def _summing(graph: Graph, user: Node, name: str, axis: int) -> int | None:
    """Which operand of a product a value is, if that sums over its axis."""
    last = len(graph.by_name[name].shape) - 1
    places = [place for place, ref in enumerate(user.refs()) if ref == name]
    summed = {}
    if _kind(user) in ("matmul", "bmm"):
        summed = {0: last, 1: last - 1}
    elif _kind(user) == "scaled_dot_product_attention":
        summed = {0: last, 1: last}
    return places[0] if len(places) == 1 and summed.get(places[0]) == axis else None


def _onward(graph: Graph, user: Node, name: str, axis: int) -> tuple[int, int] | None:
    """Where an axis is in the result of a call that does nothing along it, and which position its first one has."""
    kind, before = _kind(user), graph.by_name[name]
    rank = len(before.shape)
    given = (arguments(user) if user.target.startswith("aten.") else None) or {}
    if kind in _SAME or (kind in ("mul", "div") and not isinstance(user.args[1], Ref)):
        return axis, 0
    if kind == "transpose":
        first, second = given["dim0"] % rank, given["dim1"] % rank
        return {first: second, second: first}.get(axis, axis), 0
    if kind == "permute":
        return [dim % rank for dim in given["dims"]].index(axis), 0
    if kind in _CUTTING:
        return _kept(before, user, axis)
    if kind == "cat" and given["dim"] % rank == axis and list(user.refs()).count(name) == 1:
        parts = [ref.name for ref in user.args[0]]
        return axis, sum(graph.by_name[part].shape[axis] for part in parts[: parts.index(name)])
    return None


def _kept(before: Node, after: Node, axis: int) -> tuple[int, int] | None:
    """The axis as the last but so many of a result that only cuts or copies what lies before it."""
    behind = len(before.shape) - axis
    kept = len(after.shape) >= behind and after.shape[-behind:] == before.shape[axis:]
    return (len(after.shape) - behind, 0) if kept else None
