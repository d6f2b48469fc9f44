"""A node and the rule that explains it, and what the rule says about the elements of a product."""

from __future__ import annotations

from dataclasses import dataclass

from symgraph.groups.lattice import Bound, SymmetryClass, down
from symgraph.inference.store import Ref
from symgraph.ir import Node, Tensor
from symgraph.rules.binding import Binding
from symgraph.rules.schema import Rule

BATCH: Bound = down(SymmetryClass.SEMI_PERMUTATION)


@dataclass(frozen=True, slots=True)
class Applied:
    """A node with the rule that explained it; rule None for an operator that no rule covers."""

    node: Node
    rule: Rule | None
    binding: Binding | None = None


@dataclass(frozen=True, slots=True)
class Relation:
    """On one axis: the element of `result` is the product of the elements of `terms` to their powers."""

    result: Ref
    terms: tuple[tuple[Ref, int], ...]
    node: str
    rule: str


def shapes_of(node: Node) -> tuple[tuple[int, ...], ...]:
    """The shape of each result."""
    if isinstance(node.result, Tensor):
        return (node.result.shape,)
    return () if node.result is None else tuple(t.shape for t in node.result)
