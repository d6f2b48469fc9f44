"""Positions along one axis of a value that a call picks by their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from symgraph.ir import Node, Ref
from symgraph.tracing.arguments import arguments
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


@dataclass(frozen=True, slots=True)
class Picked:
    """`count` positions of an axis of `source`, from `start`; `single` says that all of them are picked one by one."""

    source: Node
    axis: int
    start: int
    count: int
    single: bool


def picked(node: Node, known: Mapping[str, Node]) -> Picked | None:
    """What a call, or one of its several results, picks; None for anything else, for all positions, and with steps."""
    of = known[node.args[0].name] if node.target == "getitem" else node
    given = arguments(of) or {} if of.target in _PICKS else {}
    source = known[given["self"].name] if isinstance(given.get("self"), Ref) else None
    if source is None or not source.shape or not isinstance(given.get("dim"), int):
        return None
    axis = given["dim"] % len(source.shape)
    part = _part(node, of, given, axis, source.shape[axis])
    single = of.target == "aten.select.int" or set(_sizes(of, axis)) == {1}
    return None if part is None else Picked(source, axis, *part, single)


def _part(node: Node, of: Node, given: Mapping[str, Any], axis: int, size: int) -> tuple[int, int] | None:
    """First position and number of positions that a call picks; None for all, with steps, and for computed ones."""
    if node.target == "aten.select.int":
        return (given["index"] % size, 1) if isinstance(given["index"], int) else None
    if node.target == "aten.slice.Tensor":
        start, count = given.get("start"), node.shape[axis]
        plain = isinstance(start, int | None) and given.get("step", 1) == 1 and 0 < count < size
        return (first_position(start, size), count) if plain else None
    if node.target != "getitem" or not isinstance(of.result, tuple):
        return None
    sizes = _sizes(of, axis)
    at = int(node.args[1]) % len(sizes)
    return (sum(sizes[:at]), sizes[at]) if 0 < sizes[at] < size else None


def _sizes(of: Node, axis: int) -> list[int]:
    """How many positions each result of a call with several has."""
    results = of.result if isinstance(of.result, tuple) else ()
    return [1 if of.target == "aten.unbind.int" else result.shape[axis] for result in results]
