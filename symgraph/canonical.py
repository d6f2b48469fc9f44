"""The canonical form: the point of least norm on the orbit of a model (design section 8; Kempf-Ness).

Each step is derived from the symmetry graph, never from module names, and keeps the function exactly:

    move      biases that can go into the biases of their readers
    absorb    norm gains (and layer scales) into the maps that read (or write) them
    null      biases that nothing sees
    settle    constants that move between summed terms
    centre    the mean of what is written into, and of what reads from, a stream that norms centre
    balance   invertible and rotary spaces: equal second moments of both sides
    equalise  positive scales: equal norms of both sides

What remains to be matched is compact: permutations, signs, rotations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.gauge import Act, Lift, Offset, Push, Rescale, State, Step, Transform, rescale
from symgraph.infer.shifts import Piece
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.least_norm import least_norm


@dataclass(frozen=True, slots=True)
class Canonical:
    """A model in canonical form: its state, the transform that led there, and what is singular about it.

    `singular` names gains with a zero: the transform then has no inverse, the canonical state is still exact.
    """

    state: State
    transform: Transform
    singular: tuple[str, ...]


# A recipe reads the state when it is asked for its next step: the state has then taken all steps before.
Recipe = Callable[[SymmetryGraph, State], Iterator[Step]]


def canonicalise(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> Canonical:
    """Takes a state to its canonical form.

    Args:
        state: parameters and buffers by name; computed in their dtype, so pass float64 for exactness to 1e-9.

    Raises:
        CheckpointError: a gain has a zero where its bias has not and cannot be moved.

    Source: design section 8; balancing as the geometric mean of the Gram matrices.
    """
    found: State = dict(state)
    steps: list[Step] = []
    for recipe in (_moves, _gains, _nulls, _translations, _centres, _least_norm):
        for step in recipe(symmetry, found):
            found.update(step.apply(found))
            steps.append(step)
    singular = tuple(s.parameter for s in steps if isinstance(s, Rescale) and bool((s.factor == 0).any()))
    return Canonical(found, Transform(tuple(steps)), singular)


def _moves(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    for move in symmetry.moves:
        if move.sinks:
            yield Push(move.source, move.sinks, _constant(move.source, state))


def _nulls(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    for move in symmetry.moves:
        if not move.sinks:
            yield Push(move.source, (), _constant(move.source, state))


def _constant(piece: Piece, state: State) -> Tensor:
    return state[piece.parameter][piece.start : piece.stop].clone()


def _gains(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    for name, sites in symmetry.gain_sites.items():
        step = rescale(symmetry, sites, state[name].reshape(-1).clone())
        step.check(state)
        yield step


def _translations(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    """All means go into the first set of each family (the largest)."""
    for family in symmetry.translations:
        first, *others = family.sets
        for members in others:
            rows = [state[n].movedim(axis, -1).reshape(-1, state[n].shape[axis]) for n, axis in members]
            mean = torch.cat(rows).mean(0)
            yield from (Offset(n, axis, -mean) for n, axis in members)
            yield from (Offset(n, axis, mean) for n, axis in first)


def _centres(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    """Means along the ones direction to zero; written sides first, then reading sides."""
    for c in symmetry.centred:
        for piece in c.pieces:
            part = state[piece.parameter].narrow(piece.axis, piece.start, piece.stop - piece.start)
            yield Lift(piece, -part.mean(piece.axis))


def _least_norm(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    element = least_norm(symmetry, state)
    if element.elements:
        yield Act(element)


def gauge_free(symmetry: SymmetryGraph) -> tuple[str, ...]:
    """One line for each family that the canonical form fixes, for reports."""
    lines = [f"gain {g.parameter} absorbed into its {'readers' if g.forward else 'writers'}" for g in symmetry.gains]
    for m in symmetry.moves:
        where = ", ".join(s.bias for s in m.sinks) or "nothing sees it"
        lines.append(f"constant of {m.source.parameter}[{m.source.start}:{m.source.stop}] -> {where}")
    lines += [
        f"translation between {' and '.join(str([n for n, _ in s]) for s in t.sets)}" for t in symmetry.translations
    ]
    for c in symmetry.centred:
        what = "written into" if c.written else "read from"
        lines.append(f"mean of what is {what} frame {c.frame}: {len({p.parameter for p in c.pieces})} parameters")
    return tuple(lines)
