"""One descent of B towards A: units solved in turn, each given all others; of several processes each has its own.

A unit whose blocks all belong to one process is solved there, as others are elsewhere meanwhile: they share no tensor.
The tables of one whose blocks are spread, as those of a residual stream are, are summed, and it is solved in one place.
What was found is then told to all, so that every process knows of every unit what it knows of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor

from symgraph.io.ranks import ALONE, Ranks, current
from symgraph.match.activations import Activations, agreement
from symgraph.match.correlation_tables import TableSums, pulled, repeats
from symgraph.match.match_options import MatchOptions
from symgraph.match.order_by_candidates import Tried, best_tried, partners
from symgraph.match.order_by_cost import outer_order
from symgraph.match.paired_blocks import Keep, Outline, Pair, outlines_of, pairs_of
from symgraph.match.run_file import RunSection
from symgraph.match.tensor_weights import parameter_weights
from symgraph.match.turns import Outcome, Turn, others, owners_of, start
from symgraph.match.unit_trees import fitted, positions_of, units
from symgraph.orbit.action import GroupElement, packed, random_element, unpacked
from symgraph.orbit.grams import add_to
from symgraph.orbit.owned import owners
from symgraph.orbit.tensor_blocks import Block
from symgraph.orbit.wreath import Key, Optimum, Table, Tree, best, decoupled, inside, paired, permutes
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.deferred import made
from symgraph.tracing.progress import Progress, tell

_log = logging.getLogger(__name__)
Held = TypeVar("Held", Outline, Pair)

# A unit that has stayed as it is so many times rests until the others have come to rest.
QUIET = 2
# What a step has to gain, relative to |A|^2.
GAIN = {torch.float64: 1e-13, torch.float32: 1e-9}
# How strongly a step is held back, in multiples of the largest correlation, until it is one forward.
PULLS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Nearest:
    """The element found, and the objective after the start and after every sweep.

    `initial` is the objective before anything moved, `squares` the weighted squared norms of A and B, `scale` that of
    A, or next to nothing where it is zero.
    """

    element: GroupElement
    objective: tuple[float, ...]
    initial: float
    scale: float
    squares: tuple[float, float]


class Descent:
    """With `close` distances are those of differences, in float64, for models that are nearly equal."""

    def __init__(
        self,
        symmetry: SymmetryGraph,
        a: Mapping[str, Tensor],
        b: Mapping[str, Tensor],
        options: MatchOptions,
        run: int,
        seen: Activations | None = None,
        close: bool = False,
        keep: Keep = made,
        section: RunSection | None = None,
    ) -> None:
        self.symmetry, self.options, self.run_index, self.seen = symmetry, options, run, seen
        self.close = close
        self.given = next((tensor.dtype for tensor in b.values() if tensor.is_floating_point()), torch.float64)
        self.dtype: torch.dtype = torch.float64 if close else getattr(torch, options.precision)
        self.device = next((tensor.device for tensor in b.values()), torch.device("cpu"))
        self.units, self.ranks = units(symmetry, options.spaces), current()
        self.owner = owners_of(self.units)
        self._place([name for name in symmetry.graph.parameters if name in a and name in b])
        self._pair(a, b, keep)
        self.element = GroupElement(symmetry, {})
        self.generator = torch.Generator().manual_seed(options.seed + 7919 * run)
        self.share = float(options.alpha) if seen is not None and seen.correlations else 0.0
        self.section, self.moves = section, list[GroupElement]()
        self.initial, self.history, self.ended = 0.0, list[float](), False
        self.quiet = [0] * len(self.units)
        # Those whose order stays until the others have come to rest, of those that are tried in some orders alone.
        self.in_order = set[int]()
        # Those that may find something else than when they were last solved from everything, and whom each touches.
        self.stale = set(range(len(self.units)))
        self.beside = [{unit} for unit in range(len(self.units))]
        for unit, outlines in enumerate(self.outlines):
            self.beside[unit].update(*(others(outline.spaces, unit, self.owner) for outline in outlines))

    def _place(self, names: Sequence[str]) -> None:
        """Which tensors belong to this process, and in which each unit is solved; `spread` are those of several."""
        # An order by a cost looks at all blocks of a unit at once.
        joint = self.options.outer == "joint"
        together = {unit.space.id for unit in self.units if (partners(unit) if joint else unit.children)}
        homes = owners(self.symmetry, self.ranks.count, together)
        self.names = [name for name in names if homes[name] == self.ranks.rank]
        every = outlines_of(self.symmetry, names)
        self.outlines = [[outline for outline in every if outline.spaces & unit.ids()] for unit in self.units]
        processes = [{homes[outline.member] for outline in outlines} for outlines in self.outlines]
        self.spread = {unit for unit, several in enumerate(processes) if len(several) > 1}
        self.homes = [min(several, default=0) for several in processes]

    def _pair(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], keep: Keep) -> None:
        """The blocks that belong to this process, and what all of them come to."""
        symmetry, options, close = self.symmetry, self.options, self.close
        first, second = (symmetry.acting({name: state[name] for name in self.names}) for state in (a, b))
        weights = parameter_weights(symmetry, options.weighting, first, second)
        condense = options.outer == "joint" and not close
        whole = {unit.space.id for unit in self.units if partners(unit)}
        found = pairs_of(
            symmetry, first, second, weights, self.dtype, condense=condense, whole=whole, by_distance=close, keep=keep
        )
        self.pairs = found.pairs
        self.on = [[pair for pair in self.pairs if pair.spaces & unit.ids()] for unit in self.units]
        square_a, square_b, still = map(self.ranks.total, (*found.squares, found.still))
        self.squares, self.scale = (square_a, square_b), square_a + 1e-300
        # |A|^2 + |B|^2 less what of 2 <A, B> stays; or what of the distance stays.
        self.still = still if close else square_a + square_b - 2 * still

    def run(self, progress: Progress | None, warm: bool = False) -> Nearest:
        """Starts, unless B is `warm`, and sweeps until nothing moves."""
        if not self._resumed():
            self.initial = self._objective()
            if self.run_index:
                self._apply(random_element(self.symmetry, generator=self.generator, spread=0.0, spaces=set(self.owner)))
            if not warm:
                self._take_turns(start(self.units, self.outlines))
            self.history = [self._objective()]
            self._leave()
        while not self.ended and len(self.history) <= self.options.sweeps:
            self._sweep()
            self._leave()
            done = len(self.history) - 1
            tell(_log, progress, f"sweep {done}: distance {self.history[-1]:.6g}", done, self.options.sweeps)
        element = self.element.to(dtype=self.given, device=self.device)
        return Nearest(element, tuple(self.history), self.initial, self.scale, self.squares)

    def _sweep(self) -> None:
        waiting = bool(self.in_order)
        rested = self._take_turns(map(Turn, self._order())) or waiting
        self.history.append(self._objective())
        if self.history[-2] - self.history[-1] <= self.options.tolerance * self.scale:
            self.ended = not rested
            self.quiet, self.in_order = [0] * len(self.units), set()

    # -- what is left in a file --------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Leaves all that it takes to go on from here to the same bits: B is moved anew as it was."""
        if self.section is not None:
            self.section.keep(
                initial=self.initial,
                history=self.history,
                ended=self.ended,
                quiet=self.quiet,
                stale=sorted(self.stale),
                in_order=sorted(self.in_order),
                element=packed(self.element),
                moves=[packed(move) for move in self.moves],
                generator=self.generator.get_state(),
            )

    def _resumed(self) -> bool:
        """Takes up what is in the file, if there is anything."""
        if self.section is None or not self.section.content:
            return False
        found = self.section.content
        self.initial, self.history, self.ended = found["initial"], list(found["history"]), found["ended"]
        self.quiet, self.stale = list(found["quiet"]), set(found["stale"])
        self.in_order = set(found["in_order"])
        self.element = unpacked(self.symmetry, found["element"])
        self.generator.set_state(found["generator"])
        for move in found["moves"]:
            self._move(unpacked(self.symmetry, move).to(dtype=self.dtype, device=self.device))
        return True

    def _order(self) -> list[int]:
        """Program order in the first run; restarts shuffle."""
        if not self.run_index:
            return list(range(len(self.units)))
        return torch.randperm(len(self.units), generator=self.generator).tolist()

    def _objective(self) -> float:
        if self.close:
            found = self.still + self.ranks.total(sum(pair.distance() for pair in self.pairs))
        else:
            found = max(self.still - 2 * self.ranks.total(sum(pair.product() for pair in self.pairs)), 0.0)
        if not self.share or self.seen is None:
            return found
        agreed = sum(agreement(self.seen.moved(unit, self.element)) for unit in self.units)
        return (1 - self.share) * found + 2 * self.share * self.scale * (1 - agreed)

    def at_order(self, unit: int, order: Tensor) -> GroupElement:
        """What brings a unit nearest to A with the order of its outermost space given, (n,): its inside is solved."""
        tree = self.units[unit]
        table, _ = self._table(Turn(unit), self.on[unit], self._share(tree), order, self.ranks)
        return self._step(tree, inside(tree, table, order)).to(dtype=self.given, device=self.device)

    def _share(self, unit: Tree) -> float:
        """How much activations count of a unit."""
        return self.share if self.seen is not None and unit.space.id in self.seen.correlations else 0.0

    def take(self, element: GroupElement) -> None:
        """Moves B by an element that was found elsewhere."""
        self._apply(element)

    # -- turns -------------------------------------------------------------------------------------------------

    def _take_turns(self, turns: Iterable[Turn]) -> bool:
        """Solves units one after the other, those of other processes there; whether any rested."""
        rested = False
        for _, group in groupby(turns, key=lambda turn: turn.unit in self.spread):
            some = list(group)
            outcomes = self._turns_together(some) if some[0].unit in self.spread else self._turns_apart(some)
            rested |= any(outcome is not None and outcome.rested for outcome in outcomes)
        return rested

    def _turns_together(self, turns: Iterable[Turn]) -> list[Outcome | None]:
        """Units that all processes hold something of."""
        return [self._turn(turn, self.ranks) for turn in turns]

    def _turns_apart(self, turns: Iterable[Turn]) -> list[Outcome | None]:
        """Units that each belong to one process: all know of all in the end."""
        mine = [self._turn(turn, ALONE) for turn in turns if self.homes[turn.unit] == self.ranks.rank]
        by_rank = self.ranks.gathered(mine)
        for rank, outcomes in enumerate(by_rank):
            for outcome in outcomes if rank != self.ranks.rank else ():
                self._take(outcome)
        return [outcome for outcomes in by_rank for outcome in outcomes]

    def _turn(self, turn: Turn, ranks: Ranks) -> Outcome | None:
        """Solves a unit together with those that hold something of it, unless nothing about it has changed."""
        if turn.unit not in self.stale:
            return None
        resting = self.quiet[turn.unit] >= QUIET
        outcome = Outcome(turn.unit, rested=True) if resting else self._improved(turn, ranks)
        self._take(outcome)
        return outcome

    def _take(self, outcome: Outcome | None) -> None:
        """Moves what is here, and notes who may find something else now."""
        if outcome is None or outcome.rested:
            return
        unit = outcome.unit
        if outcome.whole:
            self.stale.discard(unit)
        if outcome.in_order:
            self.in_order.add(unit)
        if outcome.idle:
            return
        moved = outcome.step is not None and self._apply(unpacked(self.symmetry, outcome.step))
        self.quiet[unit] = 0 if moved else self.quiet[unit] + 1
        if moved:
            # An optimum is one until something else moves; a step along a slope, or of parts in turn, need not be.
            self.stale |= self.beside[unit] - ({unit} if outcome.exact else set())

    # -- one unit ----------------------------------------------------------------------------------------------

    def _improved(self, turn: Turn, ranks: Ranks) -> Outcome:
        """The unit's optimum given all others, unless that lowers the correlation."""
        unit, home = self.units[turn.unit], self.homes[turn.unit]
        share = self._share(unit)
        known = self._found(turn, self.outlines[turn.unit]) if share < 1.0 else []
        found = self._found(turn, self.on[turn.unit]) if share < 1.0 else []
        twice = any(repeats(outline.leaves, unit.ids()) for outline in known)
        order = self._outer_order(unit, found) if not twice else None
        forced = turn.anchored is not None or order is not None
        tried = self._tried(turn, found, share, ranks) if order is None and not twice else None
        order = tried.order if tried else order
        table, before = self._table(turn, found, share, order, ranks)
        before = tried.unchanged if tried else before
        whole = len(known) == len(self.outlines[turn.unit]) or share == 1.0
        # Of an order that stayed untried more may be found once the others have come to rest.
        settled = whole and turn.unit not in self.in_order
        outcome = Outcome(turn.unit, whole=settled, in_order=whole and tried is not None and tried.in_order)
        if twice and turn.anchored is None:
            return outcome._replace(step=self._creep(unit, table, ranks, home))

        def solve() -> Outcome:
            if not table:
                return outcome._replace(idle=True)
            optimum = self._best(unit, table) if order is None else inside(unit, table, order)
            gained = float(optimum.value.sum()) - before > GAIN[self.dtype] * self.scale
            step = packed(self._step(unit, optimum)) if forced or gained else None
            return outcome._replace(step=step, exact=order is None and decoupled(unit, table))

        return ranks.sent(home, solve)

    def _found(self, turn: Turn, on: Sequence[Held]) -> list[Held]:
        """The blocks that a unit is solved from."""
        if turn.anchored is None:
            return list(on)
        ids = self.units[turn.unit].ids()
        once = (block for block in on if not repeats(block.leaves, ids))
        return [block for block in once if turn.anchored(others(block.spaces, turn.unit, self.owner))]

    def _outer_order(self, unit: Tree, found: list[Pair]) -> Tensor | None:
        if self.options.outer == "joint" or not unit.children or not permutes(unit.space):
            return None
        return outer_order(self.symmetry, unit, _weighted(found), self.options.outer)

    def _tried(self, turn: Turn, found: list[Pair], share: float, ranks: Ranks) -> Tried | None:
        """The order of a unit whose pairs of positions are too many to solve the inside of all."""
        unit = self.units[turn.unit]
        if self.options.outer != "joint" or not partners(unit):
            return None

        def table_of(order: Tensor) -> Table:
            return self._table(turn, found, share, order, ranks)[0]

        still = turn.unit in self.in_order
        return best_tried(self.symmetry, unit, _weighted(found), self._seen(unit), table_of, still=still)

    def _creep(self, unit: Tree, table: Table, ranks: Ranks, home: int) -> dict[str, Any] | None:
        """A unit that stands twice on a parameter: the table is only the slope there, so steps are tried and measured.

        A multiple of the identity added to the correlation pulls the optimum towards where it is; for rotations a
        strong enough pull makes a small step along the slope.
        """
        for pull in PULLS:
            step = ranks.sent(home, partial(self._held_back, unit, table, pull))
            if self._gain(unpacked(self.symmetry, step), ranks) > GAIN[self.dtype] * self.scale:
                return step
        return None

    def _held_back(self, unit: Tree, table: Table, pull: float) -> dict[str, Any]:
        scale = max(float(correlation.abs().max()) for correlation in table.values())
        return packed(self._step(unit, self._best(unit, pulled(table, unit.space, pull * scale))))

    def _gain(self, element: GroupElement, ranks: Ranks) -> float:
        """By how much the element would raise the correlation with A."""
        there = element.to(dtype=self.dtype, device=self.device)
        gain = ranks.total(sum(pair.gain(there) for pair in self.pairs if pair.spaces & element.elements.keys()))
        return (1 - self.share) * gain + self._agreed(element.after(self.element)) - self._agreed(self.element)

    def _agreed(self, element: GroupElement) -> float:
        """What activations say for an element, as correlations of weights count."""
        if not self.share or self.seen is None:
            return 0.0
        return self.share * self.scale * sum(agreement(self.seen.moved(unit, element)) for unit in self.units)

    def _best(self, unit: Tree, table: Table) -> Optimum:
        return best([unit], table, next(iter(table.values())).shape[0])

    def _step(self, unit: Tree, found: Optimum) -> GroupElement:
        """An optimum as an element: what was its batch are the positions that the unit is fibred over."""
        sizes = [self.symmetry.spaces[space].size for space in positions_of(unit)]

        def apart(part: Tensor, lead: int) -> Tensor:
            whole = sizes and part.shape[lead] == prod(sizes)
            return torch.unflatten(part, lead, sizes) if whole else part.squeeze(lead)

        moved = {space: element.mapped(apart) for space, element in found.elements.items()}
        return GroupElement(self.symmetry, {space: fitted(self.symmetry, space, own) for space, own in moved.items()})

    def _apply(self, element: GroupElement) -> bool:
        """Moves B, and says whether anything has moved at all."""
        element = element.to(dtype=torch.float64, device=self.device)
        self.element = element.after(self.element)
        if element.is_neutral:
            return False
        self._move(element.to(dtype=self.dtype, device=self.device))
        return True

    def _move(self, element: GroupElement) -> None:
        """Moves the blocks of B, in the precision of the match."""
        if self.section is not None:
            self.moves.append(element)
        for pair in self.pairs:
            if pair.spaces & element.elements.keys():
                pair.move(element)

    def _table(
        self, turn: Turn, found: list[Pair], share: float, order: Tensor | None, ranks: Ranks
    ) -> tuple[Table, float]:
        """Correlations of A with the current B on the unit's spaces, and the identity's value, where it is solved.

        With an order, those of its pairs of positions alone (see `wreath.inside`).
        """
        unit = self.units[turn.unit]
        sums = TableSums(self.symmetry, unit, order)
        for pair in found:
            sums.add(pair.block, pair.weight * (1 - share))
        sums.sums = ranks.summed(self.homes[turn.unit], sums.sums)
        table, before = self._seen_table(unit)
        if order is not None:
            table = dict(paired(key, correlation, unit.space.id, order) for key, correlation in table.items())
        weights = sums.table()
        before += agreement(weights.items()) if order is None else 0.0
        for key, correlation in weights.items():
            add_to(table, key, correlation)
        return table, before

    def _seen_table(self, unit: Tree) -> tuple[Table, float]:
        """The correlations of activations on the unit's spaces, and the identity's value."""
        table: Table = {}
        for key, correlation in self._seen(unit):
            add_to(table, key, self.share * self.scale * correlation.to(self.device, self.dtype))
        return table, agreement(table.items())

    def _seen(self, unit: Tree) -> list[tuple[Key, Tensor]]:
        return self.seen.moved(unit, self.element) if self.share and self.seen is not None else []


def _weighted(pairs: Iterable[Pair]) -> list[tuple[Block, float]]:
    return [(pair.block, pair.weight) for pair in pairs]
