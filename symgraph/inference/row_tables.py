"""Tables whose constants an operator is blind to: a bias on attention scores that is the same for every key."""

from __future__ import annotations

import torch
from torch import Tensor

from symgraph.inference.applied import Applied
from symgraph.inference.flow import Flow
from symgraph.ir import Node, Ref
from symgraph.ir import Tensor as Meta
from symgraph.symmetry.families import Centred, pieces
from symgraph.tracing.interpreter import call


def find_blind(flow: Flow) -> list[Centred]:
    """Axes of parameters along which a constant is invisible, because all that is made of it is constant where read.

    A change that is constant along the axis is followed as numbers through operators that only move or add it.
    """
    found: list[Centred] = []
    for node in _behind(flow):
        for axis, n in enumerate(node.shape):
            (piece, *more) = pieces(node.target, axis, flow.d.terms[node.target][axis])
            shape = [1 if i == axis else m for i, m in enumerate(node.shape)]
            generator = torch.Generator().manual_seed(0)
            change = torch.randn(shape, generator=generator, dtype=torch.float64).expand(node.shape)
            frame = getattr(piece.term, "frame", -1)
            if n > 1 and not more and frame >= 0 and _invisible(flow, node.name, change):
                found.append(Centred(frame, (piece,), True))
    return found


def _behind(flow: Flow) -> list[Node]:
    """Parameters of two axes or more from which operators that move or add lead to one that is blind."""
    todo = [r.name for applied in flow.d.eq.applied for r in _blind_operands(applied)]
    seen = set(todo)
    while todo:
        a = flow.applied.get(todo.pop())
        for ref in a.node.refs() if a is not None and _passes(a) else ():
            if ref not in seen:
                seen.add(ref)
                todo.append(ref)
    return [n for n in flow.graph.parameters.values() if n.name in seen and len(n.shape) > 1]


def _blind_operands(a: Applied) -> list[Ref]:
    return [ref for name, (ref, _) in a.binding.operands.items() if name in a.rule.blind]


def _passes(a: Applied) -> bool:
    if a.rule.reduces:
        return False
    return a.rule.structure not in (None, "rigid", "constant") or "output" in a.rule.shift.values()


def _invisible(flow: Flow, value: str, change: Tensor) -> bool:
    if value in flow.graph.outputs:
        return False
    for user in flow.graph.users[value]:
        a = flow.applied.get(user.name)
        if a is None or list(user.refs()).count(value) != 1:
            return False
        operand = flow.operand(a, value)
        if operand is not None and operand in a.rule.blind:
            at = [i for i, token in enumerate(a.binding.operands[operand][1]) if token.axis == a.rule.blind[operand]]
            if len(at) != 1 or not torch.allclose(change, change.narrow(at[0], 0, 1).expand_as(change), atol=1e-12):
                return False
        elif not _goes_on(flow, a, value, operand, change):
            return False
    return bool(flow.graph.users[value])


def _goes_on(flow: Flow, a: Applied, value: str, operand: str | None, change: Tensor) -> bool:
    if not _passes(a) or not isinstance(a.node.result, Meta):
        return False
    if not a.rule.structure and a.rule.shift.get(operand or "") != "output":
        return False
    given = {ref: change if ref == value else _neutral(flow, ref, change) for ref in a.node.refs()}
    return _invisible(flow, a.node.name, call(flow.graph, a.node.name, given))


def _neutral(flow: Flow, value: str, change: Tensor) -> Tensor:
    """Zero where something is added, indices that tell rows apart where something is picked."""
    node = flow.graph.by_name[value]
    meta = node.result
    if isinstance(meta, Meta) and "int" in meta.dtype:
        generator = torch.Generator().manual_seed(1)
        return torch.randint(0, min(change.shape), meta.shape, generator=generator)
    return torch.zeros(node.shape, dtype=torch.float64)
