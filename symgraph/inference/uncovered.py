"""Operators that no rule covers."""

from __future__ import annotations

from symgraph.groups.lattice import RIGID
from symgraph.inference.draft import Draft
from symgraph.inference.unread import UNREAD
from symgraph.ir import Node, Tensor
from symgraph.symmetry.structure import Uncovered


def uncovered(draft: Draft) -> tuple[Uncovered, ...]:
    """Every operator without a rule that something learned flows through."""
    return tuple(_found(draft, node) for node in draft.eq.uncovered if node.target != UNREAD)


def _found(draft: Draft, node: Node) -> Uncovered:
    names = tuple(dict.fromkeys(node.refs()))
    operands = [draft.eq.graph.by_name[name].result for name in names]
    shapes = tuple(repr(operand) for operand in operands if isinstance(operand, Tensor))
    axes = [axis for name in names for result in draft.eq.values[name] for axis in result]
    leaves = [leaf for axis in axes for leaf in draft.eq.store.leaves(axis)]
    idle = all(_rigid_otherwise(draft, leaf) for leaf in leaves if draft.eq.store.size(leaf) != 1)
    return Uncovered(node.target, node.where, shapes, idle)


def _rigid_otherwise(draft: Draft, ref: int) -> bool:
    """Whether a rule bounds this axis by the identity, and not only the lack of one."""
    return any(bound == RIGID and why.rule != "(none)" for bound, why in draft.evidence.get(draft.root(ref), ()))
