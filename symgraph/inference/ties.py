"""What was not absorbed keeps permutations, signs and scales only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from symgraph.groups.class_names import SymmetryClass as C
from symgraph.groups.lattice import TOP, down
from symgraph.inference.between import find_between
from symgraph.inference.claims import Evidence
from symgraph.inference.draft import MONOMIAL, Draft
from symgraph.ir import Node

# Maps that multiply by positive numbers alone.
UNSIGNED = down(C.POSITIVE_MONOMIAL, C.POSITIVE_DIAGONAL, C.PAIRWISE_SCALES, C.SEMI_PERMUTATION)


def _positive(draft: Draft) -> Iterator[Node]:
    """Parameters of which a positive function is read."""
    offsets = draft.eq.prepared.offsets
    stored = (node for node in draft.eq.graph.parameters.values() if node.target in offsets)
    return (node for node in stored if offsets[node.target].is_positive)


def tie(draft: Draft) -> Draft:
    """Bounds every frame that is multiplied entry by entry, and notes what these products alone forbid."""
    bounds, evidence = dict(draft.bounds), dict(draft.evidence)
    for relation in draft.relations:
        why = Evidence(relation.node, relation.rule, "multiplied entry by entry")
        for root in map(draft.root, relation.refs):
            bounds[root] = bounds.get(root, TOP) & MONOMIAL
            evidence[root] = (*evidence.get(root, ()), (MONOMIAL, why))
    for node in _positive(draft):
        why = Evidence(node.name, "positive", "a positive function of it is read, which has no other values")
        for root in {draft.root(ref) for block in draft.blocks[node.name] for ref in block}:
            bounds[root] = bounds.get(root, TOP) & UNSIGNED
            evidence[root] = (*evidence.get(root, ()), (UNSIGNED, why))
    return replace(draft, bounds=bounds, evidence=evidence, between=find_between(draft))
