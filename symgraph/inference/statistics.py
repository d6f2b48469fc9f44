"""Stored statistics that a gain and a bias can make up for."""

from __future__ import annotations

from symgraph.inference.applied import Applied
from symgraph.inference.flow import Flow
from symgraph.ir import Graph, Kind, Node, map_refs
from symgraph.symmetry.families import Statistics


def find_statistics(flow: Flow, traced: Graph) -> list[Statistics]:
    """Calls whose rule names statistics, where all tensors involved belong to this call and to others like it alone.

    Args:
        traced: the graph as it was traced; what rewriting made has no call to evaluate.
    """
    calls = [
        applied for applied in flow.d.eq.applied if applied.rule.statistics and applied.node.name in traced.by_name
    ]
    found = [_statistics(flow, applied, traced.by_name[applied.node.name]) for applied in calls]
    first = {s.tensors: s for s in reversed(found) if s is not None}
    return list(reversed(first.values()))


def _statistics(flow: Flow, a: Applied, traced: Node) -> Statistics | None:
    rule, binding = a.rule, a.binding
    if rule.gain is None or rule.adds is None:
        return None
    names = [_own(flow, a, n) for n in (*rule.statistics, rule.gain, rule.adds)]
    channels = {token.name for token in binding.operands[rule.gain][1]} if rule.gain in binding.operands else set()
    at = [i for i, token in enumerate(binding.results[0]) if token.name in channels]
    read = dict(zip(a.node.refs(), traced.refs(), strict=False))
    if not all(names) or len(at) != 1 or traced.target != a.node.target:
        return None
    *tensors, gain, bias = names
    ends = (read[binding.operands[rule.gain][0].name], read[binding.operands[rule.adds][0].name])
    return Statistics(a.node.name, at[0], rule.statistics, tuple(tensors), gain, bias, ends)


def _own(flow: Flow, a: Applied, operand: str) -> str:
    """The parameter or stored buffer that an operand is, if nothing uses it but calls that do the same with it."""
    if operand not in a.binding.operands:
        return ""
    node = flow.graph.by_name[a.binding.operands[operand][0].name]
    held = node.kind in (Kind.PARAMETER, Kind.BUFFER) and node.target not in flow.graph.transient
    alike = all(_done(flow, user) == _done(flow, a.node) for user in flow.graph.users[node.name])
    return node.target if held and alike else ""


def _done(flow: Flow, node: Node) -> tuple[object, ...]:
    """What a call does, whatever values it does it to."""
    stored = {n.name for n in flow.graph.state.values()}
    args, kwargs = (map_refs(x, lambda r: r if r.name in stored else None) for x in (node.args, node.kwargs))
    return node.target, args, kwargs
