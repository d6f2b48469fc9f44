"""Weights at the second moment of their inputs, |(T_A - T_B) S^1/2|^2: outputs are compared (design section 12)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.ir import Kind
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Term, leaves

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Reading:
    """A parameter that contracts its `axis` with one of a value."""

    parameter: str
    axis: int
    value: str
    along: int


def readings(symmetry: SymmetryGraph, seen: SymmetryGraph) -> Iterable[Reading]:
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


def weighted(state: State, moments: Mapping[tuple[str, int], tuple[Tensor, Tensor]], side: int) -> dict[str, Tensor]:
    """Parameters times the square root of their inputs' second moment, T S^1/2: A's with side 0, B's with side 1.

    A rotation acts on the result as it acts on the parameter, so that matching these is matching the outputs.
    """
    found = dict(state)
    roots: dict[int, Tensor] = {}
    for (name, axis), pair in moments.items():
        if name not in found:
            continue
        root = roots.setdefault(id(pair[side]), _root(pair[side]))
        moved = found[name].movedim(axis, -1)
        found[name] = (moved @ root.to(moved)).movedim(-1, axis)
    return found


def _root(moment: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(moment)
    root: Tensor = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.mT
    return root
