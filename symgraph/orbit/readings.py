"""Where parameters read values: the axes of both that contract."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from symgraph.ir import Kind
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Term, leaves


@dataclass(frozen=True, slots=True)
class Reading:
    """A parameter that contracts its `axis` with one of a value."""

    parameter: str
    axis: int
    value: str
    along: int


def readings(seen: SymmetryGraph) -> Iterable[Reading]:
    """Where parameters of several axes contract with values along active spaces."""
    parameters = {n.name: n.target for n in seen.graph.nodes if n.kind is Kind.PARAMETER}
    for node in seen.graph.calls:
        held = [r for r in node.refs() if r in parameters and len(seen.terms[parameters[r]]) > 1]
        values = [r for r in node.refs() if r in seen.values and r not in parameters]
        for ref in held:
            for axis, term in enumerate(seen.terms[parameters[ref]]):
                found = ((v, j) for v in values for j, t in enumerate(seen.values[v]) if _meets(seen, term, t))
                yield from (Reading(parameters[ref], axis, v, j) for v, j in list(found)[:1])


def _meets(symmetry: SymmetryGraph, reader: Term, value: Term) -> bool:
    """Whether the two axes contract: the same spaces, the reader in dual orientation."""
    one, other = list(leaves(reader)), list(leaves(value))
    active = any(x.space >= 0 and not symmetry.spaces[x.space].rigid for x in one)
    return active and [(x.space, x.dual) for x in one] == [(x.space, not x.dual) for x in other]
