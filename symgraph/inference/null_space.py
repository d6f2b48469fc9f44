"""The null space of constants, solved without numbers: unknowns are whole vectors, coefficients numbers times matrices.

An equation says that what several constants add in one place is nothing: sum_i factor_i path_i x_i = 0, where a path is
a product of weights. A constant that stands there by itself, through no weight, is what the equation is solved for; the
others are free. What stands in an equation through weights only vanishes, so that a solution may be missed but never
made up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product

from symgraph.inference.entry_numbers import Window
from symgraph.inference.uses import Name
from symgraph.symmetry.families import Hop

Path = tuple[Hop, ...]
# A source, and the rows of its table; () where it has none.
Unknown = tuple[int, tuple[int, ...]]
Factors = dict[Path, float]
Row = dict[Unknown, Factors]
# Frame and size of every axis that a constant has.
Axes = tuple[tuple[int, int], ...]
Layout = Callable[[Unknown, Path], Axes]
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True)
class Summand:
    """One constant in an equation."""

    name: Name
    window: Window | None
    factor: float


@dataclass(frozen=True, slots=True)
class Solution:
    """Every unknown: free, or the sum of these multiples of free ones."""

    unknowns: tuple[Unknown, ...]
    solved: Mapping[Unknown, Row]

    @property
    def free(self) -> tuple[Unknown, ...]:
        """The unknowns that may be anything."""
        return tuple(unknown for unknown in self.unknowns if unknown not in self.solved)

    def of(self, unknown: Unknown) -> Row:
        """An unknown by the free ones."""
        return self.solved.get(unknown, {unknown: {(): 1.0}})


class Windows:
    """The rows of tables, cut wherever some equation tells them apart."""

    def __init__(self, used: Iterable[tuple[int, Window | None]]) -> None:
        cuts: dict[int, set[int]] = defaultdict(set)
        whole: dict[int, set[Window]] = defaultdict(set)
        for source, window in used:
            cuts[source] |= set(window or ())
            whole[source] |= {window} if window else set()
        self.parts: dict[int, tuple[tuple[int, ...], ...]] = {}
        for source, ends in cuts.items():
            spans = [p for p in pairwise(sorted(ends)) if any(a <= p[0] and p[1] <= b for a, b in whole[source])]
            self.parts[source] = tuple(spans) or ((),)

    def within(self, source: int, window: Window | None) -> list[Unknown]:
        """The unknowns of a source in a window."""
        parts = self.parts[source]
        if window is None:
            return [(source, part) for part in parts]
        return [(source, part) for part in parts if window[0] <= part[0] and part[1] <= window[1]]


def equations(sums: Iterable[tuple[Summand, ...]], equal: Iterable[tuple[int, Window]], windows: Windows) -> list[Row]:
    """Rows over the unknowns: for every sum one for each choice of parts, and those that make parts equal."""
    found: list[Row] = []
    for terms in sums:
        for chosen in product(*(windows.within(term.name[0], term.window) for term in terms)):
            row: Row = {}
            for term, unknown in zip(terms, chosen, strict=True):
                _add(row.setdefault(unknown, {}), {term.name[1]: term.factor}, 1.0)
            found.append(row)
    for source, window in equal:
        for one, other in pairwise(windows.within(source, window)):
            found.append({one: {(): 1.0}, other: {(): -1.0}})
    return found


def read_by_one(rows: Iterable[Row], taken: Iterable[tuple[Unknown, Path]]) -> Iterator[tuple[Unknown, Hop]]:
    """The unknowns that one matrix reads before anything else sees them, with that matrix.

    Args:
        taken: paths by which biases take what reaches them.
    """
    first: dict[Unknown, set[Hop | None]] = defaultdict(set)
    met = ((unknown, path) for row in rows for unknown, factors in row.items() for path in factors)
    for unknown, path in (*met, *taken):
        first[unknown].add(path[0] if path else None)
    for unknown, hops in first.items():
        (hop, *more) = hops
        if hop is not None and not more and not hop.multiplies:
            yield unknown, hop


def solve(
    unknowns: Iterable[Unknown], rows: Iterable[Row], rank: Callable[[Unknown], object], layout: Layout
) -> Solution:
    """Solves equation after equation for the unknown of least rank that stands there by itself.

    Args:
        rank: the order in which unknowns are solved for; None for those that never are.
        layout: the axes of what an unknown is behind a path; constants are added where one has those of all.
    """
    solved: dict[Unknown, Row] = {}
    held: dict[Unknown, set[Unknown]] = defaultdict(set)

    def settle(unknown: Unknown, row: Row) -> None:
        solved[unknown] = row
        for free in row:
            held[free].add(unknown)
        for user in held.pop(unknown, set()):
            old = solved[user]
            factors = old.pop(unknown, {})
            for free, more in row.items():
                _add(old.setdefault(free, {}), _times(factors, more), 1.0)
                held[free].add(user)
            solved[user] = _plain(old)

    # What vanishes by itself first, so that nothing else is solved for it.
    for row in sorted(rows, key=len):
        left = _substituted(row, solved)
        while left:
            single = next(iter(left)) if len(left) == 1 else None
            pivot = single if single is not None else _pivot(left, rank, layout)
            if pivot is None and (read := _without_last(left, layout)):
                left = read
                continue
            if pivot is None:
                # Constants through weights alone: generic weights allow none of them.
                pivot = next(iter(left))
                settle(pivot, {})
                left = _substituted(row, solved)
                continue
            scale = left.pop(pivot)[()] if single is None else 1.0
            settle(
                pivot,
                {} if single is not None else {unknown: _times({(): -1.0 / scale}, f) for unknown, f in left.items()},
            )
            break
    return Solution(tuple(unknowns), solved)


def _without_last(row: Row, layout: Layout) -> Row | None:
    """What one matrix at the end of all paths reads, which vanishes at least where what it makes of it does.

    None where there is no such matrix, or where it reads constants of different axes.
    """
    paths = [(unknown, path) for unknown, factors in row.items() for path in factors]
    if not all(path for _, path in paths) or len({path[-1] for _, path in paths}) != 1:
        return None
    if len({layout(unknown, path[:-1]) for unknown, path in paths}) != 1:
        return None
    return {unknown: {path[:-1]: factor for path, factor in factors.items()} for unknown, factors in row.items()}


def _pivot(row: Row, rank: Callable[[Unknown], object], layout: Layout) -> Unknown | None:
    """What can be the others: it stands there through no weight, and has all axes that any of them has."""
    axes = {axis for unknown, factors in row.items() for path in factors for axis in layout(unknown, path)}
    alone = [unknown for unknown, factors in row.items() if set(factors) == {()} and axes <= set(layout(unknown, ()))]
    alone = [u for u in alone if rank(u) is not None]
    return min(alone, key=rank, default=None)  # type: ignore[arg-type]


def _substituted(row: Row, solved: Mapping[Unknown, Row]) -> Row:
    found: Row = {}
    for unknown, factors in row.items():
        for free, more in solved.get(unknown, {unknown: {(): 1.0}}).items():
            _add(found.setdefault(free, {}), _times(factors, more), 1.0)
    return _plain(found)


def _plain(row: Row) -> Row:
    kept = {unknown: {p: f for p, f in factors.items() if abs(f) > _NOTHING} for unknown, factors in row.items()}
    return {unknown: factors for unknown, factors in kept.items() if factors}


def _add(factors: Factors, more: Factors, times: float) -> None:
    for path, factor in more.items():
        factors[path] = factors.get(path, 0.0) + times * factor


def _times(after: Factors, before: Factors) -> Factors:
    """Through `before` first, then through `after`."""
    found: Factors = {}
    for last, a in after.items():
        for first, b in before.items():
            _add(found, {(*first, *last): a * b}, 1.0)
    return found
