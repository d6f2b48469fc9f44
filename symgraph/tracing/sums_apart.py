"""Sums over squares and other terms, taken apart: what factorization machines write has lengths of vectors in it.

`sum(a ** 2 - sum(b ** 2, 1), 2)` is `sum(a ** 2, 2) - sum(sum(b ** 2, 2), 1)`, and sums of squares have a rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

from symgraph.ir import Graph, Node, Ref, Shape
from symgraph.tracing.arguments import arguments
from symgraph.tracing.naming import numbering
from symgraph.tracing.normalize import without_dead_calls
from symgraph.tracing.written_out import Writer

_SUM, _SQUARE = "aten.sum.dim_IntList", "aten.pow.Tensor_Scalar"
_TERMS = frozenset({"aten.add.Tensor", "aten.sub.Tensor"})
_MULTIPLES = frozenset({"aten.mul.Tensor", "aten.div.Tensor", "aten.neg.default"})
Axes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Sum:
    """A sum of a value over axes of it, which stay with one entry where they are `kept`."""

    value: str
    axes: Axes
    kept: bool

    def shape(self, summed: Shape) -> Shape:
        """The shape of the sum, by that of what is summed."""
        sizes = (1 if axis in self.axes else size for axis, size in enumerate(summed))
        return tuple(size for axis, size in enumerate(sizes) if self.kept or axis not in self.axes)

    def before(self, axes: Axes) -> Axes:
        """Which axes of the value these axes of the sum are."""
        others = (axis for axis in count() if self.kept or axis not in self.axes)
        return tuple(axis for place, axis in zip(range(max(axes) + 1), others, strict=False) if place in axes)

    def behind(self, axes: Axes) -> Axes:
        """Where in the sum these other axes of the value are."""
        return axes if self.kept else tuple(axis - sum(gone < axis for gone in self.axes) for axis in axes)


def with_sums_apart(graph: Graph) -> Graph:
    """The graph with every sum over squares, and other terms beside them, as a sum for each term."""
    fresh = numbering(graph.by_name.keys())
    nodes: list[Node] = []
    for node in graph.nodes:
        taken_apart = _Terms(graph, Writer(node, graph.by_name, fresh, []))
        nodes += taken_apart.nodes() or [node]
    return without_dead_calls(replace(graph, nodes=tuple(nodes))) if len(nodes) > len(graph.nodes) else graph


@dataclass(frozen=True, slots=True)
class _Terms:
    """The terms of what a call sums, each summed by itself."""

    graph: Graph
    writer: Writer

    def nodes(self) -> list[Node]:
        """The calls in the place of one, or none where nothing is gained."""
        whole = self._read(self.writer.node)
        if whole is None or not any(self._sums_of_squares(whole)):
            return []
        self._write(whole)
        *before, last = self.writer.nodes
        return [*before, replace(last, name=self.writer.node.name, result=self.writer.node.result)]

    def _read(self, node: Node) -> _Sum | None:
        given = arguments(node) if node.target == _SUM and node.is_floating else None
        if not given or given["dtype"] is not None or not given["dim"]:
            return None
        summed = given["self"].name
        rank = len(self.graph.by_name[summed].shape)
        return _Sum(summed, tuple(sorted(axis % rank for axis in given["dim"])), bool(given["keepdim"]))

    def _sums_of_squares(self, whole: _Sum, inside: bool = False) -> Iterator[bool]:
        """Of each term, whether it is a square that is summed over two axes by turns."""
        parts, node = self._parts(whole), self.graph.by_name[whole.value]
        if not parts:
            yield inside and node.target == _SQUARE and node.args[1] == 2
        for part in parts:
            yield from self._sums_of_squares(part, inside or node.target == _SUM)

    def _parts(self, whole: _Sum) -> tuple[_Sum, ...]:
        """What has to be summed in the place of a value that nothing else reads; nothing where it is a term."""
        node = self.graph.by_name[whole.value]
        operands = [operand.name for operand in node.args if isinstance(operand, Ref)]
        alone = len(self.graph.users[node.name]) == 1 and node.name not in self.graph.outputs
        if not alone or not operands or not isinstance(node.args[0], Ref) or not node.is_floating:
            return ()
        if inner := self._read(node):
            axes = inner.before(whole.axes)
            return (replace(whole, value=inner.value, axes=axes),) if set(axes).isdisjoint(inner.axes) else ()
        several = {2: _TERMS, 1: _MULTIPLES}.get(len(operands), frozenset())
        alike = all(self.graph.by_name[name].shape == node.shape for name in operands)
        linear = node.target in several and alike and not node.kwargs
        return tuple(replace(whole, value=name) for name in operands) if linear else ()

    def _write(self, whole: _Sum) -> Ref:
        node, parts = self.graph.by_name[whole.value], self._parts(whole)
        if not parts:
            return self._summed(whole, Ref(whole.value), node.shape)
        written = [self._write(part) for part in parts]
        if inner := self._read(node):
            axes = parts[0].behind(inner.axes)
            return self._summed(replace(inner, axes=axes), written[0], self.writer.shape(written[0]))
        remaining = iter(written)
        args = tuple(next(remaining) if isinstance(operand, Ref) else operand for operand in node.args)
        return self.writer.call(node.target, args, self.writer.shape(written[0]))

    def _summed(self, whole: _Sum, value: Ref, shape: Shape) -> Ref:
        return self.writer.call(_SUM, (value, whole.axes, whole.kept), whole.shape(shape))
