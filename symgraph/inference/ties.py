"""What was not absorbed keeps permutations, signs and scales only."""

from __future__ import annotations

from dataclasses import replace

from symgraph.groups.lattice import TOP
from symgraph.inference.between import find_between
from symgraph.inference.claims import Evidence
from symgraph.inference.draft import MONOMIAL, Draft


def tie(draft: Draft) -> Draft:
    """Bounds every frame that is multiplied entry by entry, and notes what these products alone forbid."""
    bounds, evidence = dict(draft.bounds), dict(draft.evidence)
    for relation in draft.relations:
        why = Evidence(relation.node, relation.rule, "multiplied entry by entry")
        for root in map(draft.root, relation.refs):
            bounds[root] = bounds.get(root, TOP) & MONOMIAL
            evidence[root] = (*evidence.get(root, ()), (MONOMIAL, why))
    return replace(draft, bounds=bounds, evidence=evidence, between=find_between(draft))
