"""Batch norms by stored statistics that are written out, as the calls that they are, whatever they are made of.

A run of sums and products of a value with vectors along its channels, which parameters and buffers make, is an affine
function of each channel. It is tried at random numbers whether that is the one of a batch norm, for each part that the
vectors it is made of may have in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations

import torch
from torch import Tensor

from symgraph.ir import Graph, Kind, Node, Ref
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
        found = (a for node in (*self.made, *self.calls) for a in node.args if isinstance(a, float))
        return tuple(dict.fromkeys((0.0, *(a for a in found if 0 < a <= _LARGEST_EPSILON))))


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
        fed = [arg.name for arg in node.args if isinstance(arg, Ref) and arg.name in self.fed]
        if not plain or len(fed) != 1 or self.graph.by_name[fed[0]].shape != node.shape:
            return None
        others = [arg for arg in node.args if not (isinstance(arg, Ref) and arg.name in self.fed)]
        divides = node.target == "aten.div.Tensor" and others[0] is node.args[0]
        along = (1, *(node.shape[1:2]), *(1 for _ in node.shape[2:]))
        vector = (
            isinstance(others[0], Ref) and _with_rank(self.graph.by_name[others[0].name].shape, len(along)) == along
        )
        return fed[0] if vector and not divides else None

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
        if any(leaf.shape != end.shape[1:2] or "float" not in getattr(leaf.result, "dtype", "") for leaf in run.leaves):
            return None
        for leaves in permutations(run.leaves):
            for roles in _ROLES:
                if len(leaves) == sum(role is not None for role in roles):
                    operands = [None if role is None else leaves[role] for role in roles]
                    epsilon = next((number for number in run.numbers if self._is(run, operands, number)), None)
                    if epsilon is not None:
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
        inputs = (node for node in self.graph.nodes if node.name in given)
        named = (
            replace(n, kind=Kind.INPUT, target=n.name, args=(), kwargs=(), result=_meta(given[n.name])) for n in inputs
        )
        calls = (node for node in (*run.made, *run.calls) if node.name not in given)
        (made,) = Interpreter(Graph((*named, *calls), (run.calls[-1].name,))).run({}, given)
        return made


def _with_rank(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """A shape with axes of one entry in front."""
    return (*(1 for _ in range(rank - len(shape))), *shape)


def _meta(value: Tensor) -> Meta:
    return Meta(tuple(value.shape), "float64")
