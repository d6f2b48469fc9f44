"""What the canonical form leaves, settled by steps that depend on the model: for comparing two models, not for lines.

Leans on a gain are taken out (no row of the reader has a part along the plane's normal); tilted biases and stored
statistics become those of another model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from symgraph.orbit.canonical import Canonical, canonicalise
from symgraph.orbit.constant_steps import Shift
from symgraph.orbit.freedoms import to_clean_gauge
from symgraph.orbit.norm_call import NormCall
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
    carried = Carried(clean)
    steps = list[Step](out.steps)
    for lean in leaning:
        step = Slant(symmetry, lean, -_along(lean, symmetry.raised(carried)))
        carried.take(step)
        steps.append(step)
    last = canonicalise(symmetry, carried.whole())
    return Canonical(last.state, Transform(tuple(steps)).then(last.transform), last.singular)


def _along(lean: Lean, state: Mapping[str, Tensor]) -> Tensor:
    """How much of the plane's normal each row of the reader has."""
    reader = lean.plane.reader
    weight = state[reader.parameter]
    normal = lean.plane.normal(state, weight)
    amounts = torch.tensordot(reader.of(weight), normal, dims=([reader.axis], [0])) / normal.square().sum()
    return lean.leaning(amounts)


def tilted(symmetry: SymmetryGraph) -> tuple[Constant, ...]:
    """Constants that the canonical form leaves, where they may be anything."""
    return tuple(constant for constant in symmetry.constants if constant.whole and not constant.settled)


def adopted(
    symmetry: SymmetryGraph,
    state: Mapping[str, Tensor],
    like: Mapping[str, Tensor],
    far: Callable[[State], float],
) -> State:
    """The state with the stored statistics of another model in the same basis, and such tilted biases as bring it near.

    What reads a tilted bias is tilted by one over its height above a plane. Of a model that has noise that may be next
    to nothing, and its bias would then turn the readers around.

    Args:
        far: how far a state is from the other model.
    """
    out, clean = to_clean_gauge(symmetry, state)
    back = out.inverse()
    _, other = to_clean_gauge(symmetry, like)
    for constant in tilted(symmetry):
        wanted, own = (constant.source.mean(symmetry.raised(at)) for at in (other, clean))
        there = Shift(symmetry, constant, wanted - own).apply(clean)
        clean = min(clean, there, key=lambda at: far(back.apply(at)))
    clean = back.apply(clean)
    for statistics in symmetry.statistics:
        changes = torch.stack([like[name] - clean[name] for name in statistics.tensors])
        clean = Restate(symmetry, NormCall(symmetry.graph, statistics), changes).apply(clean)
    return clean


def mirrored(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> Iterator[State]:
    """The state with one tilted bias each on the other side of its plane, where no small step leads.

    Between the sides readers would be infinitely steep.
    """
    out, clean = to_clean_gauge(symmetry, state)
    back, raised = out.inverse(), symmetry.raised(clean)
    for constant in tilted(symmetry):
        bias = constant.source.piece.parameter
        planes = (share.port.plane for share in constant.shares if share.port.plane is not None)
        plane = next((plane for plane in planes if plane.bias == bias), None)
        if plane is not None:
            normal = plane.normal(raised, raised[bias])
            part = plane.height(raised, raised[bias]) / plane.factor / normal.square().sum()
            yield back.apply(Shift(symmetry, constant, -2 * part * normal).apply(clean))
