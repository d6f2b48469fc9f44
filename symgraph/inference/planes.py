"""Readers of centred norms: what they read lies in a plane, so that one direction of them adds a constant alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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

    `bias` is its own, or ''; `elsewhere` are the other calls that use it.
    """

    node: str
    plane: Plane
    axis: int
    bias: str
    elsewhere: tuple[str, ...]
    frame: int


def find_readers(flow: Flow) -> list[PlaneReader]:
    """Every matrix that reads what a centred norm makes, in the order of the program."""
    carrier = Carrier(flow)
    return [r for a, plane, axis in norms(flow) for r in _readers(carrier, a, plane, axis)]


def _readers(carrier: Carrier, a: Applied, plane: tuple[str, str], axis: int) -> Iterator[PlaneReader]:
    flow, (gain, bias) = carrier.flow, plane
    for read in _reads(carrier, a, axis):
        (piece,) = read.readers
        if not isinstance(piece.term, Leaf):
            continue
        own = flow.bias(read.applied)
        adds = read.applied.rule.adds if read.applied.rule is not None else None
        if own is None and read.applied.binding is not None and adds in read.applied.binding.operands:
            continue
        node = read.applied.node.name
        users = tuple(u.name for u in flow.graph.users[read.weight.name] if u.name != node)
        found = Plane(piece, gain, bias, flow.d.eq.offsets.get(gain, 0.0))
        yield PlaneReader(node, found, read.axis, own.target if own is not None else "", users, piece.term.frame)


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
