"""Which attention reads another stream than the one that asks: cross-attention, told from self-attention.

Attention is a call that a rule names and that does not see a constant in one of its operands, the keys. It crosses
where no value is common to what its first two operands were computed from, up to where attention went before.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from symgraph.inference.equations import Equations
from symgraph.ir import Kind, Node

_BOTH = frozenset((0, 1))


def crossing(eq: Equations) -> frozenset[str]:
    """The calls that attend across streams."""
    named = frozenset(label.node for label in eq.labels)
    order = {node.name: number for number, node in enumerate(eq.graph.nodes)}
    return frozenset(name for name in named if _attends(eq, name) and _crosses(eq, name, named, order))


def _attends(eq: Equations, name: str) -> bool:
    applied = eq.by_node.get(name)
    return applied is not None and (bool(applied.rule.blind) or "none" in applied.rule.shift.values())


def _crosses(eq: Equations, name: str, named: frozenset[str], order: Mapping[str, int]) -> bool:
    """Whether two operands come from different streams; the latest values first, so that a common one is met soon."""
    asked = list(dict.fromkeys(_read(eq, eq.graph.by_name[name])))[:2]
    sides = {ref: frozenset((side,)) for side, ref in enumerate(asked)}
    if len(sides) < 2:
        return False
    waiting = [-order[ref] for ref in sides]
    heapq.heapify(waiting)
    while waiting:
        node = eq.graph.nodes[-heapq.heappop(waiting)]
        if sides[node.name] == _BOTH:
            return False
        for ref in () if node.name in named else _read(eq, node):
            if ref not in sides:
                heapq.heappush(waiting, -order[ref])
            sides[ref] = sides.get(ref, frozenset()) | sides[node.name]
    return True


def _read(eq: Equations, node: Node) -> Iterator[str]:
    """What a call reads of values that were learned and computed."""
    return (ref for ref in node.refs() if ref in eq.learned and eq.graph.by_name[ref].kind is Kind.CALL)
