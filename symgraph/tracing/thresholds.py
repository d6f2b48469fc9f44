"""What decides by a number: values of inputs alone that calls compare or clip, and the numbers that they have.

What is drawn at size one crosses no threshold of 100. So values that decide are drawn around their numbers as well, and
far on either side of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from enum import StrEnum

import torch
from torch import Generator, Tensor

from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.tracing.operators import short_name
from symgraph.tracing.worlds import around

Numbers = tuple[float, ...]


class Side(StrEnum):
    """How a value stands to the numbers that it is compared with."""

    AROUND = "around"
    AT = "at"
    ABOVE = "above"
    BELOW = "below"


ORDERS = frozenset({"lt", "le", "gt", "ge"})
COMPARISONS = ORDERS | {"eq", "ne"}
_CLIPS = frozenset({"clamp", "clamp_min", "clamp_max", "hardtanh", "relu", "relu6", "threshold", "hardsigmoid"})
_STEPS = frozenset({"sign", "bucketize", "searchsorted", "heaviside", "maximum", "minimum"})
_DECIDING = COMPARISONS | _CLIPS | _STEPS
_LOOKUPS = frozenset({"embedding", "index", "index_select", "gather", "take", "take_along_dim", "scatter", "index_add"})
# fmt: off
_BLANK = frozenset({
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones",
    "new_full", "new_empty",
})
# fmt: on
# Stored thresholds are read up to this size; the others are drawn as all else.
_FEW = 16


def fed(graph: Graph) -> set[str]:
    """The values whose numbers depend on inputs; what looks at a shape alone does not."""
    found = set[str]()
    for node in graph.nodes:
        if node.kind is Kind.INPUT or (found.intersection(node.refs()) and short_name(node.target) not in _BLANK):
            found.add(node.name)
    return found


def deciding(graph: Graph) -> dict[str, Numbers]:
    """The values, computed from inputs and from no parameter, by which a call decides; each with its numbers."""
    learned, varied = set[str](), fed(graph)
    found: dict[str, Numbers] = {}
    for node in graph.nodes:
        if node.kind is Kind.PARAMETER or learned.intersection(node.refs()):
            learned.add(node.name)
        for value in _compared(graph, node) if node.name not in learned else ():
            if value in varied:
                found[value] = tuple(dict.fromkeys((*found.get(value, ()), *_numbers(graph, node))))
    return {value: numbers for value, numbers in found.items() if _is_free(graph, value, numbers)}


def _is_free(graph: Graph, value: str, numbers: Numbers) -> bool:
    """Whether a value may be any number: whole ones that are compared with 0 and 1 alone are masks, others indices."""
    node = graph.by_name[value]
    is_mask = all(number in (0, 1) for number in numbers)
    return node.is_floating or ("int" in node.dtype and not is_mask and not looks_up(graph, value))


def looks_up(graph: Graph, value: str) -> bool:
    """Whether whole numbers that are made of a value say where something stands."""
    seen, todo = {value}, [value]
    while todo:
        for user in graph.users[todo.pop()]:
            if short_name(user.target) in _LOOKUPS:
                return True
            if "int" in user.dtype and user.name not in seen:
                seen.add(user.name)
                todo.append(user.name)
    return False


def numbers_of(graph: Graph) -> Numbers:
    """All numbers by which values made of inputs decide, and one."""
    return _with_one(number for numbers in deciding(graph).values() for number in numbers)


def drawn(found: Mapping[str, Numbers], graph: Graph, generator: Generator, side: Side) -> dict[str, Tensor]:
    """Values that decide, as they stand to their numbers; those around them differ from each other."""
    values: dict[str, Tensor] = {}
    for name, numbers in found.items():
        node = graph.by_name[name]
        value = _beside(list(node.shape), generator, numbers, side)
        values[name] = value.round().long() if "int" in node.dtype else value
    return values


def _beside(shape: list[int], generator: Generator, numbers: Numbers, side: Side) -> Tensor:
    if side is Side.AROUND:
        return around(shape, generator, _with_one(numbers))
    if side is Side.AT:
        exact = torch.tensor(numbers or (1.0,), dtype=torch.float64)
        return exact[torch.randint(0, len(exact), shape, generator=generator)]
    far = 1.0 + 3.0 * max(map(abs, numbers), default=1.0)
    beyond: Tensor = far * (1.0 + torch.rand(shape, generator=generator, dtype=torch.float64))
    return beyond if side is Side.ABOVE else -beyond


def _compared(graph: Graph, node: Node) -> Iterator[str]:
    if node.kind is Kind.CALL and short_name(node.target) in _DECIDING:
        yield from dict.fromkeys(node.refs())


def _numbers(graph: Graph, node: Node) -> Iterator[float]:
    """The numbers that a call is made with, and those of thresholds that are stored."""
    for value in (*node.args, *(value for _, value in node.kwargs)):
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield float(value)
        held = graph.known.get(graph.by_name[value.name].target) if isinstance(value, Ref) else None
        if isinstance(held, Tensor) and held.numel() <= _FEW and held.is_floating_point():
            yield from (number for number in held.double().reshape(-1).tolist() if math.isfinite(number))


def _with_one(numbers: Iterator[float] | Numbers) -> Numbers:
    return tuple(dict.fromkeys((*numbers, 1.0)))
