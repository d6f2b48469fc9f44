"""The order of outer spaces by the loss of the mixed models: what lowers it on validation data is kept.

Costs compare what two experts (or heads) are. Wanted is what the mean of the models does: it tells apart orders that
cost nearly the same, since gates and insides of both models meet there. From a match on, two positions at a time change
places, those first that cost least, and the inside of every pair is solved anew. The exchange stays if the loss barrier
of the even mixture is lower; then all else is matched again in that order, and that stays on the same terms.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch

from symgraph.match.activations import Activations
from symgraph.match.descent import Descent, Nearest
from symgraph.match.input_moments import weighted
from symgraph.match.match_models import Matched, acted
from symgraph.match.match_options import MatchOptions
from symgraph.match.order_by_cost import outer_costs
from symgraph.match.unit_trees import units
from symgraph.measure.objective import EvenMixture
from symgraph.orbit.action import GroupElement
from symgraph.orbit.steps import State
from symgraph.orbit.wreath import Tree, permutes
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.progress import Progress, tell

_log = logging.getLogger(__name__)

# Exchanges that are tried on a space in one pass, and passes over all spaces.
MOST, PASSES = 64, 4


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The element of the second model, and what came of the search: barriers before and after, exchanges by space."""

    element: GroupElement
    nearest: Nearest
    before: float
    after: float
    tried: int
    kept: Mapping[str, int]

    def __str__(self) -> str:
        where = ", ".join(f"{count} on {name}" for name, count in self.kept.items()) or "none"
        return (
            f"order by loss: of {self.tried} exchanges tried these were kept: {where}; "
            f"barrier of the even mixture {self.before:.4f} -> {self.after:.4f}"
        )


def exchanged(
    symmetry: SymmetryGraph,
    states: Sequence[State],
    start: GroupElement,
    options: MatchOptions,
    mixture: EvenMixture,
    seen: Activations | None = None,
    progress: Progress | None = None,
) -> Exchanged:
    """Two canonical models, of which the second is matched by `start`, in the order of least loss.

    Args:
        options: what the models were matched by; `alpha` is a number where activations count.
        seen: activations of both, before the second has moved.
    """
    run = _Search(symmetry, states, start, options, mixture, seen)
    before = run.value
    for number in range(PASSES):
        if not run.improved():
            break
        tell(_log, progress, f"orders by loss, pass {number + 1}: barrier {run.value:.4f}", number + 1, PASSES)
    nearest = run.rematched(sweeps=0)
    return Exchanged(run.element, nearest, before, run.value, run.tried, run.kept)


def in_order(found: Matched, second: State, better: Exchanged) -> Matched:
    """A match of two models, the second moved to where the search has brought it."""
    distance = (max(better.nearest.objective[-1], 0.0) / better.nearest.scale) ** 0.5
    return replace(
        found,
        states=(found.states[0], acted(better.element, second)),
        elements=(found.elements[0], better.element),
        objective=(*found.objective, better.nearest.objective[-1]),
        after=(found.after[0], distance),
    )


class _Search:
    def __init__(
        self,
        symmetry: SymmetryGraph,
        states: Sequence[State],
        start: GroupElement,
        options: MatchOptions,
        mixture: EvenMixture,
        seen: Activations | None,
    ) -> None:
        self.symmetry, self.states, self.options, self.mixture, self.seen = symmetry, states, options, mixture, seen
        # What costs compare; losses are those of the models as they are.
        self.compared = list(states)
        if seen is not None and options.weighting == "inputs":
            self.compared = [weighted(state, seen.moments, side) for side, state in enumerate(states)]
        self.trees = [tree for tree in units(symmetry, options.spaces) if tree.children and permutes(tree.space)]
        self.element, self.tried, self.kept = start, 0, dict[str, int]()
        self.value = self._barrier(start)

    def improved(self) -> bool:
        """One pass over all spaces, and a match of everything in the order found; whether anything stayed."""
        kept = sum(self._ordered(tree) for tree in self.trees)
        if kept:
            self._keep(self.rematched(self.options.sweeps).element)
        return kept > 0

    def rematched(self, sweeps: int) -> Nearest:
        """Everything matched from where it is, in the order it is in."""
        found = self._descent(replace(self.options, outer="fixed", sweeps=sweeps)).run(None, warm=True)
        return replace(found, element=found.element.after(self.element))

    def _ordered(self, tree: Tree) -> int:
        """How many exchanges on one space have stayed."""
        names = tuple(space.name for space in self.symmetry.active if space.id in tree.ids())
        descent = self._descent(replace(self.options, outer="gram", spaces=names))
        place = next(i for i, unit in enumerate(descent.units) if unit.space.id == tree.space.id)
        found = 0
        for one, other in self._exchanges(descent, place):
            order = torch.arange(tree.space.size)
            order[[one, other]] = order[[other, one]]
            step = descent.at_order(place, order)
            self.tried += 1
            if self._keep(step.after(self.element)):
                descent.take(step)
                found += 1
        if found:
            self.kept[tree.space.name] = self.kept.get(tree.space.name, 0) + found
        return found

    def _exchanges(self, descent: Descent, place: int) -> list[tuple[int, int]]:
        """Pairs of positions, those first whose exchange costs least."""
        size = descent.units[place].space.size
        on = [(p.block, p.weight) for p in descent.on[place]]
        costs = outer_costs(self.symmetry, descent.units[place], on, "gram")
        pairs = list(combinations(range(size), 2))
        if costs is not None:
            pairs.sort(key=lambda p: float(costs[p] + costs[p[::-1]] - costs[p[0], p[0]] - costs[p[1], p[1]]))
        return pairs[:MOST]

    def _descent(self, options: MatchOptions) -> Descent:
        first, second = self.compared
        still = GroupElement(self.symmetry, {})
        seen = None if self.seen is None else self.seen.after(still, self.element)
        return Descent(self.symmetry, first, acted(self.element, second), options, 0, seen)

    def _keep(self, element: GroupElement) -> bool:
        """Goes there if the barrier is lower."""
        value = self._barrier(element)
        if not value < self.value:
            return False
        self.element, self.value = element, value
        return True

    def _barrier(self, element: GroupElement) -> float:
        return self.mixture.barrier([self.states[0], acted(element, self.states[1])])
