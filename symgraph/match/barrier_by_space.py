"""Which space carries the loss barrier: the barrier with one space left as it was and all others aligned, measured."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from symgraph.match.pair_basis import PairBasis
from symgraph.measure.barrier import usable
from symgraph.measure.grid import line
from symgraph.measure.measured import Measured
from symgraph.measure.mixture import Mixtures
from symgraph.measure.objective import Objective
from symgraph.measure.survey import Survey
from symgraph.symmetry.structure import Space
from symgraph.tracing.progress import Progress, tell

_log = logging.getLogger(__name__)

State = Mapping[str, Tensor]
# Points of lambda, the ends included: those between them are measured for every space.
POINTS = 5


@dataclass(frozen=True, slots=True)
class Carried:
    """The loss barrier with one space left as it was, on the points that `BySpace` has."""

    space: str
    measured: Measured


@dataclass(frozen=True, slots=True)
class BySpace:
    """The loss barrier with everything aligned, and with one space after the other left as it was."""

    aligned: Measured
    spaces: tuple[Carried, ...]

    @property
    def worst(self) -> Carried | None:
        """The space without which the barrier is largest."""
        return max(self.spaces, key=lambda s: s.measured.barrier, default=None)


def barrier_by_space(
    basis: PairBasis,
    states: tuple[State, State],
    data: Any,
    *,
    loss: Any = "cross-entropy",
    points: int = POINTS,
    device: str = "cpu",
    recalibrate: Any = None,
    progress: Progress | None = None,
) -> BySpace:
    """Measures the loss barrier with each space that was aligned left as it was, with what is fibred over it.

    What the models themselves have is measured once: they compute the same in every basis.

    Args:
        states: A and B aligned, as states of the network of B.
        data: batches that can be gone through again and again.
        recalibrate: batches of the training split, on which stored statistics are computed anew at mixtures.
    """
    network, where = basis.models[1].module, usable(device)
    objective = Objective(network, loss)

    def survey(pair: tuple[State, State], like: Survey | None = None) -> Survey:
        point = Mixtures(network, pair, where, None, own=recalibrate is not None)
        return Survey(objective, point, data, recalibrate, like=like)

    first = survey(states)
    first.visit_all(line(points))
    found, spaces = [], basis.moved_spaces()
    for number, space in enumerate(spaces):
        tell(_log, progress, f"the barrier without {space.name}", number, len(spaces))
        other = survey(_left(basis, states, space), first)
        other.visit_all([m for m in line(points) if m not in other.found])
        found.append(Carried(space.name, other.measured()))
    return BySpace(first.measured(), tuple(found))


def _left(basis: PairBasis, states: tuple[State, State], space: Space) -> tuple[State, State]:
    """Both models with one space left as it was."""
    names, without = basis.affected(space), basis.without(space)
    tied = basis.symmetry.graph.tied
    pair = []
    for model, state in enumerate(states):
        same = without.basis[model].steps == basis.basis[model].steps
        changed = {} if same else without.used(model, names)
        pair.append({name: changed.get(tied.get(name, name), tensor) for name, tensor in state.items()})
    return pair[0], pair[1]
