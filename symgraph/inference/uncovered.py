"""Operators that no rule covers."""

from __future__ import annotations

from symgraph.groups.lattice import RIGID
from symgraph.inference.draft import Draft
from symgraph.ir import Node, Tensor
from symgraph.symmetry.structure import Uncovered


def uncovered(d: Draft) -> tuple[Uncovered, ...]:
    """Every operator without a rule that something learned flows through."""
    return tuple(_found(d, node) for node in d.eq.uncovered)


def _found(d: Draft, node: Node) -> Uncovered:
    names = tuple(dict.fromkeys(node.refs()))
    operands = [d.eq.graph.by_name[r].result for r in names]
    shapes = tuple(repr(t) for t in operands if isinstance(t, Tensor))
    refs = [x for name in names for axes in d.eq.values[name] for ref in axes for x in d.eq.store.leaves(ref)]
    idle = all(_rigid_otherwise(d, x) for x in refs if d.eq.store.size(x) != 1)
    return Uncovered(node.target, node.where, shapes, idle)


def _rigid_otherwise(d: Draft, ref: int) -> bool:
    """Whether a rule bounds this axis by the identity, and not only the lack of one."""
    return any(bound == RIGID and why.rule != "(none)" for bound, why in d.evidence.get(d.root(ref), ()))
