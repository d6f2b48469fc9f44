"""Parts of a matrix: what views, slices and transposes leave of a parameter with two axes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symgraph.inference.entry_numbers import Numbers, is_constant, line_along, moved
from symgraph.inference.flow import Flow
from symgraph.inference.structural import KEEPING
from symgraph.ir import Kind, Node, kept
from symgraph.symmetry.axis_parts import Piece, Run, numbered, pieces, places_of
from symgraph.symmetry.terms import Product, Term, leaves, multiplied

# Axes of a parameter that are one where it is read; mostly a single one.
Axes = tuple[int, ...]
# What puts entries of its operand elsewhere.
MOVING = (KEEPING - {"expand"}) | {"slice", "select", "split", "unbind", "getitem"}


@dataclass(frozen=True, slots=True)
class Part:
    """A value that is some rows and columns of a parameter, with the axes of the parameter for each of its own.

    `places` are the positions along these axes. `first` is the call that reads the parameter; if the part is `alone`,
    nothing else reads what it makes until there is the part.

    Shapes: places: (size of the axis,) for each axis of the value.
    """

    value: str
    parameter: Node
    axes: tuple[Axes, Axes]
    places: tuple[Tensor, Tensor]
    terms: tuple[Term, ...]
    first: str = ""
    alone: bool = True

    @property
    def is_all(self) -> bool:
        """Whether it is the whole parameter, in order, and made of it for this alone."""
        rows, columns = self.places
        in_order = all(torch.equal(at, torch.arange(len(at))) for at in self.places)
        return self.alone and in_order and len(rows) * len(columns) == torch.Size(self.parameter.shape).numel()

    def piece(self, flow: Flow, axes: Axes) -> Piece | None:
        """What it holds along axes of the parameter, if those are runs of one length at one distance."""
        dim = self.axes.index(axes)
        run = _run_of(flow, self.places[dim])
        if run is None:
            return None
        start, stop, outer, period = run
        return Piece(self.parameter.target, axes[0], start, stop, self.terms[dim], outer, period, axes[1:])


@kept
def _run_of(flow: Flow, places: Tensor) -> Run | None:
    """Positions as runs of one length at one distance, if they are that."""
    jumps = torch.nonzero(places.diff() != 1).flatten() + 1
    count = len(jumps) + 1
    length, start = len(places) // count, int(places[0])
    period = int(places[length]) - start if count > 1 else 0
    found = (start, start + length, count, period)
    return found if len(places) == count * length and torch.equal(places_of(found), places) else None


@kept
def part_of(flow: Flow, value: str) -> Part | None:
    """What a value is of a parameter that is read as a matrix; None where it is anything else.

    A parameter of more axes is one where these are flattened into two.
    """
    way = tuple(way_back(flow, value))
    parameter = flow.graph.by_name[next(way[0].refs()) if way else value]
    rank = len(parameter.shape)
    if parameter.kind is not Kind.PARAMETER or parameter.name not in flow.d.values or rank < 2:
        return None
    terms = flow.d.values[value]
    if not way:
        first, second = (_counted(flow, size) for size in parameter.shape[:2])
        return Part(value, parameter, ((0,), (1,)), (first, second), terms) if rank == 2 else None
    numbers = []
    for axis, size in enumerate(parameter.shape):
        line = torch.arange(size).reshape([-1 if i == axis else 1 for i in range(rank)])
        numbers.append(moved(flow.graph, way, {parameter.name: line.expand(parameter.shape)}))
    axes = _axes(numbers, parameter.shape)
    if axes is None:
        return None
    places = (_places(numbers, axes[0], 0, parameter.shape), _places(numbers, axes[1], 1, parameter.shape))
    alone = all(len(flow.graph.users[n.name]) == 1 for n in way[:-1])
    return Part(value, parameter, axes, places, terms, way[0].name, alone)


@kept
def along(flow: Flow, parameter: str, axes: Axes) -> list[Piece]:
    """The parts along axes of a parameter that are one."""
    found = pieces(parameter, axes[0], term_of(flow, parameter, axes))
    return [replace(piece, more=axes[1:]) for piece in found] if len(axes) > 1 else found


@kept
def numbered_along(
    flow: Flow, run: Run, dim: int, shape: tuple[int, ...], length: int | None = None, places: Tensor | None = None
) -> Numbers:
    """The entries of a piece along one axis of a value of this shape, the same ones all along its others.

    Args:
        length: how long the axis is that it is a piece of, if that is another one.
        places: which positions of that axis stand along the value's.
    """
    line = numbered(run, length or shape[dim])
    line = line if places is None else line[places]
    return Numbers(line.reshape([-1 if i == dim else 1 for i in range(len(shape))]).expand(shape))


@kept
def _counted(flow: Flow, size: int) -> Tensor:
    return torch.arange(size)


def term_of(flow: Flow, parameter: str, axes: Axes) -> Term:
    """What axes of a parameter are made of together."""
    terms = [flow.d.terms[parameter][axis] for axis in axes]
    return terms[0] if len(terms) == 1 else Product(tuple(factor for term in terms for factor in multiplied(term)))


def frames_of(term: Term) -> frozenset[int]:
    """The frames of what an axis is made of."""
    return frozenset(leaf.frame for leaf in leaves(term) if leaf.size > 1)


def way_back(flow: Flow, value: str) -> Iterator[Node]:
    """The calls that only move entries, in order, from a parameter to a value."""
    found: list[Node] = []
    node = flow.graph.by_name[value]
    while node.kind is Kind.CALL:
        applied, operands = flow.applied.get(node.name), list(node.refs())
        if applied is None or applied.rule.structure not in MOVING or len(operands) != 1:
            break
        found.append(node)
        node = flow.graph.by_name[operands[0]]
    return reversed(found)


def line_of(flow: Flow, value: str) -> tuple[str, int, int] | None:
    """The parameter of one axis of which a value is neighbouring entries in order, with the first and how many."""
    way = tuple(way_back(flow, value))
    source = flow.graph.by_name[next(way[0].refs()) if way else value]
    if source.kind is not Kind.PARAMETER or len(source.shape) != 1:
        return None
    count = torch.arange(source.shape[0])
    line = moved(flow.graph, way, {source.name: count}).flatten() if way else count
    start, size = int(line[0]), len(line)
    return (source.target, start, size) if torch.equal(line, torch.arange(start, start + size)) else None


def _axes(numbers: list[Tensor], shape: tuple[int, ...]) -> tuple[Axes, Axes] | None:
    """The axes of a parameter that each axis of its part is; None where an axis is on both, or on none."""
    if numbers[0].dim() != 2:
        return None
    if len(shape) == 2:
        single = tuple(_axis(numbers, dim) for dim in range(2))
        return ((single[0],), (single[1],)) if sorted(single) == [0, 1] else None
    first, second = (tuple(a for a, found in enumerate(numbers) if not is_constant(found, dim)) for dim in range(2))
    long = [axis for axis, size in enumerate(shape) if size > 1]
    return (first, second) if first and second and sorted((*first, *second)) == long else None


def _places(numbers: list[Tensor], axes: Axes, dim: int, shape: tuple[int, ...]) -> Tensor:
    """Where along these axes of a parameter, taken as one, the entries along an axis of its part stand."""
    found = torch.zeros((), dtype=torch.long)
    for axis in axes:
        found = found * shape[axis] + line_along(numbers[axis], dim).long()
    return found


def _axis(numbers: list[Tensor], dim: int) -> int:
    """The axis of a parameter that an axis of its part is; -1 where it is none."""
    moving = [axis for axis, found in enumerate(numbers) if not is_constant(found, dim)]
    if len(moving) == 1:
        return moving[0]
    return dim if not moving and numbers[0].shape[dim] == 1 else -1
