"""Gains that are stored as logarithms, `x * exp(s)`: the group acts on what multiplies, which is positive.

Where every use of a parameter is its exponential, and this does nothing but multiply or divide what depends on inputs,
the exponential is taken out of the graph. What is left can be scaled by positive numbers, and nothing is added to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from symgraph.inference.offset_numbers import without
from symgraph.inference.structural import KEEPING
from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.rules.book import RuleBook
from symgraph.symmetry.offsets import Offset
from symgraph.tracing.thresholds import fed

_MOVING = KEEPING | {"slice", "select"}
_EXPONENTIAL, _SAME = "aten.exp.default", "aten.alias.default"
_PRODUCTS = frozenset({"aten.mul.Tensor", "aten.div.Tensor"})


def with_logarithms(graph: Graph, book: RuleBook) -> tuple[Graph, dict[str, Offset]]:
    """The graph with such gains as they multiply, and how each of them is stored."""
    calls = [node for node in graph.calls if node.target == _EXPONENTIAL]
    search = _Logarithms(graph, book) if calls else None
    found = {node.name: search.ways(node) for node in graph.parameters.values()} if search is not None else {}
    ways = {name: way for name, way in found.items() if way}
    if not ways:
        return graph, {}
    exponentials = [graph.by_name[end] for way in ways.values() for end, _ in way]
    left = {node.name: replace(node, target=_SAME) for node in exponentials}
    changed = {value for way in ways.values() for _, before in way for value in before}
    return without(graph, changed, left), {graph.by_name[name].target: Offset.exponential() for name in ways}


class _Logarithms:
    """What becomes of parameters until their exponential is taken, and of that."""

    def __init__(self, graph: Graph, book: RuleBook) -> None:
        self.graph, self.book, self.fed = graph, book, fed(graph)

    def ways(self, parameter: Node) -> list[tuple[str, list[str]]]:
        """The calls that take the exponential of a parameter, with the values on the way; none where others see it."""
        found = list(self._ends(parameter.name))
        whole = parameter.kind is Kind.PARAMETER and parameter.name not in self.graph.outputs
        plain = all(end.target == _EXPONENTIAL and self._multiplies(end.name) for end, _ in found)
        return [(end.name, before) for end, before in found] if whole and plain else []

    def _ends(self, value: str, before: tuple[str, ...] = ()) -> Iterator[tuple[Node, list[str]]]:
        """The calls that do more with a value than to move its entries, and the values that these pass."""
        for user in self.graph.users[value]:
            if self._moves(user) and user.name not in self.graph.outputs:
                yield from self._ends(user.name, (*before, user.name))
            else:
                yield user, list(before)

    def _multiplies(self, value: str) -> bool:
        """Whether a value does nothing but multiply or divide something that depends on inputs."""
        ends = [(user, held) for user, before in self._ends(value) for held in (before or [value])[-1:]]
        return value not in self.graph.outputs and all(self._is_factor(user, held) for user, held in ends)

    def _is_factor(self, node: Node, value: str) -> bool:
        others = [ref for ref in node.refs() if ref != value]
        if list(node.refs()).count(value) != 1 or not self.fed.intersection(others):
            return False
        if node.target in _PRODUCTS:
            return len(others) == 1 and (node.target != "aten.div.Tensor" or node.args[1] == Ref(value))
        binding = self.book.binding(node, self.graph)
        gain = binding.operands.get(binding.rule.gain or "") if binding is not None else None
        return gain is not None and gain[0].name == value

    def _moves(self, node: Node) -> bool:
        binding = self.book.binding(node, self.graph) if len(list(node.refs())) == 1 else None
        return binding is not None and binding.rule.structure in _MOVING
