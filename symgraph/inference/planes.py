"""Readers of centred norms: what they read lies in a plane, so that one direction of them adds a constant alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from symgraph.inference.applied import Applied
from symgraph.inference.carrying import Carrier, Passed, Read, Spot
from symgraph.inference.flow import Flow
from symgraph.ir import Node
from symgraph.symmetry.families import Piece, Plane
from symgraph.symmetry.terms import Leaf


@dataclass(frozen=True, slots=True)
class PlaneReader:
    """A matrix that reads a norm's output by one leaf, of this frame.

    `nodes` are the calls that read from this plane, in the order of the program, and `elsewhere` all others that use
    the matrix; `bias` is its own at each of them, or ''.
    """

    nodes: tuple[str, ...]
    plane: Plane
    axis: int
    bias: str
    elsewhere: tuple[str, ...]
    frame: int


def find_readers(flow: Flow) -> list[PlaneReader]:
    """Every matrix that reads what a centred norm makes, in the order of the program."""
    carrier = Carrier(flow)
    nodes: dict[PlaneReader, dict[str, None]] = {}
    for a, plane, axis in norms(flow):
        for node, reader in _readers(carrier, a, plane, axis):
            nodes.setdefault(reader, {})[node] = None
    return [_at(flow, reader, tuple(found)) for reader, found in nodes.items()]


def _at(flow: Flow, reader: PlaneReader, nodes: tuple[str, ...]) -> PlaneReader:
    """A reader with all calls that use its matrix: those that read from its plane, and the others."""
    users = flow.graph.users[flow.graph.state[reader.plane.reader.parameter].name]
    inside = tuple(u.name for u in users if u.name in nodes)
    return replace(reader, nodes=inside, elsewhere=tuple(u.name for u in users if u.name not in nodes))


def _readers(carrier: Carrier, a: Applied, plane: tuple[str, str], axis: int) -> Iterator[tuple[str, PlaneReader]]:
    """The calls that read what a norm makes, each with its reader as if it were the only one."""
    flow, (gain, bias) = carrier.flow, plane
    for read in _reads(carrier, a, axis):
        (piece,), node = read.readers, read.applied.node
        if isinstance(piece.term, Leaf) and list(node.refs()).count(read.weight.name) == 1:
            own = flow.bias(read.applied)
            found = Plane(piece, gain, bias, flow.d.eq.offsets.get(gain, 0.0))
            name = own.target if own is not None else ""
            yield node.name, PlaneReader((), found, read.axis, name, (), piece.term.frame)


def _reads(carrier: Carrier, a: Applied, axis: int) -> Iterator[Read]:
    """The matrices that a norm's output reaches by operators of one operand, or beside others."""
    flow = carrier.flow
    term = flow.d.values[a.node.name][axis]
    sizes = [-1 if i == axis else 1 for i in range(len(a.node.shape))]
    at = torch.arange(1, term.size + 1, dtype=torch.float64).reshape(sizes).expand(a.node.shape)
    todo = [(a.node.name, Spot((-1, ()), term, at))]
    while todo:
        value, spot = todo.pop(0)
        for user in flow.graph.users[value]:
            applied = flow.applied.get(user.name)
            beside = applied is not None and applied.rule is not None and applied.rule.structure in ("cat", "index")
            alone = beside or set(user.refs()) == {value}
            for use in carrier.uses(value, user, spot):
                if isinstance(use, Read) and len(use.readers) == 1:
                    yield use
                elif isinstance(use, Passed) and alone and use.spot.factor == 1.0:
                    todo.append((use.value, use.spot))


def norms(flow: Flow) -> Iterator[tuple[Applied, tuple[str, str], int]]:
    """Every centring node with its gain and bias (each may be ''), and where the axis stands in its result."""
    for a in flow.d.eq.applied:
        i = flow.centred_axis(a)
        if i is None or a.rule is None or a.binding is None or len(a.binding.results) != 1:
            continue
        axis = next(j for j, t in enumerate(a.binding.results[0]) if t.name == a.rule.centred)
        leaf = flow.d.eq.store.children(flow.d.found[a.node.name][axis]) is None
        gain, bias = named(flow, a, a.rule.gain), named(flow, a, a.rule.adds)
        if gain is not None and bias is not None and leaf:
            yield a, ("" if flow.absorbed(a) else gain, bias), axis


def named(flow: Flow, a: Applied, operand: str | None) -> str | None:
    """Parameter of an optional operand; '' where it is left out, None where it is more than one vector."""
    if a.binding is None or operand not in a.binding.operands:
        return ""
    name = a.binding.operands[operand][0].name
    node: Node = flow.graph.by_name[flow.d.eq.shifted.get(name, name)]
    known = node.target in flow.graph.state and len(node.shape) == 1
    return node.target if known else None


def whole(flow: Flow, parameter: str, axis: int) -> Piece:
    """All entries along one axis of a parameter."""
    term = flow.d.terms[parameter][axis]
    return Piece(parameter, axis, 0, term.size, term)
