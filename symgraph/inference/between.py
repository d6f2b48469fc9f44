"""Gains that stay, and are all that ties the frames before and after them to permutations."""

from __future__ import annotations

from collections import defaultdict

from symgraph.groups.lattice import TOP, SymmetryClass
from symgraph.inference.absorption import gain_parameter
from symgraph.inference.applied import Relation
from symgraph.inference.claims import Ref
from symgraph.inference.draft import Draft

Frames = tuple[int, ...]


def find_between(d: Draft) -> dict[str, tuple[Frames, Frames]]:
    """For each such gain the frames before and after it, where both would admit rotations that fix the ones.

    Call it before what is not absorbed is tied.
    """
    touching: dict[int, int] = defaultdict(int)
    for r in d.relations:
        for root in {d.root(ref) for ref in (r.result, *(t for t, _ in r.terms))}:
            touching[root] += 1
    found: dict[str, tuple[Frames, Frames]] = {}
    for r in d.relations:
        split = _split(d, r)
        if split is None:
            continue
        gain, ends = split[0], (split[1], r.result)
        roots = [d.root(x) for x in (gain, *ends)]
        alone = len(set(roots)) == 3 and all(touching[root] == 1 for root in roots)
        if alone and all(SymmetryClass.ORTHOGONAL_ONES in d.bounds.get(x, TOP) for x in roots[1:]):
            first, second = (tuple(f for f, _ in d.made_one(x)) for x in ends)
            found[gain_parameter(d, gain) or ""] = first, second
    return found


def _split(d: Draft, r: Relation) -> tuple[Ref, Ref] | None:
    """The gain and the other factor, of a product of these two."""
    known = [(t, gain_parameter(d, t) is not None) for t, power in r.terms if power == 1]
    gains, others = [t for t, is_gain in known if is_gain], [t for t, is_gain in known if not is_gain]
    return (gains[0], others[0]) if (len(r.terms), len(gains), len(others)) == (2, 1, 1) else None
