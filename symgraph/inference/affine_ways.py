"""Ways from a parameter to what reads it, through calls that move its entries, multiply them, and add a number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from symgraph.inference.offset_numbers import adding_number, scaling_number, without
from symgraph.inference.structural import KEEPING
from symgraph.ir import Graph, Node, Ref
from symgraph.rules.book import RuleBook

_MOVING = KEEPING | {"slice", "select"}
_SAME = "aten.alias.default"


@dataclass(frozen=True, slots=True)
class AffineWay:
    """A way from a parameter to the `end` that reads it: `rate` times it and a `number`, after the `passed` calls.

    `held` is the value that the end reads.
    """

    end: Node
    held: str
    rate: float = 1.0
    number: float = 0.0
    passed: tuple[str, ...] = ()


class AffineWays:
    """The ways in a graph; those that `multiplies` go through products with numbers, those that `adds` through sums."""

    def __init__(self, graph: Graph, book: RuleBook, *, multiplies: bool = False, adds: bool = False) -> None:
        self.graph, self.book, self.multiplies, self.adds = graph, book, multiplies, adds

    def of(self, value: str) -> Iterator[AffineWay]:
        """All ways from a value, each as far as it goes."""
        return self._from(AffineWay(self.graph.by_name[value], value))

    def _from(self, way: AffineWay) -> Iterator[AffineWay]:
        for user in self.graph.users[way.held]:
            step = None if user.name in self.graph.outputs else self.step(user)
            if step is None:
                yield replace(way, end=user)
                continue
            rate, number = step
            further = replace(way, held=user.name, rate=way.rate * rate, passed=(*way.passed, user.name))
            yield from self._from(replace(further, number=way.number * rate + number))

    def step(self, node: Node) -> tuple[float, float] | None:
        """The number that a call multiplies its one operand by, and what it adds; None where it does anything else."""
        if self.is_moved(node):
            return 1.0, 0.0
        times = scaling_number(node) if self.multiplies else None
        return (times, 0.0) if times is not None else adding_number(node) if self.adds else None

    def is_moved(self, node: Node) -> bool:
        """Whether a call does nothing but move the entries of its one operand."""
        binding = self.book.binding(node, self.graph) if len(list(node.refs())) == 1 else None
        return binding is not None and binding.rule.structure in _MOVING

    def taken_out(self, calls: set[str], changed: set[str]) -> Graph:
        """The graph without what these calls do, but for moves; values that are others for it have other names."""
        nodes = (self.graph.by_name[name] for name in calls)
        left = {node.name: _same(node) for node in nodes if not self.is_moved(node)}
        return without(self.graph, changed, left)


def _same(node: Node) -> Node:
    (value,) = node.refs()
    return replace(node, target=_SAME, args=(Ref(value),), kwargs=())
