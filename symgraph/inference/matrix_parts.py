"""Parts of a matrix: what views, slices and transposes leave of a parameter with two axes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.inference.entry_numbers import is_constant, line_along, moved
from symgraph.inference.flow import Flow
from symgraph.inference.structural import KEEPING
from symgraph.ir import Kind, Node
from symgraph.symmetry.families import Piece
from symgraph.symmetry.terms import Term

_MOVING = (KEEPING - {"expand"}) | {"slice", "select", "split", "unbind", "getitem"}


@dataclass(frozen=True, slots=True)
class Part:
    """A value that is some rows and columns of a parameter, with the axis of the parameter for each of its own.

    `places` are the positions along these axes. `first` is the call that reads the parameter; if the part is `alone`,
    nothing else reads what it makes until there is the part.

    Shapes: places: (size of the axis,) for each axis.
    """

    value: str
    parameter: Node
    axes: tuple[int, int]
    places: tuple[Tensor, Tensor]
    terms: tuple[Term, ...]
    first: str = ""
    alone: bool = True

    def piece(self, axis: int) -> Piece | None:
        """What it holds along an axis of the parameter, if those are runs of one length at one distance."""
        dim = self.axes.index(axis)
        at, term = self.places[dim], self.terms[dim]
        jumps = torch.nonzero(at.diff() != 1).flatten() + 1
        count = len(jumps) + 1
        length, start = len(at) // count, int(at[0])
        period = int(at[length]) - start if count > 1 else 0
        found = Piece(self.parameter.target, axis, start, start + length, term, count, period)
        return found if len(at) == found.size and torch.equal(found.places(), at) else None


def part_of(flow: Flow, value: str) -> Part | None:
    """What a value is of a parameter with two axes; None where it is anything else."""
    way = tuple(way_back(flow, value))
    parameter = flow.graph.by_name[next(way[0].refs()) if way else value]
    if parameter.kind is not Kind.PARAMETER or len(parameter.shape) != 2 or parameter.name not in flow.d.values:
        return None
    terms = flow.d.values[value]
    if not way:
        first, second = map(torch.arange, parameter.shape)
        return Part(value, parameter, (0, 1), (first, second), terms)
    numbers = []
    for axis, size in enumerate(parameter.shape):
        line = torch.arange(size).reshape(-1, 1) if axis == 0 else torch.arange(size)
        numbers.append(moved(flow.graph, way, {parameter.name: line.expand(parameter.shape)}))
    axes = tuple(_axis(numbers, dim) for dim in range(numbers[0].dim()))
    if sorted(axes) != [0, 1]:
        return None
    places = line_along(numbers[axes[0]], 0).long(), line_along(numbers[axes[1]], 1).long()
    alone = all(len(flow.graph.users[n.name]) == 1 for n in way[:-1])
    return Part(value, parameter, (axes[0], axes[1]), places, terms, way[0].name, alone)


def way_back(flow: Flow, value: str) -> Iterator[Node]:
    """The calls that only move entries, in order, from a parameter to a value."""
    found: list[Node] = []
    node = flow.graph.by_name[value]
    while node.kind is Kind.CALL:
        applied, operands = flow.applied.get(node.name), list(node.refs())
        if applied is None or applied.rule.structure not in _MOVING or len(operands) != 1:
            break
        found.append(node)
        node = flow.graph.by_name[operands[0]]
    return reversed(found)


def _axis(numbers: list[Tensor], dim: int) -> int:
    """The axis of a parameter that an axis of its part is; -1 where it is none."""
    moving = [axis for axis, found in enumerate(numbers) if not is_constant(found, dim)]
    if len(moving) == 1:
        return moving[0]
    return dim if not moving and numbers[0].shape[dim] == 1 else -1
