"""Rows of one map whose length nothing sees: queries and keys of a fused projection, each divided by its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.applied import Applied
from symgraph.inference.carrying import Carrier
from symgraph.inference.flow import Flow
from symgraph.inference.matrix_parts import numbered_along
from symgraph.inference.uses import Passed, Spot
from symgraph.ir import Kind
from symgraph.ir import Tensor as Meta
from symgraph.symmetry.axis_parts import Piece, placed
from symgraph.symmetry.lengths import Radial
from symgraph.symmetry.terms import Leaf

Rows = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LinearMap:
    """A linear map by parameters that are read here alone, with the axis of each for what it writes along `dim`."""

    applied: Applied
    dim: int
    tensors: tuple[str, ...]
    axes: tuple[int, ...]


def find_radial_parts(flow: Flow, whole: Sequence[Radial]) -> Iterator[Radial]:
    """The rows of maps that calls read which divide by their length, in runs that are divided each by its own.

    Args:
        whole: what is known of all rows of some maps.
    """
    carrier, taken = Carrier(flow), {name for radial in whole for name in radial.tensors}
    for applied in flow.d.eq.applied:
        found = _map_of(flow, applied)
        if found is not None and taken.isdisjoint(found.tensors) and _may_be_divided(flow, found):
            for runs in _unseen(carrier, found):
                yield from _radial(flow, found, runs)


def _map_of(flow: Flow, applied: Applied) -> LinearMap | None:
    rule, binding = applied.rule, applied.binding
    if rule is None or binding is None or not isinstance(applied.node.result, Meta):
        return None
    if len(binding.results) != 1 or applied.node.name in flow.graph.outputs:
        return None
    # Of several results none has a shape of its own.
    if len(applied.node.shape) != len(binding.results[0]):
        return None
    free = [
        (dim, token)
        for dim, token in enumerate(binding.results[0])
        if token.claimed and not token.batch and SymmetryClass.INVERTIBLE in rule.admits.get(token.axis, ())
    ]
    for dim, token in free:
        held = [(flow.graph.by_name[ref.name], tokens) for ref, tokens in binding.operands.values() if token in tokens]
        alone = all(n.kind is Kind.PARAMETER and len(flow.graph.users[n.name]) == 1 for n, _ in held)
        if held and alone:
            return LinearMap(applied, dim, tuple(n.target for n, _ in held), tuple(ts.index(token) for _, ts in held))
    return None


def _may_be_divided(flow: Flow, found: LinearMap) -> bool:
    """Whether a call that divides by a length reads entries of what a map makes: known before any entry is followed."""
    seen, todo = set[str](), [found.applied.node.name]
    while todo:
        for user in flow.graph.users[todo.pop()]:
            applied = flow.applied.get(user.name)
            if applied is None or user.name in seen:
                continue
            if applied.rule.radial is not None:
                return True
            seen.add(user.name)
            todo += [user.name] if applied.rule.structure is not None else []
    return False


def _unseen(carrier: Carrier, found: LinearMap) -> list[list[Rows]]:
    """For each call that divides rows by their length the runs that it does so with, without those that others see."""
    seen, runs = set[int](), list[list[Rows]]()
    for user, value, at in ends(carrier, found):
        own = _runs(carrier.flow, user, value, at)
        if own is None:
            seen |= {int(row) for row in torch.unique(at)} - {0}
        else:
            runs.append(own)
    flat = [set(run) for own in runs for run in own]
    together = sum(map(len, flat)) == len(set().union(*flat)) if flat else False
    return [own for own in runs if seen.isdisjoint(row for run in own for row in run)] if together else []


def ends(carrier: Carrier, found: LinearMap) -> Iterator[tuple[str, str, Tensor]]:
    """What reads the rows of a map, once operators that only move entries have done so: the call and what it reads.

    Shapes: the numbers of the rows, from one, have that of the value; zero where nothing of the map stands.
    """
    node = found.applied.node
    term = carrier.flow.d.values[node.name][found.dim]
    made = numbered_along(carrier.flow, (0, term.size, 1, 0), found.dim, node.shape)
    todo = [(node.name, Spot((-1, ()), term, made))]
    while todo:
        value, spot = todo.pop(0)
        if value in carrier.graph.outputs:
            yield "", value, spot.numbers.at
        for user in carrier.graph.users[value]:
            applied = carrier.flow.applied.get(user.name)
            moves = applied is not None and applied.rule.structure is not None
            passed = list(carrier.uses(value, user, spot)) if moves else []
            if moves and all(isinstance(use, Passed) for use in passed):
                todo += [(use.value, use.spot) for use in passed if isinstance(use, Passed)]
            else:
                yield user.name, value, spot.numbers.at


def _runs(flow: Flow, user: str, value: str, at: Tensor) -> list[Rows] | None:
    """The rows that a call divides by their length, those of one length together; None where it does more with them."""
    applied = flow.applied.get(user)
    operand = flow.operand(applied, value) if applied is not None else None
    if applied is None or operand is None or applied.rule.radial != operand:
        return None
    tokens = applied.binding.operands[operand][1]
    alone = [SymmetryClass.SEMI_PERMUTATION in applied.rule.admits.get(token.axis, ()) for token in tokens]
    along = [dim for dim, single in enumerate(alone) if not single]
    if len(along) != 1:
        return None
    rows = torch.unique(at.movedim(along[0], -1).reshape(-1, at.shape[along[0]]), dim=0)
    found = [tuple(map(int, row)) for row in rows]
    return found if all(len(set(run)) == len(run) and 0 not in run for run in found) else None


def _radial(flow: Flow, found: LinearMap, runs: list[Rows]) -> Iterator[Radial]:
    order = [row - 1 for run in sorted(runs) for row in run]
    pieces = []
    for name, axis in zip(found.tensors, found.axes, strict=True):
        like = Piece(name, axis, 0, len(order), Leaf(-1, -1, False, len(order)))
        pieces.append(placed(like, order))
    if None not in pieces:
        known = tuple(piece for piece in pieces if piece is not None)
        yield Radial(found.tensors, parts=len(runs), axes=found.axes, pieces=known)
