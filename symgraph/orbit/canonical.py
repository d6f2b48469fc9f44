"""The canonical form: the point of least norm on the orbit of a model (design section 10; Kempf-Ness).

Each step is derived from the symmetry graph, never from module names, and keeps the function exactly:

    move      biases that can go into the biases of their readers
    absorb    norm gains (and layer scales) into the maps that read (or write) them
    null      biases that nothing sees
    settle    constants that move between summed terms
    centre    the mean of what is written into, and of what reads from, a stream that norms centre
    lean      the same for readers of norms whose bias stays in place
    balance   invertible and rotary spaces: equal second moments of both sides
    equalise  positive scales: equal norms of both sides
    stretch   what is divided by its own length: mean square one

What remains to be matched is compact: permutations, signs, rotations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symgraph.orbit.constant_steps import Lift, Offset, Push, window
from symgraph.orbit.least_norm import least_norm
from symgraph.orbit.step import Step
from symgraph.orbit.steps import Act, Rescale, State, Stretch, Transform, gain_of, rescale, unit_length
from symgraph.orbit.uneven import Slant
from symgraph.symmetry.families import Piece, Place
from symgraph.symmetry.graph import SymmetryGraph

# Gains below this share of the largest one are as good as zero.
NEARLY = 1e-3


@dataclass(frozen=True, slots=True)
class Canonical:
    """A model in canonical form: its state, the transform that led there, and what is singular about it.

    `singular` names gains with a zero: the transform then has no inverse, the canonical state is still exact.
    """

    state: State
    transform: Transform
    singular: tuple[str, ...]


def canonicalise(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> Canonical:
    """Takes a state to its canonical form.

    Args:
        state: parameters and buffers by name; computed in their dtype, so pass float64 for exactness to 1e-9.

    Raises:
        CheckpointError: a gain has a zero where its bias has not and cannot be moved.

    Source: design section 10; balancing as the geometric mean of the Gram matrices.
    """
    found: State = dict(state)
    steps: list[Step] = []
    # What a translation gathers in a movable bias goes on with it; what arrives in a bias may be translated again.
    settling = (_translations, _moves, _gains, _nulls, _translations)
    # A recipe reads the state when it is asked for its next step: the state has then taken all steps before.
    for recipe in (*settling, _centres, _leans, _least_norm, _lengths):
        for step in recipe(symmetry, found):
            found.update(step.apply(found))
            steps.append(step)
    singular = tuple(s.parameter for s in steps if isinstance(s, Rescale) and bool((s.factor == 0).any()))
    return Canonical(found, Transform(tuple(steps)), singular)


def nearly_singular(transform: Transform) -> tuple[str, ...]:
    """Gains with entries so small beside the others that a gauge with them has hardly an inverse."""
    gains = [s for s in transform.steps if isinstance(s, Rescale)]
    return tuple(s.parameter for s in gains if bool((s.factor.abs() < NEARLY * s.factor.abs().max()).any()))


def _moves(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    for move in symmetry.moves:
        if move.sinks:
            yield Push(move.source, move.sinks, _constant(move.source, state))


def _nulls(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    for move in symmetry.moves:
        if not move.sinks:
            yield Push(move.source, (), _constant(move.source, state))


def _constant(piece: Piece, state: State) -> Tensor:
    return piece.of(state[piece.parameter]).clone()


def _gains(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    for name, sites in symmetry.gain_sites.items():
        step = rescale(symmetry, sites, gain_of(symmetry, state, name).clone())
        step.check(state)
        yield step


def _translations(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    """All means go into one set of each family: a bias that can move on, or what no other family settles again."""
    movable = {m.source.parameter for m in symmetry.moves}
    families = Counter(p.parameter for t in symmetry.translations for p in {x for s in t.sets for x in s})

    def rank(places: tuple[Place, ...]) -> tuple[bool, bool, int]:
        fixed = len(places) > 1 or places[0].parameter not in movable
        return fixed, any(p.window for p in places), max(families[p.parameter] for p in places)

    for family in symmetry.translations:
        sets = sorted(family.sets, key=rank)
        means = [torch.cat([p.factor * _rows(p, state) for p in members]).mean(0) for members in sets]
        # Branches that can change places must not be told apart by which of them has the mean.
        takers = sum(_alike(symmetry, members) == _alike(symmetry, sets[0]) for members in sets)
        share = torch.stack(means).sum(0) / takers
        for members, mean in zip(sets, means, strict=True):
            takes = _alike(symmetry, members) == _alike(symmetry, sets[0])
            yield from (Offset(p, (share - mean if takes else -mean) / p.factor) for p in members)


def _alike(symmetry: SymmetryGraph, places: tuple[Place, ...]) -> set[Place]:
    """The places as those of the first branch, equal for sets that an exchange of branches takes into each other."""
    first = {p: symmetry.stack_of[p.parameter].members[0] for p in places if p.parameter in symmetry.stack_of}
    return {replace(p, parameter=first.get(p, p.parameter)) for p in places}


def _rows(place: Place, state: State) -> Tensor:
    part = window(state[place.parameter], place).movedim(place.axis, -1)
    return part.reshape(-1, part.shape[-1])


def _centres(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    """Means along the ones direction to zero; written sides first, then reading sides."""
    for c in symmetry.centred:
        for piece in c.pieces:
            yield Lift(piece, -piece.of(state[piece.parameter]).mean(piece.axis))


def _leans(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    """The means of readers whose norm keeps its bias; where it keeps its gain, no fixed coefficient would do."""
    for lean in symmetry.leans:
        if lean.settled:
            means = lean.reader.of(state[lean.reader.parameter]).mean(lean.reader.axis)
            yield Slant(lean, -means if lean.rows is None else -means[lean.rows.entries()])


def _least_norm(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    element = least_norm(symmetry, state)
    if element.elements:
        yield Act(element)


def _lengths(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    for radial in symmetry.radial:
        yield Stretch(radial, unit_length(radial, state))
