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
    parameters = {node.name: node.target for node in seen.graph.nodes if node.kind is Kind.PARAMETER}
    for node in seen.graph.calls:
        held = [ref for ref in node.refs() if ref in parameters and len(seen.terms[parameters[ref]]) > 1]
        values = [ref for ref in node.refs() if ref in seen.values and ref not in parameters]
        for ref in held:
            for axis, term in enumerate(seen.terms[parameters[ref]]):
                meetings = (
                    (value, along)
                    for value in values
                    for along, other in enumerate(seen.values[value])
                    if _meets(seen, term, other)
                )
                yield from (Reading(parameters[ref], axis, value, along) for value, along in list(meetings)[:1])


def _meets(symmetry: SymmetryGraph, reader: Term, value: Term) -> bool:
    """Whether the two axes contract: the same spaces, the reader in dual orientation."""
    one, other = list(leaves(reader)), list(leaves(value))
    active = any(leaf.space >= 0 and not symmetry.spaces[leaf.space].rigid for leaf in one)
    return active and [(leaf.space, leaf.dual) for leaf in one] == [(leaf.space, not leaf.dual) for leaf in other]
