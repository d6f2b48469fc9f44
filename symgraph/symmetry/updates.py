"""Matrices beside which a value is added that they could make by themselves: low-rank updates, however written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from symgraph.ir import Graph
from symgraph.tracing.interpreter import Interpreter

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Beside:
    """Values that are added to what a matrix makes of `start`: affine functions of it, the same at every position.

    `ends` are these values, `signs` theirs against that of the matrix. It reads by this `axis`; its `bias` is ''
    where it has none of its own. Without a `start` the values are added to the parameter `weight` itself.
    """

    weight: str
    bias: str
    start: str
    ends: tuple[str, ...]
    signs: tuple[float, ...]
    axis: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """Parameters that may be anything, because the matrices that they are added beside can make up for all of them."""

    free: tuple[str, ...]
    sums: tuple[Beside, ...]

    @property
    def named(self) -> tuple[str, ...]:
        """The parameters that may be anything, and those that make up for it."""
        taking = (name for beside in self.sums for name in (beside.weight, beside.bias) if name)
        return tuple(dict.fromkeys((*self.free, *taking)))


class Added:
    """What is added beside a matrix, as a matrix and a bias of the same shapes, with the parameters of any state."""

    def __init__(self, graph: Graph, beside: Beside) -> None:
        self.beside = beside
        self.region = region_of(graph, beside.start, beside.ends)
        self._interpreter = Interpreter(self.region)

    def values(self, state: State, start: Tensor | None = None) -> Tensor:
        """The sum of the values for one that the matrix reads."""
        given = {} if start is None else {self.beside.start: start}
        made = self._interpreter.run(state, given)
        first, *others = (sign * value for sign, value in zip(self.beside.signs, made, strict=True))
        return sum(others, first)

    def of(self, state: State) -> tuple[Tensor, Tensor]:
        """The matrix, with the axes of the one that it is added beside, and the bias; zero without a start."""
        if not self.beside.start:
            return (made := self.values(state)), made.new_zeros(())
        (node,) = self.region.inputs
        width, places = node.shape[-1], prod(node.shape[:-1])
        probes = torch.cat([torch.eye(width, dtype=torch.float64), torch.zeros(1, width, dtype=torch.float64)])
        found = []
        for part in torch.split(probes, places):
            filled = torch.cat([part, part.new_zeros(places - len(part), width)]).reshape(node.shape)
            made = self.values(state, filled)
            found.append(made.reshape(places, made.shape[-1])[: len(part)])
        *rows, bias = torch.cat(found)
        matrix = torch.stack(rows) - bias
        return (matrix if self.beside.axis == 0 else matrix.T), bias


def region_of(graph: Graph, start: str, ends: tuple[str, ...]) -> Graph:
    """The calls that make some values of another one, which is the input, and of parameters and buffers."""
    kept, todo = set[str](), list(ends)
    while todo:
        name = todo.pop()
        if name not in kept:
            kept.add(name)
            todo += graph.by_name[name].refs() if name != start else ()
    nodes = (node for node in graph.nodes if node.name in kept)
    return Graph(tuple(node.as_input() if node.name == start else node for node in nodes), ends)
