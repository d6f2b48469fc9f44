"""Parameters that multiply a value: one learned number for all of it, or one for each position along an axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.inference.applied import Applied
from symgraph.inference.entry_numbers import is_constant, line_along, moved
from symgraph.inference.flow import Flow
from symgraph.inference.matrix_parts import way_back
from symgraph.ir import Kind, Node
from symgraph.ir import Tensor as Meta
from symgraph.symmetry.axis_parts import Piece, pieces
from symgraph.symmetry.terms import Leaf, Term
from symgraph.tracing.operators import short_name


@dataclass(frozen=True, slots=True)
class LearnedGain:
    """What multiplies an operand: a `number`, or along the axis `dim` of the result these `parts` of a parameter.

    Each part is there twice, with the term of the operand's axis and with that of the result's. Entry `start` of the
    parameter is the first of them.
    """

    number: Piece | None
    dim: int = 0
    parts: tuple[tuple[Piece, Piece], ...] = ()
    start: int = 0


class LearnedGains:
    """Finds what multiplies an operand of a call."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def of(self, a: Applied, operand: str) -> LearnedGain | None:
        """The parameter that a product multiplies one operand by; None where it is no product or anything else."""
        if short_name(a.node.target) != "mul" or not isinstance(a.node.result, Meta):
            return None
        others = [ref.name for name, (ref, _) in a.binding.operands.items() if name != operand]
        if len(others) != 1 or len(a.binding.operands) != 2:
            return None
        way = tuple(way_back(self.flow, others[0]))
        source = self.flow.graph.by_name[next(way[0].refs()) if way else others[0]]
        if source.kind is not Kind.PARAMETER or not source.is_floating:
            return None
        if set(source.shape) <= {1}:
            return LearnedGain(Piece(source.target, 0, 0, 1, Leaf(-1, -1, False, 1)))
        return self._along_one_axis(a, operand, source, self._numbers(source, way, a.node))

    def _numbers(self, source: Node, way: tuple[Node, ...], product: Node) -> Tensor:
        """Which entry of a parameter stands at which position of a product, counted from zero."""
        count = torch.arange(torch.Size(source.shape).numel()).reshape(source.shape)
        found = moved(self.flow.graph, way, {source.name: count}) if way else count
        return found.expand(product.shape)

    def _along_one_axis(self, a: Applied, operand: str, source: Node, numbers: Tensor) -> LearnedGain | None:
        axes = [i for i, n in enumerate(source.shape) if n > 1]
        dims = [i for i in range(numbers.dim()) if not is_constant(numbers, i)]
        if len(axes) != 1 or len(dims) != 1:
            return None
        line, before = line_along(numbers, dims[0]), self._axis_before(a, operand, dims[0])
        start, length = int(line[0]), len(line)
        neighbours = torch.equal(line, torch.arange(start, start + length))
        if not neighbours or before is None:
            return None
        after = self.flow.d.values[a.node.name][dims[0]]
        ways = (pieces(source.target, axes[0], term, start) for term in (before, after))
        found = tuple(zip(*ways, strict=False))
        alike = all(one.place == other.place and one.outer == other.outer for one, other in found)
        return LearnedGain(None, dims[0], found, start) if alike and sum(p.size for p, _ in found) == length else None

    def _axis_before(self, a: Applied, operand: str, dim: int) -> Term | None:
        """The term of the operand's axis that stands along an axis of the result."""
        ref, tokens = a.binding.operands[operand]
        name = a.binding.results[0][dim].name
        at = [i for i, token in enumerate(tokens) if token.name == name]
        return self.flow.d.values[ref.name][at[0]] if len(at) == 1 else None
