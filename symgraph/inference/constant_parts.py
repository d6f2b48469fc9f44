"""The parts of parameters that constants are added to: along an axis, or along several that are read as one."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

from symgraph.inference.applied import Applied
from symgraph.inference.flow import Flow, matrices
from symgraph.inference.matrix_parts import along, frames_of, part_of, term_of
from symgraph.ir import Kind, Node
from symgraph.symmetry.axis_parts import Piece
from symgraph.tracing.thresholds import fed


class ConstantParts:
    """Along which axes parameters have constants: the last, all that a matrix reads as one, rows that are centred."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def of(self, node: Node, *, even: bool, alike: bool) -> list[Piece]:
        """The parts of a parameter that constants are added to, of which with `even` all entries are equal.

        Args:
            alike: every row of a table has to have the same constant.
        """
        axes = tuple(axis for axis, size in enumerate(node.shape) if size > 1)
        if len(axes) > 1 and not alike:
            for read in (axes, *(tuple(axis for axis in axes if axis != rows) for rows in axes[:-1])):
                if len(read) > 1 and self._is_one(node.target, read):
                    return along(self.flow, node.target, read)
        rows = along(self.flow, node.target, (0,)) if len(axes) > 1 and node.name in self.standardised else []
        return [*along(self.flow, node.target, (len(node.shape) - 1,)), *([] if even else rows)]

    def _is_one(self, parameter: str, axes: tuple[int, ...]) -> bool:
        """Whether some matrix has the frames of these axes along one of its own."""
        of_each = [frames_of(term_of(self.flow, parameter, (axis,))) for axis in axes]
        frames = frozenset[int]().union(*of_each)
        return all(of_each) and any(frames <= read for read in self.together[min(frames)])

    @cached_property
    def together(self) -> dict[int, set[frozenset[int]]]:
        """For each frame those that stand together with it along an axis of a matrix: heads and their inside."""
        operands = (a.binding.operands[operand] for a in self.flow.d.eq.applied for operand in matrices(a))
        read = {ref.name for ref, _ in operands}
        parts = filter(None, (part_of(self.flow, value) for value in sorted(read)))
        several = {found for part in parts for term in part.terms if len(found := frames_of(term)) > 1}
        by_frame: dict[int, set[frozenset[int]]] = defaultdict(set)
        for found in several:
            for frame in found:
                by_frame[frame].add(found)
        return by_frame

    @cached_property
    def standardised(self) -> frozenset[str]:
        """Parameters that are centred before anything reads them, by calls that read nothing but parameters."""
        varied, behind = fed(self.flow.graph), dict[str, frozenset[str]]()
        for node in self.flow.graph.nodes:
            own = frozenset([node.name]) if node.kind is Kind.PARAMETER else frozenset()
            behind[node.name] = own if node.name in varied else own.union(*(behind[ref] for ref in node.refs()))
        centred = (ref for ref in map(_centred, self.flow.d.eq.applied) if ref is not None and ref not in varied)
        return frozenset().union(*(behind[ref] for ref in centred))


def _centred(applied: Applied) -> str | None:
    """The operand of which a call sees no constant along some axes, if that is its first."""
    first = next(iter(applied.binding.operands), "")
    unseen = bool(first) and (applied.rule.centred is not None or first in applied.rule.blind)
    return applied.binding.operands[first][0].name if unseen else None
