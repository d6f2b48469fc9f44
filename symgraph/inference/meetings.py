"""Where an axis of a value is summed over together with an axis of another, and nothing else is done along it."""

from __future__ import annotations

from collections.abc import Iterator

from symgraph.ir import Graph, Node, Ref
from symgraph.tracing.arguments import PATTERN, arguments
from symgraph.tracing.operators import short_name

# A product by name, which of its operands the axis comes in by, and where it begins in a concatenation.
Meeting = tuple[str, int, int]
_SAME = frozenset({"to", "to_copy", "contiguous", "clone", "alias", "neg"})


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
            steps = list(_steps(graph, user, name, at, offset))
            if not steps:
                return None
            for step in steps:
                if isinstance(step[0], str):
                    found.append((user.name, step[1], step[2]))
                else:
                    todo.append((user.name, step[1], step[2]))
    return found


def _steps(graph: Graph, user: Node, name: str, axis: int, offset: int) -> Iterator[tuple[str | None, int, int]]:
    """What one call does with the axis: a product ("", operand, offset), or where it is then (None, axis, offset)."""
    kind, rank = short_name(user.target).removeprefix(PATTERN), len(graph.by_name[name].shape)
    places = [i for i, r in enumerate(user.refs()) if r == name]
    given = (arguments(user) if user.target.startswith("aten.") else None) or {}
    if kind in ("matmul", "bmm") and len(places) == 1:
        if axis == (rank - 1 if places[0] == 0 else rank - 2):
            yield "", places[0], offset
    elif kind == "scaled_dot_product_attention" and places in ([0], [1]):
        if axis == rank - 1:
            yield "", places[0], offset
    elif kind in _SAME or (kind in ("mul", "div") and not isinstance(user.args[1], Ref)):
        yield None, axis, offset
    elif kind == "transpose":
        a, b = given["dim0"] % rank, given["dim1"] % rank
        yield None, {a: b, b: a}.get(axis, axis), offset
    elif kind == "permute":
        yield None, [d % rank for d in given["dims"]].index(axis), offset
    elif kind in ("view", "reshape", "expand", "unsqueeze", "flatten", "squeeze"):
        yield from _kept(graph.by_name[name], user, axis, offset)
    elif kind == "cat" and given["dim"] % rank == axis and list(user.refs()).count(name) == 1:
        before = user.args[0][: [r.name for r in user.args[0]].index(name)]
        yield None, axis, offset + sum(graph.by_name[r.name].shape[axis] for r in before)


def _kept(before: Node, after: Node, axis: int, offset: int) -> Iterator[tuple[None, int, int]]:
    """The axis as the last but so many of a result that only cuts or copies what lies before it."""
    behind = len(before.shape) - axis
    if len(after.shape) >= behind and after.shape[-behind:] == before.shape[axis:]:
        yield None, len(after.shape) - behind, offset
