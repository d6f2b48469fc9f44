"""Regions of a graph between one value and another: what everything in between is computed from, and how to run it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor

from symgraph.errors import SymgraphError, UsageError
from symgraph.ir import Graph, Kind, Node
from symgraph.ir import Tensor as Meta
from symgraph.tracing.arguments import PATTERN
from symgraph.tracing.interpreter import Interpreter

Measured = TypeVar("Measured")
# Values that a region is run with together.
AT_ONCE = 16
_VIEWS = {"aten.view.default": "aten.reshape.default", "aten._unsafe_view.default": "aten.reshape.default"}


@dataclass(frozen=True, slots=True)
class Region:
    """The calls between `start` and `end`, in order, and the other values that they read."""

    start: str
    end: str
    nodes: tuple[Node, ...]
    tables: tuple[str, ...]

    def key(self, random: Collection[str] = ()) -> Hashable:
        """What the region computes, whatever its values are called; equal keys, equal functions.

        Args:
            random: values that are drawn at random, so that their names say nothing.
        """
        names = {self.start: "x"} | {n.name: f"v{i}" for i, n in enumerate(self.nodes)}
        names |= {t: f"t{i}" for i, t in enumerate(self.tables) if t in random}
        return tuple((node.form, *(names.get(ref, ref) for ref in node.refs())) for node in self.nodes)


def dataflow(graph: Graph, *, fed: bool = True) -> Dataflow:
    """The dataflow of a graph, which is followed once."""
    return graph.answers.once((Dataflow, fed), lambda: Dataflow(graph, fed))


class Dataflow:
    """Which values carry data through parameters, and what each of them is computed from alone.

    A value is *live* if it depends on parameters and on inputs; masks, positions, tables and parameters are not.

    Args:
        fed: whether what depends on parameters alone is left out.
    """

    def __init__(self, graph: Graph, fed: bool = True) -> None:
        self.graph, self.order = graph, {node.name: i for i, node in enumerate(graph.nodes)}
        self.learned = _behind(graph, {node.name for node in graph.nodes if node.kind is Kind.PARAMETER})
        self.fed = _behind(graph, {node.name for node in graph.nodes if node.kind is Kind.INPUT})
        self.live = self.learned & self.fed if fed else self.learned
        self._measured = _behind(graph, {node.name for node in graph.calls if node.target.startswith(PATTERN)})
        self.last = {ref: i for i, node in enumerate(graph.nodes) for ref in node.refs()} | dict.fromkeys(
            graph.outputs, len(graph.nodes)
        )
        self._above: dict[str, str | None] = {}
        self._depth: dict[str | None, int] = {None: 0}
        for node in graph.nodes:
            if node.name in self.live:
                above = self.meet(ref for ref in node.refs() if ref in self.live)
                self._above[node.name], self._depth[node.name] = above, self._depth[above] + 1

    def above(self, value: str) -> str | None:
        """The nearest value before this one through which all that is live in it has gone."""
        return self._above[value]

    def behind(self, first: Node) -> Iterator[tuple[Node, bool]]:
        """A call and all that it flows into, in order, and of each whether everything that was met goes through it."""
        todo, queued, open_ = [self.order[first.name]], {first.name}, dict[str, int]()
        while todo:
            at = heapq.heappop(todo)
            node = self.graph.nodes[at]
            open_ = {k: v for k, v in open_.items() if v > at} | {node.name: self.last.get(node.name, -1)}
            yield node, list(open_) == [node.name]
            for user in self.graph.users[node.name]:
                if user.name not in queued:
                    queued.add(user.name)
                    heapq.heappush(todo, self.order[user.name])

    def meet(self, values: Iterable[str]) -> str | None:
        """The nearest value, one of these or before them, through which all of them have gone."""
        found: str | None = None
        for i, value in enumerate(values):
            found = value if i == 0 else self._both(found, value)
        return found

    def _both(self, a: str | None, b: str | None) -> str | None:
        while a != b:
            if self._depth[a] >= self._depth[b]:
                a = self._above[a] if a is not None else None
            else:
                b = self._above[b] if b is not None else None
        return a

    def live_operands(self, node: Node) -> list[str]:
        """The operands of a call that carry data."""
        return [ref for ref in node.refs() if ref in self.live]

    def runs(self, region: Region) -> bool:
        """Whether torch can compute a region and all that it reads: nothing of it is a call that a rule stands for."""
        calls = (node.target for node in region.nodes)
        return not any(c.startswith(PATTERN) for c in calls) and self._measured.isdisjoint(region.tables)

    def region(self, start: str, end: str) -> Region:
        """The calls on all ways from one live value to another that it dominates."""
        return self._between(start, end, self.live)

    def between(self, start: str, end: str) -> Region:
        """The calls on all ways from one value to another, whatever else they read."""
        reached = {start}
        for node in self.graph.nodes[self.order[start] + 1 : self.order[end] + 1]:
            if any(ref in reached for ref in node.refs()):
                reached.add(node.name)
        return self._between(start, end, reached)

    def _between(self, start: str, end: str, followed: Collection[str]) -> Region:
        """The calls that lead from one value to another by values that are followed; all other tensors are given."""
        found, todo, tables = set[str](), [end], dict[str, None]()
        while todo:
            name = todo.pop()
            if name == start or name in found:
                continue
            found.add(name)
            for ref in self.graph.by_name[name].refs():
                # A number that is read out of a tensor is computed from that.
                if ref in followed or not isinstance(self.graph.by_name[ref].result, Meta):
                    todo.append(ref)
                else:
                    tables[ref] = None
        nodes = tuple(self.graph.by_name[n] for n in sorted(found, key=self.order.__getitem__))
        return Region(start, end, nodes, tuple(tables))


def _behind(graph: Graph, found: set[str]) -> set[str]:
    """These values and all that are computed from them."""
    for node in graph.nodes if found else ():
        if not found.isdisjoint(node.refs()):
            found.add(node.name)
    return found


class Runner:
    """Computes the end of a region from its start, all else being given; in float64."""

    def __init__(self, graph: Graph, region: Region, tables: Mapping[str, Tensor]) -> None:
        by = graph.by_name
        given = [by[n].as_input() for n in (region.start, *region.tables)]
        nodes = [replace(node, target=_VIEWS.get(node.target, node.target)) for node in region.nodes]
        self._run = Interpreter(Graph((*given, *nodes), (region.end,)))
        self._start, self._tables = region.start, {n: tables[n] for n in region.tables}

    def __call__(self, value: Tensor) -> Tensor:
        found: Tensor = self._run.run({}, {**self._tables, self._start: value})[0]
        return found

    def each(self, values: Tensor) -> Sequence[Tensor]:
        """What comes of each of many values: several at a time where its operators can."""
        # Operators that write, or that nobody has written for a batch, refuse or warn.
        with suppress(RuntimeError, Warning, SymgraphError), catch_warnings():
            simplefilter("error")
            found: Tensor = torch.func.vmap(self, chunk_size=AT_ONCE)(values)
            return found.unbind()
        return [self(value) for value in values]


def unless_refused(measure: Callable[[], Measured], otherwise: Measured) -> Measured:
    """What is measured of a region; another value where an operator refuses what is drawn, as a singular matrix."""
    try:
        return measure()
    except UsageError:
        return otherwise


def replaced(graph: Graph, parts: Mapping[str, tuple[Node, ...]]) -> Graph:
    """The graph with some calls written as others, the last of which has the name; what nothing reads then is gone."""
    nodes = [part for node in graph.nodes for part in parts.get(node.name, (node,))]
    read_before = {ref for node in graph.nodes for ref in node.refs()}
    live, kept = set(graph.outputs), list[Node]()
    for node in reversed(nodes):
        if node.kind is Kind.CALL and node.name not in live and node.name in read_before:
            continue
        live.update(node.refs())
        kept.append(node)
    return replace(graph, nodes=tuple(reversed(kept)))
