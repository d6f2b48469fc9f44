"""What the producer of an operand says about it: masks, minus infinity, distinct entries, rows with an open place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import torch

from symgraph.ir import Graph, Kind, Node, Tensor
from symgraph.rules.binding import Binding
from symgraph.rules.distinct import Distinct
from symgraph.rules.magnitude import PERMUTING, PICKED, SUMS, VIEWS, is_float, plain_arguments
from symgraph.rules.trial import Drawn
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.operators import short_name
from symgraph.tracing.worlds import WORLDS, World, bounded

# What minus infinity passes through.
_PASSING = (
    SUMS
    | PERMUTING
    | VIEWS
    | PICKED
    | {
        *("where", "masked_fill", "expand", "repeat", "cat", "stack", "full", "full_like", "scalar_tensor"),
        *("to", "to_copy"),
    }
)


class Facts:
    """What is known of the values of one graph; every question is answered once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._infinite: dict[str, bool] = {}
        self._learned: dict[str, bool] = {}
        self._open: dict[str, bool] = {}
        # What no checkpoint stores is what the model's code makes of it, in every model of this kind.
        self._made = {name: graph.known[name] for name in graph.transient if name in graph.known}

    def drawn(self, name: str, limit: str) -> Drawn:
        """What an operand holds; `limit` bounds integers."""
        result = self.graph.by_name[name].result
        dtype = getattr(torch, result.dtype) if isinstance(result, Tensor) else torch.float64
        if dtype == torch.bool:
            return Drawn("bool")
        if dtype.is_complex:
            return Drawn("complex")
        if not dtype.is_floating_point:
            return Drawn("int", limit)
        return Drawn("mask") if self.infinite(name) else Drawn()

    def holds(self, fact: str, binding: Binding, operand: str, node: Node) -> bool:
        """Whether an operand of a call has a property that its rule assumes."""
        ref, tokens = binding.operands[operand]
        if fact == "open":
            return self.open(ref.name)
        at = [number for number, token in enumerate(tokens) if token.axis in binding.rule.points.values()]
        return len(at) == 1 and self._distinct.for_order(node, ref.name, at[0])

    @cached_property
    def _distinct(self) -> Distinct:
        return Distinct(self.graph, self.learned, self.infinite)

    # -- minus infinity ----------------------------------------------------------------------------------------

    def infinite(self, name: str) -> bool:
        """Whether a mask can bring minus infinity into a value: by a number filled in, an input, or a stored table."""
        if name not in self._infinite:
            self._infinite[name] = False
            self._infinite[name] = self._brings_infinity(self.graph.by_name[name])
        return self._infinite[name]

    def _brings_infinity(self, node: Node) -> bool:
        if node.kind is not Kind.CALL:
            return node.kind is not Kind.PARAMETER and is_float(node) and len(node.shape) >= 2
        base = short_name(node.target)
        if any(isinstance(constant, float) and math.isinf(constant) for constant in plain_arguments(node)):
            return True
        return base in _PASSING and any(self.infinite(ref) for ref in node.refs() if is_float(self.graph.by_name[ref]))

    # -- open rows ---------------------------------------------------------------------------------------------

    def open(self, name: str) -> bool:
        """Whether every row along the last axis of a mask has a place that is not closed.

        Masks that depend on inputs alone, and on buffers that no checkpoint stores, are computed from inputs of every
        world. Numbers that are learned are finite, as long as nothing brings infinity to them.
        """
        if name not in self._open:
            self._open[name] = False
            if self.learned(name):
                self._open[name] = is_float(self.graph.by_name[name]) and not self.infinite(name)
            else:
                self._open[name] = all(map(_is_open, self._computed(name)))
        return self._open[name]

    def learned(self, name: str) -> bool:
        """Whether a value depends on a parameter or a stored tensor."""
        todo = [name]
        while todo:
            node = self.graph.by_name[todo[-1]]
            if node.name in self._learned:
                todo.pop()
                continue
            refs = list(dict.fromkeys(node.refs()))
            missing = [ref for ref in refs if ref not in self._learned]
            if missing:
                todo += missing
                continue
            own = node.kind is Kind.PARAMETER or (node.kind is Kind.BUFFER and node.target not in self._made)
            self._learned[node.name] = own or any(self._learned[ref] for ref in refs)
            todo.pop()
        return self._learned[name]

    def _computed(self, name: str) -> Iterator[torch.Tensor]:
        """A value that depends on inputs alone, for inputs of every world."""
        needed = {name}
        for node in reversed(self.graph.nodes):
            if node.name in needed:
                needed.update(node.refs())
        part = Graph(tuple(node for node in self.graph.nodes if node.name in needed), (name,))
        generator = torch.Generator().manual_seed(0)
        run = Interpreter(part)
        for world in WORLDS:
            for high in (2, 7) if part.inputs else (2,):
                given = [_input(node, world, high, generator) for node in part.inputs]
                with torch.no_grad():
                    yield run.run(self._made, given)[0]
            if not part.inputs:
                return


def _input(node: Node, world: World, high: int, generator: torch.Generator) -> torch.Tensor:
    """An input: a mask, whole numbers below `high`, or numbers that are added as a mask."""
    dtype: torch.dtype = getattr(torch, node.result.dtype)  # type: ignore[union-attr]
    shape = list(node.shape)
    if not dtype.is_floating_point and dtype != torch.bool and high > 2:
        return torch.randint(0, high, shape, generator=generator).to(dtype)
    if dtype.is_floating_point and high > 2:
        return bounded(world.floats(shape, generator, ()), world, generator)
    return world.masks(shape, generator).to(torch.float64 if dtype.is_floating_point else dtype)


def _is_open(mask: torch.Tensor) -> bool:
    if not mask.dim() or not mask.numel():
        return True
    seen = mask if mask.dtype == torch.bool else mask != -torch.inf
    return bool(seen.any(-1).all())
