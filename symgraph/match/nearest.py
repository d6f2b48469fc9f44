"""Weight matching: coordinate descent over units of spaces in canonical form (design section 11).

Minimises sum_T w_T |T_A - (g.B)_T|^2 over the compact part of the group. One unit (a space with everything fibred over
it) is solved exactly given the others, so the objective never rises; a step that would raise it by rounding is not
taken. The start follows the anchors: a unit is first solved from those blocks alone whose other axes are rigid or
already solved, in the order of how much of it is anchored (residual streams by embeddings and head, first layers by
their inputs), before sweeps over everything.

Tensors and their products are float32, unless float64 is asked for; small matrices, sums and elements are float64.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import Tensor

from symgraph.errors import UsageError, argument, near
from symgraph.groups.elements import Element
from symgraph.match.activations import Activations, agreement
from symgraph.match.correlation_tables import TableSums, pulled, repeats
from symgraph.match.input_moments import weighted
from symgraph.match.match_options import MatchOptions
from symgraph.match.order_by_cost import outer_order
from symgraph.match.paired_blocks import Keep, Pair, pairs_of
from symgraph.match.run_file import Parts, RunSection, packed, unpacked
from symgraph.match.tensor_weights import parameter_weights
from symgraph.orbit.action import GroupElement, random_element
from symgraph.orbit.wreath import Optimum, Table, Tree, best, decoupled, inside, paired, permutes
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.tracing.deferred import made
from symgraph.tracing.progress import Progress, tell

_log = logging.getLogger(__name__)

DEFAULT = MatchOptions()


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


# A unit that has stayed as it is so many times rests until the others have come to rest.
QUIET = 2
# Where so little of |A|^2 is left between the models, products do not resolve it: it is done again by differences.
RESOLVED = 1e-4
# What a step has to gain, relative to |A|^2.
GAIN = {torch.float64: 1e-13, torch.float32: 1e-9}
# How strongly a step is held back, in multiples of the largest correlation, until it is one forward.
PULLS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


def nearest(
    symmetry: SymmetryGraph,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    options: MatchOptions = DEFAULT,
    progress: Progress | None = None,
    seen: Activations | None = None,
    warm: bool = False,
    keep: Keep = made,
    opened: Parts | None = None,
) -> Nearest:
    """The element g of the compact group that brings B nearest to A.

    Args:
        a, b: states in canonical form, floating and of equal shapes.
        seen: activations of both, which then count with the share `alpha` (and their moments, for "inputs").
        warm: B has been matched before: sweep from where it is, without a start of its own and without restarts.
        keep: called with every tensor that the match works with; what it returns is held, and made when it is needed.
        opened: given the name of a descent its place in a file, which is written after every sweep, and taken up where
            something is there.

    Raises:
        UsageError: an unknown weighting or parameter, a pattern that matches no space, or no number for `alpha`.

    Source: coordinate descent of Ainsworth et al., arXiv 2209.04836; classes of Theus et al., arXiv 2506.22712.
    """
    if seen is not None and seen.correlations and options.alpha == "auto":
        raise UsageError(
            "a single match has one share of activations",
            remedy=f"give a number, {argument('alpha', 0.5, within='options')}",
        )
    if seen is not None and options.weighting == "inputs":
        a, b = weighted(a, seen.moments, 0), weighted(b, seen.moments, 1)
    restarts = 0 if warm else options.restarts

    def descent(number: int, close: bool = False) -> Nearest:
        section = None if opened is None else opened(f"{'close' if close else 'descent'} {number}")
        run = _Descent(symmetry, a, b, options, number, seen, close=close, keep=keep, section=section)
        return run.run(progress, warm)

    runs = [descent(r) for r in range(restarts + 1)]
    best_run = min(range(restarts + 1), key=lambda r: runs[r].objective[-1])
    found = runs[best_run]
    if found.objective[-1] > RESOLVED * found.scale:
        return found
    close = descent(best_run, close=True)
    return close if close.objective[-1] <= RESOLVED * close.scale else found


def units(symmetry: SymmetryGraph, patterns: Sequence[str] = ("*",)) -> list[Tree]:
    """The trees of active spaces: each space hangs below the innermost active space of its fibre.

    Raises:
        UsageError: a pattern matches no space.
    """
    for p in patterns:
        if p != "*" and not any(fnmatch(s.name, p) for s in symmetry.active):
            names = [s.name for s in symmetry.active]
            such = f"patterns are matched against names such as {', '.join(names[:3])}"
            raise UsageError(f"no space that can be aligned matches {p!r}", remedy=near(p, names, such))
    chosen = [s for s in symmetry.active if any(fnmatch(s.name, p) for p in patterns)]
    ids = {s.id for s in chosen}
    below: dict[int, list[Space]] = {}
    for s in chosen:
        outer = [f for f in s.fibre if f in ids]
        below.setdefault(outer[-1] if outer else -1, []).append(s)

    def grow(s: Space) -> Tree:
        return Tree(s, tuple(grow(c) for c in below.get(s.id, ())))

    return [grow(s) for s in below.get(-1, ())]


class _Descent:
    def __init__(
        self,
        symmetry: SymmetryGraph,
        a: Mapping[str, Tensor],
        b: Mapping[str, Tensor],
        o: MatchOptions,
        run: int,
        seen: Activations | None = None,
        close: bool = False,
        keep: Keep = made,
        section: RunSection | None = None,
    ) -> None:
        """With `close` distances are those of differences, in float64, for models that are nearly equal."""
        self.symmetry, self.options, self.run_index, self.seen = symmetry, o, run, seen
        self.close, self.given = close, next((t.dtype for t in b.values() if t.is_floating_point()), torch.float64)
        self.dtype: torch.dtype = torch.float64 if close else getattr(torch, o.precision)
        both = [n for n in symmetry.graph.parameters if n in a and n in b]
        first, second = (symmetry.stacked(symmetry.shifted({n: s[n] for n in both})) for s in (a, b))
        weights = parameter_weights(symmetry, o.weighting, first, second)
        condense = o.outer == "joint" and not close
        found = pairs_of(symmetry, first, second, weights, self.dtype, condense=condense, by_distance=close, keep=keep)
        self.pairs = found.pairs
        self.device = next((t.device for t in second.values()), torch.device("cpu"))
        self.units = units(symmetry, o.spaces)
        self.owner = {i: k for k, u in enumerate(self.units) for i in u.ids()}
        self.on = [[p for p in self.pairs if p.spaces & u.ids()] for u in self.units]
        self.element = GroupElement(symmetry, {})
        self.generator = torch.Generator().manual_seed(o.seed + 7919 * run)
        self.squares, self.scale = found.squares, found.squares[0] + 1e-300
        # |A|^2 + |B|^2 less what of 2 <A, B> stays; or what of the distance stays.
        self.still = found.still if close else sum(found.squares) - 2 * found.still
        self.share = float(o.alpha) if seen is not None and seen.correlations else 0.0
        self.section, self.moves = section, list[GroupElement]()
        self.initial, self.history, self.ended = 0.0, list[float](), False
        self.quiet = [0] * len(self.units)
        # Those that may find something else than when they were last solved from everything, and whom each touches.
        self.stale = set(range(len(self.units)))
        self.beside = [set().union(*(self._others(p, u) for p in on), {u}) for u, on in enumerate(self.on)]

    def run(self, progress: Progress | None, warm: bool = False) -> Nearest:
        if not self._resumed():
            self.initial = self._objective()
            if self.run_index:
                self._apply(random_element(self.symmetry, generator=self.generator, spread=0.0, spaces=set(self.owner)))
            if not warm:
                self._start()
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
        rested = False
        for u in filter(self.stale.__contains__, self._order()):
            if self.quiet[u] < QUIET:
                self._improve(u, None)
            else:
                rested = True
        self.history.append(self._objective())
        if self.history[-2] - self.history[-1] <= self.options.tolerance * self.scale:
            self.ended = not rested
            self.quiet = [0] * len(self.units)

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
            found = self.still + sum(p.distance() for p in self.pairs)
        else:
            found = max(self.still - 2 * sum(p.product() for p in self.pairs), 0.0)
        if not self.share or self.seen is None:
            return found
        agreed = sum(agreement(self.seen.moved(u, self.element)) for u in self.units)
        return (1 - self.share) * found + 2 * self.share * self.scale * (1 - agreed)

    # -- the start ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Solves every unit once, the best anchored first, from its anchored blocks alone."""
        shape = [self._anchors(u) for u in range(len(self.units))]
        known: set[int] = set()
        while len(known) < len(self.units):
            share = {u: _share(shape[u], known) for u in range(len(self.units)) if u not in known}
            u = max(share, key=lambda k: (share[k], -k))
            self._improve(u, (lambda others: others <= known) if share[u] > 0 else None)
            known.add(u)

    def _anchors(self, unit: int) -> dict[frozenset[int], int]:
        """Number of entries by the set of other units on their block."""
        found: dict[frozenset[int], int] = {}
        for p in self.on[unit]:
            if not repeats(p.leaves, self.units[unit].ids()):
                rest = self._others(p, unit)
                found[rest] = found.get(rest, 0) + p.entries
        return found

    def _others(self, pair: Pair, unit: int) -> frozenset[int]:
        return frozenset(self.owner[s] for s in pair.spaces if s in self.owner) - {unit}

    # -- one unit ----------------------------------------------------------------------------------------------

    def _improve(self, index: int, anchored: Callable[[frozenset[int]], bool] | None) -> None:
        """Replaces the unit's elements by the optimum given all others, unless that lowers the correlation."""
        unit = self.units[index]
        share = self.share if self.seen is not None and unit.space.id in self.seen.correlations else 0.0
        found = [] if share == 1.0 else self._found(index, anchored)
        twice = any(repeats(p.leaves, unit.ids()) for p in found)
        order = self._outer_order(unit, found) if not twice else None
        table, before = self._table(unit, found, share, order)
        if len(found) == len(self.on[index]) or share == 1.0:
            self.stale.discard(index)
        if not table:
            return
        if twice and anchored is None:
            moved = self._creep(unit, table)
        else:
            best_found = best([unit], table, 1) if order is None else inside(unit, table, order)
            gained = float(best_found.value) - before > GAIN[self.dtype] * self.scale
            moved = (anchored is not None or order is not None or gained) and self._apply(self._step(best_found))
        self.quiet[index] = 0 if moved else self.quiet[index] + 1
        if moved:
            # An optimum is one until something else moves; a step along a slope, or of parts in turn, need not be.
            exact = order is None and not twice and decoupled(unit, table)
            self.stale |= self.beside[index] - ({index} if exact else set())

    def _found(self, index: int, anchored: Callable[[frozenset[int]], bool] | None) -> list[Pair]:
        """The pairs that a unit is solved from."""
        if anchored is None:
            return self.on[index]
        ids = self.units[index].ids()
        return [p for p in self.on[index] if anchored(self._others(p, index)) and not repeats(p.leaves, ids)]

    def _outer_order(self, unit: Tree, found: list[Pair]) -> Tensor | None:
        if self.options.outer == "joint" or not unit.children or not permutes(unit.space):
            return None
        return outer_order(self.symmetry, unit, [(p.block, p.weight) for p in found], self.options.outer)

    def _creep(self, unit: Tree, table: Table) -> bool:
        """A unit that stands twice on a parameter: the table is only the slope there, so steps are tried and measured.

        A multiple of the identity added to the correlation pulls the optimum towards where it is; for rotations a
        strong enough pull makes a small step along the slope.
        """
        scale = max(float(c.abs().max()) for c in table.values())
        for pull in PULLS:
            step = self._step(best([unit], pulled(table, unit.space, pull * scale), 1))
            if self._gain(step) > GAIN[self.dtype] * self.scale:
                return self._apply(step)
        return False

    def _gain(self, element: GroupElement) -> float:
        """By how much the element would raise the correlation with A."""
        there = element.to(dtype=self.dtype, device=self.device)
        gain = sum(p.gain(there) for p in self.pairs if p.spaces & element.elements.keys())
        return (1 - self.share) * gain + self._agreed(element.after(self.element)) - self._agreed(self.element)

    def _agreed(self, element: GroupElement) -> float:
        """What activations say for an element, as correlations of weights count."""
        if not self.share or self.seen is None:
            return 0.0
        return self.share * self.scale * sum(agreement(self.seen.moved(u, element)) for u in self.units)

    def _step(self, found: Optimum) -> GroupElement:
        step = {i: _fit(self.symmetry, i, e.mapped(torch.squeeze)) for i, e in found.elements.items()}
        return GroupElement(self.symmetry, step)

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

    def _table(self, unit: Tree, found: list[Pair], share: float, order: Tensor | None) -> tuple[Table, float]:
        """Correlations of A with the current B on the unit's spaces, and the identity's value.

        With an order, those of its pairs of positions alone (see `wreath.inside`).
        """
        sums = TableSums(self.symmetry, unit, order)
        for pair in found:
            sums.add(pair.block, pair.weight * (1 - share))
        table, before = self._seen_table(unit)
        if order is not None:
            table = {k: v for key, c in table.items() for k, v in [paired(key, c, unit.space.id, order)]}
        weights = sums.table()
        before += agreement(weights.items()) if order is None else 0.0
        return {k: _both(table.get(k), weights.get(k)) for k in dict.fromkeys((*table, *weights))}, before

    def _seen_table(self, unit: Tree) -> tuple[Table, float]:
        """The correlations of activations on the unit's spaces, and the identity's value."""
        if not self.share or self.seen is None:
            return {}, 0.0
        table: Table = {}
        for key, c in self.seen.moved(unit, self.element):
            c = self.share * self.scale * c.to(self.device, self.dtype)
            table[key] = table[key] + c if key in table else c
        return table, agreement(table.items())


def _both(one: Tensor | None, other: Tensor | None) -> Tensor:
    if one is None or other is None:
        return other if one is None else one  # type: ignore[return-value]
    return one + other


def _share(anchors: Mapping[frozenset[int], int], known: set[int]) -> float:
    total = sum(anchors.values())
    return sum(n for others, n in anchors.items() if others <= known) / total if total else 0.0


def _fit(symmetry: SymmetryGraph, space: int, e: Element) -> Element:
    """Fibre dimensions that the unit did not solve for (rigid ones) are expanded: its element is constant over them."""
    want = symmetry.fibre_sizes(symmetry.spaces[space])
    inside = 2 if e.matrix is not None else 1

    def fit(x: Tensor, lead: int) -> Tensor:
        outer, have, tail = x.shape[:lead], x.shape[lead : x.dim() - inside], x.shape[x.dim() - inside :]
        if tuple(have) == want:
            return x
        shaped = x.reshape(*outer, *[1] * (len(want) - len(have)), *have, *tail)
        return shaped.expand(*outer, *want, *tail).contiguous()

    return e.mapped(fit)
