"""Weights whose length nothing sees: what they write is divided by its own length before anything else reads it."""

from __future__ import annotations

from symgraph.inference.applied import Applied
from symgraph.inference.flow import Flow, matrices
from symgraph.inference.structural import KEEPING
from symgraph.ir import Kind
from symgraph.symmetry.families import Radial


def find_radial(flow: Flow) -> list[Radial]:
    """Linear maps, with their biases, that write for scale-free readers alone."""
    writers: dict[Radial, set[str]] = {}
    for a in flow.d.eq.applied:
        writer = _writer(flow, a, a.rule.radial) if a.rule is not None and a.rule.radial else None
        if writer is not None and (found := _tensors(flow, writer)) is not None:
            writers.setdefault(found, set()).add(writer.node.name)
    return [found for found, calls in writers.items() if _used(flow, found) == calls]


def _used(flow: Flow, radial: Radial) -> set[str]:
    """All calls that use one of the tensors."""
    return {user.name for t in radial.tensors for user in flow.graph.users[flow.graph.state[t].name]}


def _writer(flow: Flow, a: Applied, operand: str) -> Applied | None:
    """The linear map behind an operand that nothing else reads."""
    value = a.binding.operands[operand][0].name if a.binding is not None else ""
    while len(flow.graph.users[value]) == 1 and value not in flow.graph.outputs and value in flow.applied:
        writer = flow.applied[value]
        if writer.rule is None or writer.binding is None:
            return None
        if matrices(writer):
            return writer
        refs = list(writer.node.refs())
        if writer.rule.structure not in KEEPING or len(refs) != 1:
            return None
        value = refs[0]
    return None


def _tensors(flow: Flow, writer: Applied) -> Radial | None:
    """The matrices of a linear map and its bias, if all are parameters that it uses once."""
    operands = writer.binding.operands if writer.binding is not None else {}
    adds = [writer.rule.adds] if writer.rule is not None and writer.rule.adds else []
    nodes = [flow.graph.by_name[operands[k][0].name] for k in (*sorted(matrices(writer)), *adds) if k in operands]
    once = all(n.kind is Kind.PARAMETER and flow.operand(writer, n.name) for n in nodes)
    return Radial(tuple(n.target for n in nodes)) if nodes and once else None
