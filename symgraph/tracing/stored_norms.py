"""Batch norms by stored statistics that are written out, as the calls that they are, whatever they are made of.

A run of sums and products of a value with vectors along its channels, which parameters and buffers make, is an affine
function of each channel. It is tried at random numbers whether that is the one of a batch norm, for each part that the
vectors it is made of may have in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product

import torch
from torch import Tensor

from symgraph.ir import Graph, Kind, Node, Ref, Shape, resized
from symgraph.ir import Tensor as Meta
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.thresholds import fed

_AFFINE = frozenset({"aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "aten.div.Tensor"})
_NORM = "aten.batch_norm.default"
_LARGEST_EPSILON = 0.1
_TOLERANCE = 1e-10
# Which of its operands each vector is, in order: gain, bias, mean, variance; None is left out.
_ROLES = ((0, 1, 2, 3), (0, None, 1, 2), (None, 0, 1, 2), (None, None, 0, 1))


@dataclass(frozen=True, slots=True)
class _Run:
    """Calls one after the other, from a value on; `made` are those that make the vectors, of these `leaves`."""

    start: str
    calls: tuple[Node, ...]
    made: tuple[Node, ...]
    leaves: tuple[Node, ...]

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers that may be an epsilon."""
        arguments = (argument for node in (*self.made, *self.calls) for argument in node.args)
        small = (number for number in arguments if isinstance(number, float) and 0 < number <= _LARGEST_EPSILON)
        return tuple(dict.fromkeys((0.0, *small)))


def with_stored_norms(graph: Graph) -> Graph:
    """The graph with every run of calls that is a batch norm as one call; the others of the run stay."""
    finder = _Finder(graph)
    found: dict[str, Node] = {}
    for run in finder.runs():
        norm = finder.norm(run)
        if norm is not None:
            found[norm.name] = norm
    if not found:
        return graph
    return replace(graph, nodes=tuple(found.get(node.name, node) for node in graph.nodes))


class _Finder:
    """Finds such runs in one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.fed = graph, fed(graph)

    def runs(self) -> Iterator[_Run]:
        """The longest runs, and what they begin with; none begins inside of another one."""
        inside = set[str]()
        for node in self.graph.calls:
            if node.name in inside or self._start(node) is None:
                continue
            calls = [node]
            while (following := self._following(calls[-1])) is not None:
                calls.append(following)
            inside |= {call.name for call in calls}
            yield from self._beginnings(calls)

    def _beginnings(self, calls: list[Node]) -> Iterator[_Run]:
        """What a run begins with, that is made of as many vectors as a batch norm has; of one number the longest."""
        start, found = self._start(calls[0]), dict[int, _Run]()
        for length in range(1, len(calls) + 1):
            made = self._made([ref for call in calls[:length] for ref in call.refs() if ref not in self.fed])
            leaves = tuple(node for node in made if node.kind is not Kind.CALL)
            if start is not None and 2 <= len(leaves) <= 4:
                found[len(leaves)] = _Run(start, tuple(calls[:length]), made, leaves)
        yield from reversed(found.values())

    def _start(self, node: Node) -> str | None:
        """The value that a call adds a vector along its channels to, or multiplies by one."""
        plain = node.target in _AFFINE and not node.kwargs and len(node.args) == 2 and len(node.shape) >= 2
        if not plain or not all(isinstance(operand, Ref) for operand in node.args):
            return None
        fed = [operand.name in self.fed for operand in node.args]
        if fed.count(True) != 1:
            return None
        value, vector = (node.args[fed.index(is_fed)].name for is_fed in (True, False))
        divided_by_value = node.target == "aten.div.Tensor" and fed[1]
        known = self.graph.by_name
        fits = known[value].shape == node.shape and _is_along_channels(known[vector].shape, node.shape)
        return value if fits and not divided_by_value else None

    def _following(self, node: Node) -> Node | None:
        users = self.graph.users[node.name]
        alone = len(users) == 1 and node.name not in self.graph.outputs
        return users[0] if alone and self._start(users[0]) == node.name else None

    def _made(self, values: list[str]) -> tuple[Node, ...]:
        """All that these values are made of, in order."""
        todo, found = list(values), set[str]()
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += self.graph.by_name[name].refs()
        return tuple(node for node in self.graph.nodes if node.name in found)

    # -- what a run computes -----------------------------------------------------------------------------------------

    def norm(self, run: _Run) -> Node | None:
        """The batch norm that a run is, if it is one."""
        end = run.calls[-1]
        if any(leaf.shape != end.shape[1:2] or not leaf.is_floating for leaf in run.leaves):
            return None
        for operands in _operands(run.leaves):
            for epsilon in run.numbers:
                if self._is(run, operands, epsilon):
                    given = tuple(None if operand is None else Ref(operand.name) for operand in operands)
                    args = (Ref(run.start), *given, False, 0.1, epsilon, False)
                    return replace(end, target=_NORM, args=args, kwargs=())
        return None

    def _is(self, run: _Run, operands: list[Node | None], epsilon: float) -> bool:
        """Whether a run is the batch norm of these operands, at two random points."""
        variance = operands[3]
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            drawn = {n.name: torch.randn(n.shape, generator=generator, dtype=torch.float64) for n in run.leaves}
            if variance is not None:
                drawn[variance.name] = drawn[variance.name].abs() + 0.1
            shape = (2, *run.calls[-1].shape[1:2], *(3 for _ in run.calls[-1].shape[2:]))
            value = torch.randn(shape, generator=generator, dtype=torch.float64)
            gain, bias, mean, var = (None if operand is None else drawn[operand.name] for operand in operands)
            wanted = torch.nn.functional.batch_norm(value, mean, var, gain, bias, eps=epsilon)
            made = self._computed(run, {**drawn, run.start: value})
            if not bool((made - wanted).abs().max() <= _TOLERANCE * wanted.abs().max()):
                return False
        return True

    def _computed(self, run: _Run, given: Mapping[str, Tensor]) -> Tensor:
        read = (node for node in self.graph.nodes if node.name in given)
        inputs = (node.as_input(Meta(tuple(given[node.name].shape), "float64")) for node in read)
        calls = (node for node in (*run.made, *run.calls) if node.name not in given)
        (made,) = Interpreter(Graph((*inputs, *calls), (run.calls[-1].name,))).run({}, given)
        return made


def _operands(leaves: Sequence[Node]) -> Iterator[list[Node | None]]:
    """All ways in which vectors may be gain, bias, mean and variance."""
    fitting = [roles for roles in _ROLES if len(roles) - roles.count(None) == len(leaves)]
    for order, roles in product(permutations(leaves), fitting):
        yield [None if role is None else order[role] for role in roles]


def _is_along_channels(vector: Shape, value: Shape) -> bool:
    """Whether a vector has the channels of a value, and no other axis."""
    rank = len(value)
    return (*[1] * (rank - len(vector)), *vector) == resized((1,) * rank, 1, value[1])
