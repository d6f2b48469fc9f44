"""What the canonical form leaves, settled by steps that depend on the model: for comparing two models, not for lines.

Leans on a gain are taken out (no row of the reader has a part along the plane's normal); tilted biases and stored
statistics become those of another model.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from symgraph.orbit.canonical import Canonical, canonicalise
from symgraph.orbit.constant_steps import Shift
from symgraph.orbit.freedoms import to_clean_gauge
from symgraph.orbit.on_demand import Carried
from symgraph.orbit.step import Step
from symgraph.orbit.steps import State, Transform
from symgraph.orbit.uneven import Restate, Slant
from symgraph.symmetry.families import Constant, Lean
from symgraph.symmetry.graph import SymmetryGraph


def upright(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> Canonical:
    """The canonical form of a model whose leans on a gain are taken out first.

    Raises:
        CheckpointError: as for `canonicalise`.
    """
    leaning = [lean for lean in symmetry.leans if not lean.settled]
    if not leaning:
        return canonicalise(symmetry, state)
    out, clean = to_clean_gauge(symmetry, state)
    found = Carried(clean)
    steps = list[Step](out.steps)
    for lean in leaning:
        step = Slant(lean, -_along(lean, found))
        found.take(step)
        steps.append(step)
    last = canonicalise(symmetry, found.whole())
    return Canonical(last.state, Transform(tuple(steps)).then(last.transform), last.singular)


def _along(lean: Lean, state: Mapping[str, Tensor]) -> Tensor:
    """How much of the plane's normal each row of the reader has."""
    reader = lean.plane.reader
    weight = state[reader.parameter]
    normal = lean.plane.normal(state, weight)
    amounts = torch.tensordot(reader.of(weight), normal, dims=([reader.axis], [0])) / normal.square().sum()
    found: Tensor = amounts if lean.rows is None else amounts[lean.rows.entries()]
    return found


def tilted(symmetry: SymmetryGraph) -> tuple[Constant, ...]:
    """Constants that the canonical form leaves, but for those of one coordinate."""
    return tuple(c for c in symmetry.constants if not (c.settled or c.single))


def adopted(symmetry: SymmetryGraph, state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> State:
    """The state with the tilted biases and the stored statistics of another model in the same basis."""
    out, found = to_clean_gauge(symmetry, state)
    _, other = to_clean_gauge(symmetry, like)
    for c in tilted(symmetry):
        found = Shift(c, c.source.mean(other) - c.source.mean(found)).apply(found)
    found = out.inverse().apply(found)
    for s in symmetry.statistics:
        changes = torch.stack([like[n] - found[n] for n in s.tensors])
        found = Restate(symmetry.graph, s, changes).apply(found)
    return found
