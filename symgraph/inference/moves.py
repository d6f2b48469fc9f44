"""Moves and nulls: biases whose constant can go elsewhere, or nowhere."""

from __future__ import annotations

from collections.abc import Iterator

from symgraph.inference.flow import Flow, Key, Reader, Seen, Use
from symgraph.ir import Node
from symgraph.symmetry.families import Move, Piece, Sink, is_one_block, pieces
from symgraph.symmetry.terms import leaves


def find_moves(flow: Flow) -> list[Move]:
    """Every movable part of every bias, in program order.

    Constants go through linear readers first. A sum that something else sees can still take them in the bias of its
    other operand (a norm after a residual sum), if that bias is not itself on the move.
    """
    direct = [m for _, _, m in _candidates(flow, False) if m is not None]
    sources = {m.source.place for m in direct}
    moving = {m.source.parameter for m in direct}
    fixed: set[str] = set()
    found: list[Move] = []
    for piece, plain, move in _candidates(flow, True):
        if piece.place in sources:
            found.append(plain)  # type: ignore[arg-type]
            continue
        into = {s.bias for s in move.sinks if s.reader is None} if move is not None else set()
        if move is None or piece.parameter in fixed or into & moving:
            continue
        fixed |= into
        moving.add(piece.parameter)
        found.append(move)
    return found


def _candidates(flow: Flow, cancel: bool) -> Iterator[tuple[Piece, Move | None, Move | None]]:
    """Each part of each bias with the move through readers alone, and with `cancel` the one through sums as well."""
    for a in flow.d.eq.applied:
        bias = flow.bias(a)
        for piece in pieces(bias.target, 0, flow.d.terms[bias.target][0]) if bias is not None else ():
            uses = constant_uses(flow, a.node.name, piece)
            plain = _move(flow, piece, uses, False)
            yield piece, plain, plain or (_move(flow, piece, uses, True) if cancel else plain)


def constant_uses(flow: Flow, value: str, piece: Piece) -> list[Use]:
    """What sees a constant that a piece adds to a value: one of a bias, or of the axis of a weight that writes it."""
    keys: list[Key] = [(x.frame, x.dual) for x in leaves(piece.term) if x.frame >= 0]
    whole = pieces(piece.parameter, piece.axis, flow.d.terms[piece.parameter][piece.axis])
    parts = [(x.frame, x.dual) for p in whole for x in leaves(p.term)]
    # A key that two parts of the bias share does not say which of them a reader sees.
    if not keys or not is_one_block(piece) or parts.count(keys[-1]) > 1:
        return [Seen()]
    return list(flow.uses(value, keys[-1], sums=True, beside=frozenset(keys[:-1])))


def taken(flow: Flow, piece: Piece, uses: list[Use], cancel: bool = False) -> tuple[Sink, ...] | None:
    """Where a piece's constant goes if all that sees it can take it; None if something cannot.

    Args:
        cancel: whether the bias of another summand may take it back.
    """
    sinks = [_sink(flow, piece, u, cancel) for u in uses]
    kept = [s for s in sinks if s is not None]
    if len(kept) < len(sinks) or (kept and all(s.reader is None for s in kept)):
        return None
    return tuple(kept)


def _move(flow: Flow, piece: Piece, uses: list[Use], cancel: bool) -> Move | None:
    sinks = taken(flow, piece, uses, cancel)
    return None if sinks is None else Move(piece, sinks)


def _sink(flow: Flow, piece: Piece, use: Use, cancel: bool) -> Sink | None:
    if isinstance(use, Reader):
        return Sink(use.piece, use.bias) if use.bias else None
    other = flow.added(use.other) if cancel and use.other else None
    if other is None or other.target == piece.parameter or not _same(flow, piece, other):
        return None
    return Sink(None, other.target)


def _same(flow: Flow, piece: Piece, bias: Node) -> bool:
    """Whether the piece is a whole bias made of the same leaves as another one."""
    (term,) = flow.d.terms[bias.target]
    whole = piece.outer == 1 and piece.start == 0 and piece.size == bias.shape[0] == term.size
    mine = flow.d.terms[piece.parameter][piece.axis]
    return whole and [(x.frame, x.dual, x.size) for x in leaves(mine)] == [
        (x.frame, x.dual, x.size) for x in leaves(term)
    ]
