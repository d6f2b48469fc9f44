"""Weights whose length nothing sees: what they write is divided by its own length before anything else reads it."""

from __future__ import annotations

from symgraph.inference.applied import Applied
from symgraph.inference.flow import Flow
from symgraph.inference.structural import KEEPING
from symgraph.symmetry.families import Radial


def find_radial(flow: Flow) -> list[Radial]:
    """Linear maps, with their biases, that write for scale-free readers alone."""
    found = [_written(flow, a, a.rule.radial) for a in flow.d.eq.applied if a.rule is not None and a.rule.radial]
    return list(dict.fromkeys(r for r in found if r is not None))


def _written(flow: Flow, a: Applied, operand: str) -> Radial | None:
    value = a.binding.operands[operand][0].name if a.binding is not None else ""
    while len(flow.graph.users[value]) == 1 and value not in flow.graph.outputs and value in flow.applied:
        writer = flow.applied[value]
        if writer.rule is None or writer.binding is None:
            return None
        weights = {law for law in writer.rule.shift.values() if law not in ("output", "none")}
        if weights:
            return _tensors(flow, writer, weights)
        refs = list(writer.node.refs())
        if writer.rule.structure not in KEEPING or len(refs) != 1:
            return None
        value = refs[0]
    return None


def _tensors(flow: Flow, writer: Applied, weights: set[str]) -> Radial | None:
    wanted = [*weights, *([writer.rule.adds] if writer.rule is not None and writer.rule.adds else [])]
    operands = writer.binding.operands if writer.binding is not None else {}
    nodes = [flow.own(operands[k][0].name) for k in wanted if k in operands]
    return Radial(tuple(n.target for n in nodes if n is not None)) if nodes and all(nodes) else None
