"""Tables whose constants an operator is blind to: a bias on attention scores that is the same for every key."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from symgraph.inference.applied import Applied
from symgraph.inference.entry_numbers import dims_in, laid_out
from symgraph.inference.flow import Flow
from symgraph.ir import Node, Ref
from symgraph.ir import Tensor as Meta
from symgraph.symmetry.axis_parts import Piece, pieces
from symgraph.symmetry.families import Centred, means, ones
from symgraph.symmetry.terms import Leaf, multiplied
from symgraph.tracing.arguments import PATTERN
from symgraph.tracing.interpreter import call

_FILLING = frozenset({"aten.masked_fill.Scalar", "aten.where.ScalarOther", "aten.where.ScalarSelf"})
# Scores from here on have no weight beside others; how often what reads them is tried.
_CLOSED, _TRIALS = -1e9, 3


def find_blind(flow: Flow) -> list[Centred]:
    """Axes of parameters along which a constant is invisible, because all that is made of it is constant where read.

    A change that is constant along the axis is followed as numbers through operators that only move or add it, or
    multiply it by a fixed number.
    """
    found: list[Centred] = []
    for node in _behind(flow):
        for axis, term in enumerate(flow.d.terms[node.target]):
            (piece, *more) = pieces(node.target, axis, term)
            frames = [leaf.frame for leaf in multiplied(piece.term) if isinstance(leaf, Leaf) and leaf.size > 1]
            unseen = (f for f in frames if f >= 0 and _invisible(flow, node.name, _even_along(node.shape, piece, f)))
            if not more and (frame := next(unseen, None)) is not None:
                found.append(Centred(frame, (piece,), True))
    return found


def _even_along(shape: tuple[int, ...], piece: Piece, frame: int) -> Tensor:
    """A change of a parameter that is constant along one of the factors of its axis, and varies along all else."""
    generator = torch.Generator().manual_seed(0)
    multiples = torch.randn(means(piece, frame, torch.zeros(shape)).shape, generator=generator, dtype=torch.float64)
    return ones(piece, frame, multiples).expand(shape)


def _behind(flow: Flow) -> list[Node]:
    """Parameters from which operators that move or add lead to one that is blind."""
    todo = [r.name for applied in flow.d.eq.applied for r in _blind_operands(applied)]
    seen = set(todo)
    while todo:
        a = flow.applied.get(todo.pop())
        passes = a is not None and (_passes(flow, a) or _fills(a.node))
        for ref in a.node.refs() if a is not None and passes else _added(a):
            if ref not in seen:
                seen.add(ref)
                todo.append(ref)
    return [n for n in flow.graph.parameters.values() if n.name in seen]


def _added(a: Applied | None) -> list[str]:
    """What a call adds at its end."""
    return [a.binding.operands[a.rule.adds][0].name] if a is not None and a.rule.adds in a.binding.operands else []


def _blind_operands(a: Applied) -> list[Ref]:
    return [ref for name, (ref, _) in a.binding.operands.items() if name in a.rule.blind]


def _passes(flow: Flow, a: Applied) -> bool:
    if a.rule.reduces:
        return False
    if _is_multiple(flow, a):
        return True
    return a.rule.structure not in (None, "rigid", "constant") or "output" in a.rule.shift.values()


def _is_multiple(flow: Flow, a: Applied) -> bool:
    """Whether a call multiplies its one operand by a fixed number."""
    return len(list(a.node.refs())) == 1 and not a.rule.structure and flow.is_linear(a)


def _invisible(flow: Flow, value: str, change: Tensor) -> bool:
    if value in flow.graph.outputs:
        return False
    for user in flow.graph.users[value]:
        a = flow.applied.get(user.name)
        if a is None or list(user.refs()).count(value) != 1:
            return False
        operand = flow.operand(a, value)
        if operand is not None and operand in a.rule.blind:
            axes, tokens = a.rule.blind[operand].split(), a.binding.operands[operand][1]
            along = [i for i, token in enumerate(tokens) if token.axis in axes]
            if not along or not all(_is_alike(change, axis) for axis in along):
                return False
        elif _fills(user):
            if not _closes_alike(flow, user, value, change):
                return False
        elif not _goes_on(flow, a, value, operand, change):
            return False
    return bool(flow.graph.users[value])


def _is_alike(change: Tensor, axis: int) -> bool:
    return torch.allclose(change, change.narrow(axis, 0, 1).expand_as(change), atol=1e-12)


def _goes_on(flow: Flow, a: Applied, value: str, operand: str | None, change: Tensor) -> bool:
    if not isinstance(a.node.result, Meta):
        return False
    if operand is not None and operand == a.rule.adds:
        tokens, result = a.binding.operands[operand][1], a.binding.results[0]
        inside = {token.name for token in tokens} <= {token.name for token in result}
        there = laid_out(change, dims_in(result, tokens), a.node.shape)
        return inside and _invisible(flow, a.node.name, there)
    if not _passes(flow, a) or a.node.target.startswith(PATTERN):
        return False
    if not a.rule.structure and not _is_multiple(flow, a) and a.rule.shift.get(operand or "") != "output":
        return False
    given = {ref: change if ref == value else _neutral(flow, ref, change) for ref in a.node.refs()}
    return _invisible(flow, a.node.name, call(flow.graph, a.node.name, given))


def _fills(node: Node) -> bool:
    """Whether a call puts a number in some places that leaves these no weight."""
    numbers = [argument for argument in node.args if isinstance(argument, float)]
    return node.target in _FILLING and any(number <= _CLOSED for number in numbers)


def _closes_alike(flow: Flow, filling: Node, value: str, change: Tensor) -> bool:
    """Whether all that reads a value with some places filled gives the same without a change of it, as measured.

    Masks are random, with a row that is closed as a whole, of which minus infinity leaves no numbers.
    """
    users = flow.graph.users[filling.name]
    if filling.name in flow.graph.outputs or any(list(user.refs()) != [filling.name] for user in users):
        return False
    generator = torch.Generator().manual_seed(2)
    for trial in range(_TRIALS):
        plain = torch.randn(change.shape, generator=generator, dtype=torch.float64)
        masks = {r: _mask(flow.graph.by_name[r].shape, trial, generator) for r in filling.refs() if r != value}
        filled = [call(flow.graph, filling.name, {**masks, value: x}) for x in (plain, plain + change)]
        for user in users:
            before, after = (call(flow.graph, user.name, {filling.name: x}) for x in filled)
            if not torch.allclose(before, after, rtol=0.0, atol=1e-12, equal_nan=True):
                return False
    return bool(users)


def _mask(shape: tuple[int, ...], trial: int, generator: torch.Generator) -> Tensor:
    # One number opens or closes all, each in some trial.
    if math.prod(shape) == 1:
        return torch.full(shape, trial % 2 == 0)
    mask = torch.rand(shape, generator=generator) < 0.5
    if mask.numel():
        rows = mask.reshape(-1, mask.shape[-1])
        rows[0], rows[-1] = True, False
    return mask


def _neutral(flow: Flow, value: str, change: Tensor) -> Tensor:
    """Zero where something is added, indices that tell rows apart where something is picked."""
    node = flow.graph.by_name[value]
    meta = node.result
    if isinstance(meta, Meta) and "int" in meta.dtype:
        generator = torch.Generator().manual_seed(1)
        return torch.randint(0, min(change.shape), meta.shape, generator=generator)
    return torch.zeros(node.shape, dtype=torch.float64)
