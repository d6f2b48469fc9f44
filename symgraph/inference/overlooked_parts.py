"""Writers of streams whose readers see fewer dimensions than the streams have.

A stream is followed from what one parameter writes through sums, views and whatever else is linear in it and takes any
map of its axis from operand to result, until it ends in matrices alone. What is written then stands at every position
along one axis, so that the directions that all these matrices take to zero have no effect.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator

import torch

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.applied import Applied
from symgraph.inference.carrying import Carrier
from symgraph.inference.flow import BLANK, Flow
from symgraph.inference.matrix_parts import numbered_along, part_of
from symgraph.inference.planes import whole
from symgraph.inference.uses import Passed, Spot
from symgraph.ir import Kind, Node
from symgraph.ir import Tensor as Meta
from symgraph.rules.signature import AxisToken
from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.overlooked import Overlooked
from symgraph.symmetry.terms import Leaf

# A value, and the axis along which a stream lies in it.
_Place = tuple[str, int]


def find_overlooked(flow: Flow, held: Collection[str]) -> Iterator[Overlooked]:
    """All parameters that write such a stream, in the order of the program.

    Args:
        held: parameters of which other families change what nothing sees.
    """
    found, carrier = defaultdict[tuple[Piece, ...], list[Piece]](list), Carrier(flow)
    for applied in flow.d.eq.applied:
        for piece, place in _writers(flow, applied):
            readers = _readers(carrier, place, piece) if piece.parameter not in held else None
            if readers and _is_narrow(flow, piece, readers):
                found[readers].append(piece)
    for readers, writers in found.items():
        term, here = writers[0].term, {*held, *(piece.parameter for piece in (*readers, *writers))}
        alone = isinstance(term, Leaf) and flow.turns_alone(term.frame, here)
        left = term.size if alone else 0
        for writer in writers:
            columns = writer.beside(flow.graph.state[writer.parameter].shape)
            moved = min(columns, left)
            left -= moved
            if moved < columns:
                yield Overlooked(writer, readers, moved)


def _is_narrow(flow: Flow, writer: Piece, readers: tuple[Piece, ...]) -> bool:
    shapes = {reader.parameter: flow.graph.state[reader.parameter].shape for reader in readers}
    return Overlooked(writer, readers).number(shapes) > 0


# -- writers -------------------------------------------------------------------------------------------------------


def _writers(flow: Flow, a: Applied) -> Iterator[tuple[Piece, _Place]]:
    """The parameters that a call alone reads and is linear in, with the axes that any map takes on to its result."""
    if a.rule.structure is not None or not isinstance(a.node.result, Meta):
        return
    for operand, (_, tokens) in a.binding.operands.items():
        node = _own_parameter(flow, a, operand)
        for dim, token in enumerate(tokens if node is not None else ()):
            to = _passed_on(a, token)
            if node is not None and to is not None and node.shape[dim] == a.node.shape[to] > 1:
                yield whole(flow, node.target, dim), (a.node.name, to)


def _own_parameter(flow: Flow, a: Applied, operand: str) -> Node | None:
    """A parameter that is all of an operand, and that nothing else reads."""
    node = flow.graph.by_name[a.binding.operands[operand][0].name]
    alone = node.kind is Kind.PARAMETER and flow.graph.users[node.name] == (a.node,) and flow.operand(a, node.name)
    return node if alone and operand != a.rule.gain and node.target in flow.d.terms else None


def _passed_on(a: Applied, token: AxisToken) -> int | None:
    """Where an axis stands in the result of a call that takes any map of it there."""
    names = [other.name for other in a.binding.results[0]]
    if token.mark or token.name not in names or not _is_free(a, token):
        return None
    return names.index(token.name)


def _is_free(a: Applied, token: AxisToken) -> bool:
    return token.claimed and SymmetryClass.INVERTIBLE in a.rule.admits.get(token.axis, ())


# -- readers -------------------------------------------------------------------------------------------------------


def _readers(carrier: Carrier, place: _Place, writer: Piece) -> tuple[Piece, ...] | None:
    """All matrices in which a stream ends; None if anything else sees it, or some of its entries alone."""
    todo, seen, found, graph = [place], {place}, dict[Piece, None](), carrier.graph
    while todo:
        value, dim = todo.pop()
        if value in graph.outputs:
            return None
        for user in dict.fromkeys(graph.users[value]):
            ends = _uses(carrier, value, dim, user, writer.size)
            if ends is None:
                return None
            for end in ends:
                if isinstance(end, Piece):
                    found[end] = None
                elif end not in seen:
                    seen.add(end)
                    todo.append(end)
    return tuple(found)


def _uses(carrier: Carrier, value: str, dim: int, user: Node, size: int) -> list[Piece | _Place] | None:
    """What becomes of a stream where a value with it is read."""
    flow, a = carrier.flow, carrier.flow.applied.get(user.name)
    if a is None or user.name in flow.d.eq.slots:
        return None
    if a.rule.structure is not None:
        return [] if a.rule.structure in BLANK else _moved(carrier, value, dim, user)
    operands = [operand for operand, (ref, _) in a.binding.operands.items() if ref.name == value]
    if len(operands) != list(user.refs()).count(value) or not isinstance(user.result, Meta):
        return None
    ends = [_end(flow, a, operand, dim, size) for operand in operands]
    return None if None in ends else [end for end in ends if end is not None]


def _moved(carrier: Carrier, value: str, dim: int, user: Node) -> list[Piece | _Place] | None:
    """The axes on which a call that moves entries puts a whole stream."""
    flow, shape = carrier.flow, carrier.graph.by_name[value].shape
    spot = Spot((-1, ()), flow.d.values[value][dim], numbered_along(flow, (0, shape[dim], 1, 0), dim, shape))
    found: list[Piece | _Place] = []
    for use in carrier.uses(value, user, spot):
        axis = _whole_axis(flow, use, shape[dim]) if isinstance(use, Passed) else None
        if axis is None:
            return None
        found.append(axis)
    return found


def _whole_axis(flow: Flow, use: Passed, size: int) -> _Place | None:
    """The axis of a value along which all entries of a stream stand in order, if it is one axis."""
    shape, numbers = flow.graph.by_name[use.value].shape, use.spot.numbers
    dims = [dim for dim, length in enumerate(shape) if length == size]
    made = (dim for dim in dims if torch.equal(numbers.at, numbered_along(flow, (0, size, 1, 0), dim, shape).at))
    dim = next(made, None)
    return None if dim is None or use.spot.name[1] or numbers.rows is not None else (use.value, dim)


def _end(flow: Flow, a: Applied, operand: str, dim: int, size: int) -> Piece | _Place | None:
    """Where a stream goes on in what a call makes of an operand, or the matrix that reads it there."""
    token, names = a.binding.operands[operand][1][dim], [other.name for other in a.binding.results[0]]
    to = names.index(token.name) if flow.is_one(a) and token.name in names else _passed_on(a, token)
    if to is not None:
        return (a.node.name, to) if a.node.shape[to] == size else None
    gone = token.name not in names and _is_free(a, token)
    return _matrix(flow, a, operand, token, size) if gone else None


def _matrix(flow: Flow, a: Applied, operand: str, token: AxisToken, size: int) -> Piece | None:
    """The parameter that an axis is multiplied by, if it is one and whole, by its axis."""
    facing = [
        (ref.name, dim)
        for name, (ref, tokens) in a.binding.operands.items()
        for dim, other in enumerate(tokens)
        if name != operand and other.name == token.name
    ]
    if len(facing) != 1:
        return None
    ((name, dim),) = facing
    node, part = flow.graph.by_name[name], part_of(flow, name)
    if node.kind is Kind.PARAMETER and node.target in flow.d.terms:
        return whole(flow, node.target, dim) if node.shape[dim] == size else None
    if part is None or not part.is_all or len(part.axes[dim]) > 1:
        return None
    axis = part.axes[dim][0]
    return whole(flow, part.parameter.target, axis) if part.parameter.shape[axis] == size else None
