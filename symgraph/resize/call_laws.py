"""One equation of an embedding: a call of the wide model on embedded operands gives the embedded result."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from symgraph.ir import Graph, Node
from symgraph.resize.maps import Blocks, Widenings, narrowed
from symgraph.resize.sparse import Rows
from symgraph.symmetry.offsets import Offset
from symgraph.symmetry.terms import Term
from symgraph.tracing.interpreter import Interpreter

# Equations hold to rounding.
EXACT = 1e-13
DIFFERENCE = 1e-4
# Entries that stand for minus infinity in a mask say nothing about factors.
HUGE = 1e30


@dataclass(frozen=True, slots=True)
class Site:
    """Where a value of the narrow model goes in the wide one: its axes, its blocks, and their unknowns.

    `start` is the first of its unknowns, -1 where its factors are fixed to what they are guessed to be.
    """

    axes: tuple[Term, ...]
    blocks: Blocks
    start: int

    def unknowns(self) -> range:
        """Numbers of the unknowns of its blocks."""
        return range(self.start, self.start + self.blocks.count) if self.start >= 0 else range(0)

    def factors(self, logs: Tensor) -> Tensor:
        """The factors of its blocks."""
        return (logs[self.start : self.start + self.blocks.count] if self.start >= 0 else self.blocks.guess).exp()


@dataclass(frozen=True, slots=True)
class Carried:
    """A value of the narrow model on its way into the wide one: embedded up to the factors of its blocks.

    Without a site it is the wide model's own. `offset` is what the wide model adds to it before any use.
    """

    narrow: Tensor
    wide: Tensor
    site: Site | None = None
    offset: Offset | None = None

    def unknowns(self) -> range:
        """Numbers of the unknowns of its blocks."""
        return range(0) if self.site is None else self.site.unknowns()

    def embedded(self, logs: Tensor) -> Tensor:
        """The value in the wide model, with its factors."""
        if self.site is None or not self.wide.is_floating_point():
            return self.wide
        value = self.wide * self.site.factors(logs)[self.site.blocks.wide]
        if self.offset is None:
            return value
        # What is padded multiplies zeros, by whatever positive number.
        stored = torch.where(value == 0, 1.0, value) if self.offset.is_positive else value
        return self.offset.added(stored, -1.0)


Live = Mapping[str, Carried]


@dataclass(frozen=True)
class Law:
    """One call: on embedded operands and read back, the wide model's result is the narrow one's, up to factors."""

    node: Node
    wide: Graph
    renamed: Mapping[str, str]
    operands: tuple[str, ...]
    maps: Widenings
    position: Mapping[str, int]

    @cached_property
    def _run(self) -> Interpreter:
        ends = {self.renamed[operand] for operand in self.operands}
        nodes = []
        for name in sorted(_inside(self.wide, self.renamed[self.node.name], ends), key=self.position.__getitem__):
            node = self.wide.by_name[name]
            nodes.append(node if name not in ends else node.as_input())
        return Interpreter(Graph(tuple(nodes), (self.renamed[self.node.name],)))

    def error(self, logs: Tensor, live: Live) -> float:
        """By how much the result fails, relative to it; infinite where that is no number."""
        got = self._result(self._given(logs, live), live)
        if got is None:
            return torch.inf
        norm = self._against(got, logs, live).norm() / self._scale(live)
        return float(norm.nan_to_num(torch.inf, torch.inf))

    def rows(self, logs: Tensor, live: Live) -> Rows:
        """The linearised equation; the result's own factors have slopes that need no evaluation."""
        given, result = self._given(logs, live), live[self.node.name]
        got = self._result(given, live)
        columns, slopes = [], []
        for name in self.operands if got is not None else ():
            for unknown in live[name].unknowns():
                columns.append(unknown)
                slopes.append(self._slope(name, unknown, logs, given, live))
        if got is None:
            return Rows(columns, torch.zeros(0, 0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
        shared = self._shared(got, logs, live)
        for number, unknown in enumerate(result.unknowns()):
            columns.append(unknown)
            slopes.append(-torch.where(_site(result).blocks.narrow == number, shared, 0.0))
        slopes = [self._read(slope, live) for slope in slopes]
        return Rows.of(columns, slopes, self._against(got, logs, live) / self._scale(live))

    def _given(self, logs: Tensor, live: Live) -> dict[str, Tensor]:
        return {self.renamed[operand]: live[operand].embedded(logs) for operand in self.operands}

    def _result(self, given: Mapping[str, Tensor], live: Live) -> Tensor | None:
        """The result of the wide model read back, its factors not yet taken off; None if it has another shape."""
        result = live[self.node.name]
        computed = self._run.run({}, given)[0]
        return narrowed(computed, _site(result).axes, self.maps) if computed.shape == result.wide.shape else None

    def _shared(self, got: Tensor, logs: Tensor, live: Live) -> Tensor:
        site = _site(live[self.node.name])
        return got / site.factors(logs)[site.blocks.narrow]

    def _against(self, got: Tensor, logs: Tensor, live: Live) -> Tensor:
        """By how much the read-back result differs from the narrow model's: (entries,)."""
        wanted, shared = live[self.node.name].narrow, self._shared(got, logs, live)
        seen = (wanted.abs() < HUGE) & (shared != wanted)
        return torch.where(seen, shared - wanted, 0.0).reshape(-1)

    def _read(self, slope: Tensor, live: Live) -> Tensor:
        seen = torch.where(live[self.node.name].narrow.abs() < HUGE, slope, 0.0).reshape(-1)
        return (seen / self._scale(live)).nan_to_num(0.0, 0.0, 0.0)

    def _scale(self, live: Live) -> Tensor:
        wanted = live[self.node.name].narrow
        norm: Tensor = torch.where(wanted.abs() < HUGE, wanted, 0.0).norm()
        return norm.clamp_min(1e-300)

    def _slope(self, name: str, unknown: int, logs: Tensor, given: Mapping[str, Tensor], live: Live) -> Tensor:
        ends = []
        for change in (DIFFERENCE, -DIFFERENCE):
            moved = logs.clone()
            moved[unknown] += change
            got = self._result({**given, self.renamed[name]: live[name].embedded(moved)}, live)
            ends.append(torch.zeros(()) if got is None else self._shared(got, logs, live))
        slope: Tensor = (ends[0] - ends[1]) / (2 * DIFFERENCE)
        return slope


def _site(result: Carried) -> Site:
    return result.site  # type: ignore[return-value]  # A result always has one.


def _inside(graph: Graph, name: str, ends: Collection[str]) -> set[str]:
    """The nodes between some values and one that is computed from them."""
    inside, todo = set(ends), [name]
    while todo:
        at = todo.pop()
        if at not in inside:
            inside.add(at)
            todo.extend(graph.by_name[at].refs())
    return inside
