"""Zeros that are read: each reading has zeros of its own, and what stands between zeros is padded with them.

One tensor of zeros may begin the states of all layers and directions of a network. Every linear map leaves it as it is,
so that values are no more alike for beginning with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile

from symgraph.ir import DType, Graph, Node, Ref, Tensor, map_refs, resized, rewired
from symgraph.tracing.arguments import arguments
from symgraph.tracing.naming import numbering
from symgraph.tracing.uniform import uniform

_JOINED = "aten.cat.default"


def with_own_zeros(graph: Graph) -> Graph:
    """The graph with zeros made anew for each reading, and concatenations that begin or end with zeros as padding."""
    zeros = _zeros(graph)
    if not zeros:
        return graph
    made = _Remaking(graph.by_name, zeros, numbering(graph.by_name.keys()))
    nodes = tuple(part for node in graph.nodes for part in made.instead_of(node))
    read = {ref for node in nodes if node.name not in zeros for ref in node.refs()} | set(graph.outputs)
    if read & zeros:
        return replace(graph, nodes=nodes)
    return replace(graph, nodes=tuple(node for node in nodes if node.name not in zeros))


def _zeros(graph: Graph) -> frozenset[str]:
    """Values that are nothing but zeros, but for integers, which are positions or counts."""
    return frozenset(name for name in uniform(graph, 0) if not _counts(graph.by_name[name]))


def _counts(node: Node) -> bool:
    return node.dtype != "" and not node.is_floating


@dataclass
class _Remaking:
    """Nodes in the place of those that read zeros."""

    known: Mapping[str, Node]
    zeros: frozenset[str]
    fresh: Callable[[str], str]
    made: list[Node] = field(default_factory=list)

    def instead_of(self, node: Node) -> Iterator[Node]:
        """The calls that make the zeros which a node reads, and the node itself or what it is as padding."""
        if node.name in self.zeros or not any(ref in self.zeros for ref in node.refs()):
            yield node
            return
        self.made = []
        reading = self._padded(node) if node.target == _JOINED else None
        if reading is None:
            reading = rewired(node, self._own, name=node.name, module=node.module)
        yield from self.made
        yield reading

    def _own(self, ref: Ref) -> Ref:
        """The value, or zeros of that shape which nothing else reads."""
        before = self.known[ref.name]
        if ref.name not in self.zeros or not isinstance(before.result, Tensor):
            return ref
        zeros = before.call(self.fresh("zeros"), "aten.zeros.default", (before.shape,), before.shape)
        return self._add(replace(zeros, kwargs=(("dtype", DType(before.dtype)),)))

    def _add(self, node: Node) -> Ref:
        self.made.append(node)
        return Ref(node.name)

    def _padded(self, node: Node) -> Node | None:
        """A concatenation with zeros at its ends, as what stands between them with padding."""
        parts: tuple[Ref, ...] = node.args[0]
        dim = int((arguments(node) or {})["dim"]) % len(node.shape)
        before = sum(1 for _ in takewhile(lambda ref: ref.name in self.zeros, parts))
        behind = sum(1 for _ in takewhile(lambda ref: ref.name in self.zeros, reversed(parts)))
        inner = parts[before : len(parts) - behind]
        if len(inner) == len(parts) or any(len(self.known[part.name].shape) != len(node.shape) for part in parts):
            return None
        widths = [self._width(run, dim) for run in (parts[:before], parts[len(parts) - behind :])]
        pads = (*(0, 0) * (len(node.shape) - 1 - dim), *widths)
        between = inner[0] if len(inner) == 1 else self._joined(node, inner, dim)
        return replace(node, target="aten.constant_pad_nd.default", args=(between, pads, 0), kwargs=())

    def _width(self, parts: tuple[Ref, ...], dim: int) -> int:
        return sum(self.known[part.name].shape[dim] for part in parts)

    def _joined(self, node: Node, inner: tuple[Ref, ...], dim: int) -> Ref:
        shape = resized(node.shape, dim, self._width(inner, dim))
        parts = map_refs(inner, self._own)
        return self._add(node.call(self.fresh("cat"), _JOINED, (parts, dim), shape))
