"""The factors that embedded tensors need so that every operator of the wide model agrees with the narrow one.

An operator may depend on sizes: a norm divides by the root of a mean, attention by the root of the head size, some
embeddings are multiplied by the root of the width. So each block of each tensor carries a factor. Every call gives
equations: evaluated in the wide model on embedded operands and read back, its result is the narrow model's times a
factor; inputs and outputs have the factor one. They are solved for the logarithms by Gauss and Newton's method,
starting from what norms alone would need; changes are the smallest possible, so that both sides of a product share one.
Nothing is assumed about an operator: each is evaluated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from symgraph.axes.terms import Term
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.interpret import Interpreter
from symgraph.ir import Graph, Kind, Node
from symgraph.widening.maps import Blocks, Widenings, blocks_of, narrowed, wide_size, widen

ROUNDS = 25
# Equations hold to rounding; a norm sees the scale of its input only through its epsilon, hence the low rank tolerance.
EXACT = 1e-13
RANK_TOLERANCE = 1e-11
DIFFERENCE = 1e-4
# Entries that stand for minus infinity in a mask say nothing about factors.
HUGE = 1e30
Values = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Carried:
    """A value of the narrow model on its way into the wide one: embedded up to the factors of its blocks.

    `start` is the first of its unknowns, -1 where its factors are fixed to what they are guessed to be.
    """

    narrow: Tensor
    wide: Tensor
    axes: tuple[Term, ...]
    blocks: Blocks
    start: int

    def unknowns(self) -> range:
        """Numbers of the unknowns of its blocks."""
        return range(self.start, self.start + self.blocks.count) if self.start >= 0 else range(0)

    def factors(self, logs: Tensor) -> Tensor:
        """The factors of its blocks."""
        return (logs[self.start : self.start + self.blocks.count] if self.start >= 0 else self.blocks.guess).exp()


class Factors:
    """The equations between the blocks of all values of a narrow model, and their solution.

    Args:
        wide: the wide model's graph, with the nodes of the narrow one's in the same order.
        values: every value of a run of the narrow model in canonical form, by name.
        own: the wide model's own state, of which buffers are used that its code makes, or without a counterpart.
        free: parameters whose blocks may have factors other than one.
    """

    def __init__(
        self,
        wide: Graph,
        narrow: SymmetryGraph,
        maps: Widenings,
        values: Values,
        own: Values,
        free: Collection[str],
    ) -> None:
        self.wide, self.narrow, self.maps, self.own = wide, narrow, maps, own
        self.renamed = {y.name: x.name for x, y in zip(wide.nodes, narrow.graph.nodes, strict=True)}
        self.carried: dict[str, Carried] = {}
        self.size = 0
        for node in narrow.graph.nodes:
            if isinstance(values.get(node.name), Tensor):
                self._carry(node, values[node.name], free)
        self.logs = torch.zeros(self.size, dtype=torch.float64)
        for c in self.carried.values():
            if c.start >= 0:
                self.logs[c.start : c.start + c.blocks.count] = c.blocks.guess
        calls = [n for n in narrow.graph.calls if n.name in self.carried]
        self.laws = [_Law(n, self) for n in calls if self.carried[n.name].narrow.is_floating_point()]

    def _carry(self, node: Node, value: Tensor, free: Collection[str]) -> None:
        if node.target in self.wide.transient:
            return  # The wide model's code makes its own, whatever the narrow one's was.
        axes = self.narrow.terms.get(node.target) if node.kind in (Kind.PARAMETER, Kind.BUFFER) else None
        axes = self.narrow.values.get(node.name) if axes is None else axes
        wide = self.wide.by_name[self.renamed[node.name]]
        if axes is None or tuple(wide_size(t, self.maps) for t in axes) != wide.shape:
            return
        movable = node.name not in self.narrow.graph.outputs if node.kind is Kind.CALL else node.target in free
        start = self.size if movable and value.is_floating_point() else -1
        value = value + self._offset(node.name) if self._offset(node.name) else value
        found = Carried(value, widen(value, axes, self.maps), axes, blocks_of(axes, self.maps), start)
        self.carried[node.name] = found
        self.size += len(found.unknowns())

    def _offset(self, name: str) -> float:
        """The number that the model adds to a parameter before any use."""
        return self.narrow.offsets.get(self.narrow.graph.by_name[name].target, 0.0)

    def operand(self, name: str, logs: Tensor) -> Tensor:
        """An operand of the wide model: the narrow model's value embedded, with its factors."""
        c = self.carried.get(name)
        if c is None:
            return self.own[self.narrow.graph.by_name[name].target]
        if not c.wide.is_floating_point():
            return c.wide
        return c.wide * c.factors(logs)[c.blocks.wide] - self._offset(name)

    def state(self) -> dict[str, Tensor]:
        """The parameters and buffers of the wide model, with their factors; foreign ones are left out."""
        nodes = self.narrow.graph.state
        return {name: self.operand(n.name, self.logs) for name, n in nodes.items() if n.name in self.carried}

    def solve(self) -> None:
        """Gauss and Newton's method until the equations hold, or nothing gets better."""
        best = float("inf")
        for _ in range(ROUNDS):
            now = self.worst()[1]
            if now <= EXACT or now > 2 * best or not self.size:
                return
            best = min(best, now)
            self.logs = self.logs + self._step().clamp(-2.0, 2.0)

    def _step(self) -> Tensor:
        rows = [law.rows(self.logs) for law in self.laws]
        matrix = torch.zeros(sum(len(r) for _, r, _ in rows), self.size, dtype=torch.float64)
        target, at = torch.zeros(len(matrix), 1, dtype=torch.float64), 0
        for columns, block, right in rows:
            matrix[at : at + len(block), columns] = block
            target[at : at + len(block), 0] = right
            at += len(block)
        found: Tensor = torch.linalg.lstsq(matrix, -target, rcond=RANK_TOLERANCE, driver="gelsd").solution
        return found.squeeze(1)

    def worst(self) -> tuple[Node, float]:
        """The call whose equation fails most, and by how much relative to its result."""
        errors = [(float(law.error(self.logs)), law.node) for law in self.laws]
        error, node = max(errors, key=lambda x: x[0])
        return node, error


