"""Gains of which a positive function is read, `x * exp(s)` or `x * softplus(s)`: the group acts on what multiplies.

Where every use of a parameter is one and the same function of it, which takes every number to a positive one of its own
and every positive one is reached, and this does nothing but multiply or divide what depends on inputs, the function
is taken out of the graph. What is left can be scaled by positive numbers, and nothing is added to it. Of a function
that is bounded (`1 + exp(s)`, `sigmoid(s)`) a multiple may be none of its values: such gains stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from symgraph.inference.offset_numbers import adding_number, scaling_number, without
from symgraph.inference.structural import KEEPING
from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.rules.book import RuleBook
from symgraph.symmetry.offsets import Chart, Offset
from symgraph.tracing.arguments import arguments
from symgraph.tracing.thresholds import fed

_MOVING = KEEPING | {"slice", "select"}
_SAME, _MINUS = "aten.alias.default", "aten.neg.default"
_PRODUCT, _QUOTIENT = "aten.mul.Tensor", "aten.div.Tensor"
_THRESHOLD = 20


@dataclass(frozen=True, slots=True)
class _Affine:
    """A way from a parameter to the `end` that reads it: `rate` times it and a `number`, after the `passed` calls."""

    end: Node
    held: str
    rate: float
    number: float
    passed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Way:
    """A call that takes a positive function of a parameter, with those that lead to it."""

    end: str
    passed: tuple[str, ...]
    offset: Offset


def with_positive_gains(graph: Graph, book: RuleBook) -> tuple[Graph, dict[str, Offset]]:
    """The graph with such gains as they multiply, and what is read of each of them."""
    search = _Positive(graph, book) if any(_function(node) for node in graph.calls) else None
    found = {node.name: search.ways(node) for node in graph.parameters.values()} if search is not None else {}
    ways = {name: way for name, way in found.items() if way}
    if not ways:
        return graph, {}
    taken = {call for way in ways.values() for one in way for call in (one.end, *one.passed)}
    left = {name: _same(graph.by_name[name]) for name in taken if not _moved(graph.by_name[name], book, graph)}
    changed = {name for way in ways.values() for one in way for name in one.passed}
    offsets = {graph.by_name[name].target: way[0].offset for name, way in ways.items()}
    return without(graph, changed, left), offsets


def _same(node: Node) -> Node:
    (value,) = node.refs()
    return replace(node, target=_SAME, args=(Ref(value),), kwargs=())


def _moved(node: Node, book: RuleBook, graph: Graph) -> bool:
    binding = book.binding(node, graph) if len(list(node.refs())) == 1 else None
    return binding is not None and binding.rule.structure in _MOVING


def _function(node: Node) -> tuple[str, float, float] | None:
    """The positive function that a call takes of what it reads: its name, what it multiplies before, and divides by."""
    given = arguments(node) or {}
    if node.target == "aten.exp.default":
        return "exp", 1.0, 1.0
    if node.target == "aten.softplus.default":
        beta = float(given.get("beta", 1.0))
        return ("softplus", beta, beta) if beta > 0 and given.get("threshold", _THRESHOLD) == _THRESHOLD else None
    base = given.get("self") if node.target == "aten.pow.Scalar" else None
    return ("exp", math.log(base), 1.0) if isinstance(base, int | float) and base > 0 and base != 1 else None


class _Positive:
    """What becomes of parameters until a positive function is taken of them, and of that."""

    def __init__(self, graph: Graph, book: RuleBook) -> None:
        self.graph, self.book, self.fed = graph, book, fed(graph)

    def ways(self, parameter: Node) -> list[_Way]:
        """The calls that take a positive function of a parameter; none where others see it, or another function."""
        found = [self._way(one) for one in self._ends(parameter.name, affine=True)]
        whole = parameter.kind is Kind.PARAMETER and parameter.name not in self.graph.outputs
        ways = [way for way in found if way is not None]
        return ways if whole and len(ways) == len(found) and len({way.offset for way in ways}) == 1 else []

    def _way(self, one: _Affine) -> _Way | None:
        function = _function(one.end)
        if function is None or not self._multiplies(one.end.name):
            return None
        kind, times, over = function
        chart = Chart(kind, times * one.rate, over)
        return _Way(one.end.name, one.passed, Offset(0, ((1, one.number / one.rate),), chart))

    def _ends(
        self, value: str, rate: float = 1.0, number: float = 0.0, passed: tuple[str, ...] = (), *, affine: bool = False
    ) -> Iterator[_Affine]:
        """The calls that do more with a value than to move its entries, or with `affine` than to add and multiply."""
        for user in self.graph.users[value]:
            step = None if user.name in self.graph.outputs else self._step(user, affine)
            if step is None:
                yield _Affine(user, value, rate, number, passed)
            else:
                times, more = step
                yield from self._ends(
                    user.name, rate * times, number * times + more, (*passed, user.name), affine=affine
                )

    def _step(self, node: Node, affine: bool) -> tuple[float, float] | None:
        """The number that a call multiplies its one operand by, and what it adds; None where it does anything else."""
        if _moved(node, self.book, self.graph):
            return 1.0, 0.0
        times = scaling_number(node) if affine else None
        more = adding_number(node) if affine and times is None else None
        return (times, 0.0) if times is not None else more

    def _multiplies(self, value: str) -> bool:
        """Whether a value does nothing but multiply or divide something that depends on inputs."""
        return value not in self.graph.outputs and all(self._is_factor(one.end, one.held) for one in self._ends(value))

    def _is_factor(self, node: Node, value: str) -> bool:
        others = [ref for ref in node.refs() if ref != value]
        if list(node.refs()).count(value) != 1 or not self.fed.intersection(others):
            return False
        if node.target in (_PRODUCT, _QUOTIENT):
            return len(others) == 1 and (node.target == _PRODUCT or node.args[1] == Ref(value))
        binding = self.book.binding(node, self.graph)
        gain = binding.operands.get(binding.rule.gain or "") if binding is not None else None
        return gain is not None and gain[0].name == value
