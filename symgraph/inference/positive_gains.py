"""Gains of which a positive function is read, `x * exp(s)` or `x * softplus(s)`: the group acts on what multiplies.

Where every use of a parameter is one and the same function of it, which takes every number to a positive one of its own
and every positive one is reached, and this does nothing but multiply or divide what depends on inputs, the function
is taken out of the graph. What is left can be scaled by positive numbers, and nothing is added to it. Of a function
that is bounded (`1 + exp(s)`, `sigmoid(s)`) a multiple may be none of its values: such gains stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from symgraph.inference.affine_ways import AffineWay, AffineWays
from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.rules.book import RuleBook
from symgraph.symmetry.offsets import Chart, Offset
from symgraph.tracing.arguments import arguments
from symgraph.tracing.thresholds import fed

_PRODUCT, _QUOTIENT = "aten.mul.Tensor", "aten.div.Tensor"
_THRESHOLD = 20


@dataclass(frozen=True, slots=True)
class _Function:
    """A call that takes a positive function of a parameter, with those that lead to it."""

    end: str
    passed: tuple[str, ...]
    offset: Offset


def with_positive_gains(graph: Graph, book: RuleBook) -> tuple[Graph, dict[str, Offset]]:
    """The graph with such gains as they multiply, and what is read of each of them."""
    search = _Positive(graph, book) if any(map(_function, graph.calls)) else None
    found = {node.name: search.functions(node) for node in graph.parameters.values()} if search is not None else {}
    functions = {name: own for name, own in found.items() if own}
    if search is None or not functions:
        return graph, {}
    changed = {name for own in functions.values() for one in own for name in one.passed}
    ends = {one.end for own in functions.values() for one in own}
    offsets = {graph.by_name[name].target: own[0].offset for name, own in functions.items()}
    return search.ways.taken_out(ends | changed, changed), offsets


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
        self.ways = AffineWays(graph, book, multiplies=True, adds=True)
        self.multiples = AffineWays(graph, book, multiplies=True)

    def functions(self, parameter: Node) -> list[_Function]:
        """The calls that take a positive function of a parameter; none where others see it, or another function."""
        found = [self._taken(way) for way in self.ways.of(parameter.name)]
        whole = parameter.kind is Kind.PARAMETER and parameter.name not in self.graph.outputs
        functions = [one for one in found if one is not None]
        alike = len(functions) == len(found) and len({one.offset for one in functions}) == 1
        return functions if whole and alike else []

    def _taken(self, way: AffineWay) -> _Function | None:
        function = _function(way.end)
        uses = self._uses(way.end.name) if function is not None else []
        if function is None or not uses:
            return None
        kind, times, over = function
        chart = Chart(kind, times * way.rate, over / uses[0].rate)
        passed = (*way.passed, *(name for use in uses for name in use.passed))
        return _Function(way.end.name, passed, Offset(0, ((1, way.number / way.rate),), chart))

    def _uses(self, value: str) -> list[AffineWay]:
        """All uses of a value, if it, or a positive multiple, does nothing but multiply or divide what inputs make."""
        uses = list(self.multiples.of(value)) if value not in self.graph.outputs else []
        rates = {use.rate for use in uses}
        plain = len(rates) == 1 and min(rates) > 0 and all(self._is_factor(use.end, use.held) for use in uses)
        return uses if plain else []

    def _is_factor(self, node: Node, value: str) -> bool:
        others = [ref for ref in node.refs() if ref != value]
        if list(node.refs()).count(value) != 1 or not self.fed.intersection(others):
            return False
        if node.target in (_PRODUCT, _QUOTIENT):
            return len(others) == 1 and (node.target == _PRODUCT or node.args[1] == Ref(value))
        binding = self.book.binding(node, self.graph)
        gain = binding.operands.get(binding.rule.gain or "") if binding is not None else None
        return gain is not None and gain[0].name == value