class _Law:
    """One call: on embedded operands and read back, the wide model's result is the narrow one's, up to factors."""

    def __init__(self, node: Node, factors: Factors) -> None:
        self.node, self.factors = node, factors
        self.result = factors.carried[node.name]
        graph = factors.narrow.graph
        self.operands = list(dict.fromkeys(_sources(graph, node, factors.carried)))
        self.columns = list(
            dict.fromkeys(
                u for n in (*self.operands, node.name) if n in factors.carried for u in factors.carried[n].unknowns()
            )
        )
        wanted = self.result.narrow
        self.seen = wanted.abs() < HUGE
        self.scale = torch.where(self.seen, wanted, 0.0).norm().clamp_min(1e-300)

    @cached_property
    def _run(self) -> Interpreter:
        wide, named = self.factors.wide, self.factors.renamed
        ends = {named[n] for n in self.operands}
        nodes = []
        for name in _inside(wide, named[self.node.name], ends):
            node = wide.by_name[name]
            nodes.append(node if name not in ends else replace(node, kind=Kind.INPUT, target=name, args=(), kwargs=()))
        return Interpreter(Graph(tuple(nodes), (named[self.node.name],)))

    def residual(self, logs: Tensor) -> Tensor:
        """By how much the read-back result differs from the narrow model's, relative to that: (entries,)."""
        given = {self.factors.renamed[n]: self.factors.operand(n, logs) for n in self.operands}
        found = self._run.run({}, given)[0]
        if found.shape != self.result.wide.shape:
            return torch.full((1,), torch.inf, dtype=torch.float64)
        back = narrowed(found, self.result.axes, self.factors.maps)
        got, wanted = back / self.result.factors(logs)[self.result.blocks.narrow], self.result.narrow
        change: Tensor = torch.where(self.seen & (got != wanted), got - wanted, 0.0).reshape(-1)
        change /= self.scale
        return change

    def error(self, logs: Tensor) -> Tensor:
        """The norm of the residual; infinite where it is no number."""
        found: Tensor = self.residual(logs).norm().nan_to_num(torch.inf, torch.inf)
        return found

    def rows(self, logs: Tensor) -> tuple[list[int], Tensor, Tensor]:
        """The linearised equation: the unknowns' numbers, rows (k, unknowns) and the right side (k,), compressed."""
        value = self.residual(logs).nan_to_num(0.0, 0.0, 0.0)
        slopes = [self._slope(logs, u) for u in self.columns]
        whole = torch.stack([*slopes, value], dim=1)
        if len(whole) > len(self.columns) + 1:
            whole = torch.linalg.qr(whole, mode="r").R
        return self.columns, whole[:, :-1], whole[:, -1]

    def _slope(self, logs: Tensor, unknown: int) -> Tensor:
        high, low = logs.clone(), logs.clone()
        high[unknown] += DIFFERENCE
        low[unknown] -= DIFFERENCE
        found: Tensor = (self.residual(high) - self.residual(low)) / (2 * DIFFERENCE)
        return found.nan_to_num(0.0, 0.0, 0.0)


def _sources(graph: Graph, node: Node, known: Collection[str]) -> Iterator[str]:
    """The known values that a call depends on: what has several results, or no terms, is looked through."""
    for name in node.refs():
        if name in known or graph.by_name[name].kind is not Kind.CALL:
            yield name
        else:
            yield from _sources(graph, graph.by_name[name], known)


def _inside(graph: Graph, name: str, ends: Collection[str]) -> list[str]:
    """The nodes between some values and one that is computed from them, in order."""
    found, todo = set(ends), [name]
    while todo:
        at = todo.pop()
        if at not in found:
            found.add(at)
            todo.extend(graph.by_name[at].refs())
    return [n.name for n in graph.nodes if n.name in found]
