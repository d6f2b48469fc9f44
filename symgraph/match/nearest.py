"""Weight matching: coordinate descent over units of spaces in canonical form (design section 11).

Minimises sum_T w_T |T_A - (g.B)_T|^2 over the compact part of the group. One unit (a space with everything fibred over
it) is solved exactly given the others, so the objective never rises; a step that would raise it by rounding is not
taken. The start follows the anchors: a unit is first solved from those blocks alone whose other axes are rigid or
already solved, in the order of how much of it is anchored (residual streams by embeddings and head, first layers by
their inputs), before sweeps over everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.groups.elements import Element
from symgraph.match.activations import Activations, agreement
from symgraph.match.correlation_tables import correlations, pulled, repeats
from symgraph.match.input_moments import weighted
from symgraph.match.match_options import MatchOptions, Progress
from symgraph.match.order_by_cost import outer_order
from symgraph.match.tensor_weights import parameter_weights
from symgraph.match.wreath import Optimum, Table, Tree, best, inside, paired, permutes
from symgraph.orbit.action import GroupElement, random_element
from symgraph.orbit.steps import State
from symgraph.orbit.tensor_blocks import Block, blocks
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space

DEFAULT = MatchOptions()


@dataclass(frozen=True, slots=True)
class Nearest:
    """The element found, and the objective after the start and after every sweep.

    `initial` is the objective before anything moved, `scale` the weighted squared norm of A.
    """

    element: GroupElement
    objective: tuple[float, ...]
    initial: float = 0.0
    scale: float = 1.0


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
) -> Nearest:
    """The element g of the compact group that brings B nearest to A.

    Args:
        a, b: states in canonical form, floating and of equal shapes.
        seen: activations of both, which then count with the share `alpha` (and their moments, for "inputs").
        warm: B has been matched before: sweep from where it is, without a start of its own and without restarts.

    Raises:
        UsageError: an unknown weighting or parameter, a pattern that matches no space, or no number for `alpha`.

    Source: coordinate descent of Ainsworth et al., arXiv 2209.04836; classes of Theus et al., arXiv 2506.22712.
    """
    if seen is not None and seen.correlations and options.alpha == "auto":
        raise UsageError("a single match has one share of activations", remedy="pass alpha= a number from 0 to 1")
    if seen is not None and options.weighting == "inputs":
        a, b = weighted(a, seen.moments, 0), weighted(b, seen.moments, 1)
    restarts = 0 if warm else options.restarts
    runs = [_Descent(symmetry, a, b, options, r, seen).run(progress, warm) for r in range(restarts + 1)]
    return min(runs, key=lambda m: m.objective[-1])


def units(symmetry: SymmetryGraph, patterns: Sequence[str] = ("*",)) -> list[Tree]:
    """The trees of active spaces: each space hangs below the innermost active space of its fibre.

    Raises:
        UsageError: a pattern matches no space.
    """
    for p in patterns:
        if p != "*" and not any(fnmatch(s.name, p) for s in symmetry.active):
            raise UsageError(
                f"no space that can be aligned matches {p!r}",
                remedy=f"patterns are matched against names such as {', '.join(s.name for s in symmetry.active[:3])}",
            )
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
    ) -> None:
        self.symmetry, self.options, self.run_index, self.seen = symmetry, o, run, seen
        both = [n for n in symmetry.graph.parameters if n in a and n in b]
        self.a: State = symmetry.stacked(symmetry.shifted({n: a[n] for n in both}))
        self.b: State = symmetry.stacked(symmetry.shifted({n: b[n] for n in both}))
        self.names = list(self.a)
        self.weights = parameter_weights(symmetry, o.weighting, self.a, self.b)
        self.units = units(symmetry, o.spaces)
        self.element = GroupElement(symmetry, {})
        self.generator = torch.Generator().manual_seed(o.seed + 7919 * run)
        self.scale = sum(float(self.weights[n] * self.a[n].square().sum()) for n in self.names) + 1e-300
        self.share = float(o.alpha) if seen is not None and seen.correlations else 0.0

    def run(self, progress: Progress | None, warm: bool = False) -> Nearest:
        initial = self._objective()
        if self.run_index:
            self._apply(
                self._like(random_element(self.symmetry, generator=self.generator, spread=0.0, spaces=self._movable()))
            )
        if not warm:
            self._start()
        history = [self._objective()]
        for sweep in range(self.options.sweeps):
            for u in self._order():
                self._improve(self.units[u], None)
            history.append(self._objective())
            if progress is not None:
                progress(f"sweep {sweep + 1}: distance {history[-1]:.6g}")
            if history[-2] - history[-1] <= self.options.tolerance * self.scale:
                break
        return Nearest(self.element, tuple(history), initial, self.scale)

    def _movable(self) -> set[int]:
        return {i for u in self.units for i in u.ids()}

    def _order(self) -> list[int]:
        """Program order in the first run; restarts shuffle."""
        if not self.run_index:
            return list(range(len(self.units)))
        return torch.randperm(len(self.units), generator=self.generator).tolist()

    def _objective(self) -> float:
        found = sum(float(self.weights[n] * (self.a[n] - self.b[n]).square().sum()) for n in self.names)
        if not self.share or self.seen is None:
            return found
        agreed = sum(agreement(self.seen.moved(u, self.element)) for u in self.units)
        return (1 - self.share) * found + 2 * self.share * self.scale * (1 - agreed)

    # -- the start ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Solves every unit once, the best anchored first, from its anchored blocks alone."""
        inside = [u.ids() for u in self.units]
        owner = {i: k for k, ids in enumerate(inside) for i in ids}
        shape = self._anchors(owner)
        known: set[int] = set()
        while len(known) < len(self.units):
            share = {u: _share(shape[u], known, u) for u in range(len(self.units)) if u not in known}
            u = max(share, key=lambda k: (share[k], -k))
            self._improve(self.units[u], (lambda others: others <= known) if share[u] > 0 else None, owner, u)
            known.add(u)

    def _anchors(self, owner: Mapping[int, int]) -> list[dict[frozenset[int], int]]:
        """For each unit: number of entries by the set of other units on their block."""
        found: list[dict[frozenset[int], int]] = [{} for _ in self.units]
        for name in self.names:
            for block in blocks(name, [self.a[name]], self.symmetry.acting_terms[name]):
                on = frozenset(owner[x.space] for x in block.leaves if x.space in owner)
                for u in (u for u in on if not repeats(block, self.units[u].ids())):
                    rest = on - {u}
                    found[u][rest] = found[u].get(rest, 0) + block.tensors[0].numel()
        return found

    # -- one unit ----------------------------------------------------------------------------------------------

    def _improve(
        self,
        unit: Tree,
        anchored: Callable[[set[int]], bool] | None,
        owner: Mapping[int, int] | None = None,
        index: int = -1,
    ) -> None:
        """Replaces the unit's elements by the optimum given all others, unless that lowers the correlation."""
        share = self.share if self.seen is not None and unit.space.id in self.seen.correlations else 0.0
        found = [] if share == 1.0 else list(self._blocks(unit, anchored, owner or {}, index))
        twice = any(repeats(b, unit.ids()) for b, _ in found)
        order = self._outer_order(unit, found) if not twice else None
        table, before = self._table(unit, found, share, order)
        if not table:
            return
        if twice and anchored is None:
            self._creep(unit, table)
            return
        best_found = best([unit], table, 1) if order is None else inside(unit, table, order)
        if anchored is not None or order is not None or float(best_found.value) > before:
            self._apply(self._step(best_found))

    def _outer_order(self, unit: Tree, found: list[tuple[Block, float]]) -> Tensor | None:
        if self.options.outer == "joint" or not unit.children or not permutes(unit.space):
            return None
        return outer_order(self.symmetry, unit, found, self.options.outer)

    def _creep(self, unit: Tree, table: Table) -> None:
        """A unit that stands twice on a parameter: the table is only the slope there, so steps are tried and measured.

        A multiple of the identity added to the correlation pulls the optimum towards where it is; for rotations a
        strong enough pull makes a small step along the slope.
        """
        scale = max(float(c.abs().max()) for c in table.values())
        for pull in PULLS:
            step = self._step(best([unit], pulled(table, unit.space, pull * scale), 1))
            if self._gain(step) > 1e-13 * self.scale:
                self._apply(step)
                return

    def _gain(self, element: GroupElement) -> float:
        """By how much the element would raise the correlation with A."""
        moved = element.on_stacked(self.b)
        gain = sum(float(self.weights[n] * (self.a[n] * (t - self.b[n])).sum()) for n, t in moved.items())
        return (1 - self.share) * gain + self._agreed(element.after(self.element)) - self._agreed(self.element)

    def _agreed(self, element: GroupElement) -> float:
        """What activations say for an element, as correlations of weights count."""
        if not self.share or self.seen is None:
            return 0.0
        return self.share * self.scale * sum(agreement(self.seen.moved(u, element)) for u in self.units)

    def _step(self, found: Optimum) -> GroupElement:
        step = {i: _fit(self.symmetry, i, e.mapped(torch.squeeze)) for i, e in found.elements.items()}
        return self._like(GroupElement(self.symmetry, step))

    def _like(self, element: GroupElement) -> GroupElement:
        like = next(iter(self.b.values()))
        return element.to(dtype=like.dtype, device=like.device)

    def _apply(self, element: GroupElement) -> None:
        self.b.update(element.on_stacked(self.b))
        self.element = element.after(self.element)

    def _table(
        self, unit: Tree, found: list[tuple[Block, float]], share: float, order: Tensor | None
    ) -> tuple[Table, float]:
        """Correlations of A with the current B on the unit's spaces, and the identity's value.

        With an order, those of its pairs of positions alone (see `wreath.inside`).
        """
        table, before = self._seen_table(unit)
        if order is not None:
            table = {k: v for key, c in table.items() for k, v in [paired(key, c, unit.space.id, order)]}
        for block, weight in found:
            weight *= 1 - share
            before += float(weight * (block.tensors[0] * block.tensors[1]).sum())
            for key, c in correlations(self.symmetry, block, unit, order):
                table[key] = table[key] + weight * c if key in table else weight * c
        return table, before

    def _blocks(
        self, unit: Tree, anchored: Callable[[set[int]], bool] | None, owner: Mapping[int, int], index: int
    ) -> Iterator[tuple[Block, float]]:
        """Blocks of A and the current B on the unit's spaces, with their weights."""
        ids = unit.ids()
        for name in dict.fromkeys(n for i in ids for n in self.symmetry.acting_on[i] if n in self.a):
            for block in blocks(name, [self.a[name], self.b[name]], self.symmetry.acting_terms[name]):
                on = block.spaces()
                others = {owner[s] for s in on if s in owner} - {index}
                if on & ids and (anchored is None or (anchored(others) and not repeats(block, ids))):
                    yield block, self.weights[name]

    def _seen_table(self, unit: Tree) -> tuple[Table, float]:
        """The correlations of activations on the unit's spaces, and the identity's value."""
        if not self.share or self.seen is None:
            return {}, 0.0
        table: Table = {}
        for key, c in self.seen.moved(unit, self.element):
            c = self.share * self.scale * c.to(next(iter(self.a.values())))
            table[key] = table[key] + c if key in table else c
        return table, agreement(table.items())


def _share(anchors: Mapping[frozenset[int], int], known: set[int], unit: int) -> float:
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
