"""Gains on both sides of a rotary product: a frequency pair may be scaled on one side and back on the other."""

from __future__ import annotations

from collections import defaultdict

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.absorption import gain_parameter
from symgraph.inference.applied import Relation
from symgraph.inference.draft import Draft
from symgraph.ir import Kind
from symgraph.symmetry.families import Paired


def find_pairs(d: Draft) -> list[Paired]:
    """Frames that admit rotary maps alone and are reached through gains only (norms of queries and keys).

    Call it before what is not absorbed is tied: a rotary frame and a monomial one have only such scales in common.
    """
    touching: dict[int, list[Relation]] = defaultdict(list)
    for r in d.relations:
        for ref in (r.result, *(t for t, _ in r.terms)):
            touching[d.root(ref)].append(r)
    held = {n.name for n in d.eq.graph.nodes if n.kind is not Kind.CALL}
    on_parameters = {d.root(r) for name in held for b in d.blocks.get(name, ()) for r in b}
    layouts = {d.root(ref): text for ref, text in d.eq.layouts}
    found = []
    for root, relations in touching.items():
        bound = d.bounds.get(root, frozenset())
        rotary = SymmetryClass.ROTARY in bound and SymmetryClass.PERMUTATION not in bound
        if rotary and root in layouts and root not in on_parameters:
            gains = [_gain(d, root, r) for r in relations]
            if all(gains) and len(gains) > 1:
                found.append(Paired(tuple(g for g in gains if g is not None), layouts[root]))
    return found


def _gain(d: Draft, root: int, r: Relation) -> tuple[str, bool] | None:
    """The gain that makes this frame and whether the frame stands there in its dual, if all this is so."""
    result = d.eq.store.find(r.result)
    if result >> 1 != root or len(r.terms) != 2 or any(power != 1 for _, power in r.terms):
        return None
    if root in (d.root(t) for t, _ in r.terms):
        return None
    names = [n for t, _ in r.terms if (n := gain_parameter(d, t)) is not None]
    return (names[0], bool(result & 1)) if len(names) == 1 else None
