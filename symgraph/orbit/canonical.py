"""The canonical form: the point of least norm on the orbit of a model (design section 10; Kempf-Ness).

Each step is derived from the symmetry graph, never from module names, and keeps the function exactly:

    move      biases that can go into the biases of their readers
    absorb    norm gains (and layer scales) into the maps that read (or write) them
    lean      the mean of readers of norms whose bias stays in place
    settle    constants that nothing sees, and those that move between summed terms
    centre    the mean of what is written into, and of what reads from, a stream that norms centre
    balance   invertible and rotary spaces: equal second moments of both sides
    equalise  positive scales: equal norms of both sides
    stretch   what is divided by its own length: mean square one (in turn with the two before)

What remains to be matched is compact: permutations, signs, rotations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from symgraph.errors import shorten
from symgraph.io.ranks import current
from symgraph.io.shown import Shown
from symgraph.orbit.constant_steps import Lift, Shift
from symgraph.orbit.least_norm import STILL, Anderson, least_norm, rescaled
from symgraph.orbit.on_demand import Carried
from symgraph.orbit.owned import owners
from symgraph.orbit.settled_together import overlaps, settled_together
from symgraph.orbit.step import Step
from symgraph.orbit.steps import Act, Rescale, State, Stretch, Transform, gain_of, rescale, unit_length
from symgraph.orbit.uneven import Slant
from symgraph.symmetry.families import Constant, means
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.lengths import Radial

# Gains below this share of the largest one are as good as zero.
NEARLY = 1e-3
# Least norm and lengths take turns until neither moves, or so many times.
ROUNDS = 50
# The process that each tensor belongs to.
Homes = Mapping[str, int]


@dataclass(frozen=True, slots=True, repr=False)
class Canonical(Shown):
    """A model in canonical form: its state, the transform that led there, and what is singular about it.

    `singular` names gains with a zero: the transform then has no inverse, the canonical state is still exact.
    """

    state: State
    transform: Transform
    singular: tuple[str, ...]

    def __str__(self) -> str:
        total = sum(tensor.numel() for tensor in self.state.values())
        zero = f"; gains with a zero: {shorten(self.singular)}" if self.singular else ""
        return f"canonical form of {total:,} numbers in {len(self.state)} tensors{zero}"


def canonicalise(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> Canonical:
    """Takes a state to its canonical form.

    Args:
        state: parameters and buffers by name; computed in their dtype, so pass float64 for exactness to 1e-9. Of
            tensors that are read where they are needed, those of the canonical form are made where they are needed.

    Raises:
        CheckpointError: a gain has a zero where its bias has not and cannot be moved.

    Source: design section 10; balancing as the geometric mean of the Gram matrices.
    """
    carried, homes = Carried(state), owners(symmetry, current().count)
    steps: list[Step] = []
    # A recipe reads the state when it is asked for its next step: the state has then taken all steps before.
    for recipe in (_moves, _gains, _numbers, _leans, _moves_behind, _settled, _centres, _least_norm):
        for step in recipe(symmetry, carried, homes):
            carried.take(step)
            steps.append(step)
    # What a bias has taken up is told by the process that has the matrices beside it.
    names = carried.small()
    for name, tensor in zip(names, current().each(names, [homes[name] for name in names], carried.alone), strict=True):
        carried.know(name, tensor)
    singular = tuple(step.parameter for step in steps if isinstance(step, Rescale) and bool((step.factor == 0).any()))
    return Canonical(carried.whole(), Transform(tuple(steps)), singular)


def nearly_singular(transform: Transform) -> tuple[str, ...]:
    """Gains with entries so small beside the others that a gauge with them has hardly an inverse."""
    gains = [step for step in transform.steps if isinstance(step, Rescale)]
    return tuple(gain.parameter for gain in gains if bool((gain.factor.abs() < NEARLY * gain.factor.abs().max()).any()))


def _moves(symmetry: SymmetryGraph, state: Mapping[str, Tensor], homes: Homes) -> Iterator[Step]:
    for constant in symmetry.constants:
        if constant.moves:
            yield _shift(symmetry, constant, state, homes)


def _shift(symmetry: SymmetryGraph, constant: Constant, state: Mapping[str, Tensor], homes: Homes) -> Shift:
    home, raised = homes[constant.source.piece.parameter], symmetry.raised(state)
    return Shift(symmetry, constant, current().sent(home, lambda: -constant.source.mean(raised)))


def _gains(symmetry: SymmetryGraph, state: Mapping[str, Tensor], homes: Homes) -> Iterator[Step]:
    for name, sites in symmetry.gain_sites.items():
        step = rescale(symmetry, sites, gain_of(symmetry, state, name).clone())
        step.check(symmetry.raised(state))
        yield step


def _numbers(symmetry: SymmetryGraph, state: Mapping[str, Tensor], homes: Homes) -> Iterator[Step]:
    """Learned numbers into the maps beside them; a zero stays, since nothing could be divided by it again."""
    for radial in symmetry.radial:
        if radial.by_number:
            yield Stretch(symmetry, radial, unit_length(radial, symmetry.raised(state)))


def _leans(symmetry: SymmetryGraph, state: Mapping[str, Tensor], homes: Homes) -> Iterator[Step]:
    """The means of readers whose norm keeps its bias; where it keeps its gain, no fixed coefficient would do."""
    for lean in symmetry.leans:
        if lean.settled:
            reader = lean.plane.reader
            means = reader.of(symmetry.raised(state)[reader.parameter]).mean(reader.joint)
            yield Slant(symmetry, lean, -lean.leaning(means))


def _moves_behind(symmetry: SymmetryGraph, state: Mapping[str, Tensor], homes: Homes) -> Iterator[Step]:
    """Biases that move on, once more where leans or biases before them have gone there."""
    reached = {lean.sink for lean in symmetry.leans if lean.settled}
    for constant in symmetry.constants:
        if constant.moves and constant.source.piece.parameter in reached:
            reached |= {share.port.piece.parameter for share in constant.shares}
            yield _shift(symmetry, constant, state, homes)


def _settled(symmetry: SymmetryGraph, state: Mapping[str, Tensor], homes: Homes) -> Iterator[Step]:
    """Constants that nothing sees to zero; those that go elsewhere as they are into the places that take them."""
    for constant in symmetry.constants:
        if constant.settled and not constant.moves:
            yield _shift(symmetry, constant, state, homes)
    found = overlaps(symmetry)
    if found:
        home = homes[found[0].constant.source.piece.parameter]
        amounts = current().sent(home, partial(settled_together, symmetry, found, state))
        yield from (Shift(symmetry, overlap.constant, amount) for overlap, amount in zip(found, amounts, strict=True))


def _centres(symmetry: SymmetryGraph, state: Mapping[str, Tensor], homes: Homes) -> Iterator[Step]:
    """Means along the ones direction to zero; written sides first, then reading sides."""
    places = [(piece, centred.frame) for centred in symmetry.centred for piece in centred.pieces]
    names = list(dict.fromkeys(piece.parameter for piece, _ in places))

    def lifts(name: str) -> list[Tensor]:
        """What is added to a tensor, which a stream may stand on more than once."""
        held, lifted = {name: symmetry.raised(state)[name]}, list[Lift]()
        for piece, frame in (place for place in places if place[0].parameter == name):
            held = lifted[-1].act(held) if lifted else held
            lifted.append(Lift(symmetry, piece, frame, -means(piece, frame, held[name])))
        return [lift.constant for lift in lifted]

    of_each = current().each(names, [homes[name] for name in names], lifts)
    following = {name: iter(constants) for name, constants in zip(names, of_each, strict=True)}
    for piece, frame in places:
        yield Lift(symmetry, piece, frame, next(following[piece.parameter]))


def _least_norm(symmetry: SymmetryGraph, state: Mapping[str, Tensor], homes: Homes) -> Iterator[Step]:
    """Least norm and unit lengths, in turn where what has a length is balanced against what has none.

    There one is met where both hold, whatever the lengths were: log |W g|^2 is convex in the logarithms of scales.
    """
    radials = [radial for radial in symmetry.radial if not radial.by_number]
    beside, accelerator = rescaled(symmetry, state), Anderson()
    held = {radial: {own for name in radial.tensors for own in symmetry.reading.stored(name)} for radial in radials}
    several = Counter(name for own in held.values() for name in own)
    tied = [own for own in radials if any(name in beside or several[name] > 1 for name in held[own])]
    yield from _balanced(symmetry, state, homes, None)
    yield from (Stretch(symmetry, radial, _length(symmetry, radial, state, homes)) for radial in radials)
    for _ in range(ROUNDS if tied else 0):
        yield from _balanced(symmetry, state, homes, set().union(*(held[radial] for radial in tied)))
        factors = [_length(symmetry, radial, state, homes) for radial in tied]
        yield from map(partial(Stretch, symmetry), tied, factors)
        logs = {number: factor.log() for number, factor in enumerate(factors)}
        raised = symmetry.raised(state)
        if all(_is_still(log, raised[radial.tensors[0]]) for log, radial in zip(logs.values(), tied, strict=True)):
            return
        yield from (Stretch(symmetry, tied[number], jump.exp()) for number, jump in accelerator.step(logs).items())


def _balanced(
    symmetry: SymmetryGraph, state: Mapping[str, Tensor], homes: Homes, near: Collection[str] | None
) -> Iterator[Step]:
    element = least_norm(symmetry, state, homes, near)
    if element.elements:
        yield Act(element)


def _length(symmetry: SymmetryGraph, radial: Radial, state: Mapping[str, Tensor], homes: Homes) -> Tensor:
    return current().sent(homes[radial.tensors[0]], partial(unit_length, radial, symmetry.raised(state)))


def _is_still(log: Tensor, like: Tensor) -> bool:
    return float(log.abs().max()) <= STILL * torch.finfo(like.dtype).eps
