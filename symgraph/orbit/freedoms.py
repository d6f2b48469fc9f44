"""The continuous freedoms that have no space: each as coordinates, zero for the identity, and the steps they stand for.

Verification draws the coordinates at random, the audit takes derivatives along them. They are symmetries in the clean
gauge, where spaces act: movable constants zero, absorbed gains one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod

from torch import Tensor

from symgraph.orbit.constant_steps import Lift, Shift
from symgraph.orbit.norm_call import NormCall
from symgraph.orbit.overlooked_writers import Aside
from symgraph.orbit.shearing import Sheared
from symgraph.orbit.spectral_gains import Isospectral
from symgraph.orbit.step import Step
from symgraph.orbit.steps import State, Stretch, Transform, gain_of, rescale
from symgraph.orbit.thin_readers import Widened
from symgraph.orbit.uneven import Restate, Slant
from symgraph.orbit.updated import Updated
from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.dimension import (
    Family,
    constant_name,
    factor_family,
    family_of,
    lean_name,
    piece_name,
    port_name,
    shear_name,
    update_name,
)
from symgraph.symmetry.families import Spectral, sides
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.thin import Thin
from symgraph.tracing.sampling import float64

Steps = tuple[Step, ...]
LOGARITHM = 0.3


@dataclass(frozen=True, slots=True)
class Freedom:
    """One freedom: `steps` of coordinates of this `shape`, of which `size` is a moderate one.

    `label` is shared by what is verified together. `settled` says that the canonical form takes it out; `positive` that
    large negative coordinates leave the domain.
    """

    family: Family
    name: str
    label: str
    shape: tuple[int, ...]
    steps: Callable[[Tensor], Steps]
    size: float = 1.0
    settled: bool = True
    positive: bool = False


def to_clean_gauge(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> tuple[Transform, State]:
    """The steps to the clean gauge, and the state there, in float64."""
    clean = float64(state)
    steps: list[Step] = []
    for step in _taken_out(symmetry, clean):
        clean.update(step.apply(clean))
        steps.append(step)
    return Transform(tuple(steps)), clean


def _taken_out(symmetry: SymmetryGraph, state: State) -> Iterator[Step]:
    for constant in symmetry.constants:
        if constant.moves:
            yield Shift(symmetry, constant, -constant.source.mean(symmetry.raised(state)))
    for name, sites in symmetry.gain_sites.items():
        yield rescale(symmetry, sites, gain_of(symmetry, state, name))


def freedoms(symmetry: SymmetryGraph) -> Iterator[Freedom]:
    """Every freedom; those that lead out of the clean gauge come last, so that all can be taken one after the other."""
    yield from _constants(symmetry, moving=False)
    yield from _means(symmetry)
    yield from _around_norms(symmetry)
    yield from _factors(symmetry)
    yield from _constants(symmetry, moving=True)
    for name, sites in symmetry.gain_sites.items():
        make = partial(rescale, symmetry, sites)
        yield Freedom(Family.GAIN, name, f"gain {name}", _shape(symmetry, name), _factor(make), LOGARITHM)


def _alone(make: Callable[[Tensor], Step]) -> Callable[[Tensor], Steps]:
    return lambda direction: (make(direction),)


def _factor(make: Callable[[Tensor], Step]) -> Callable[[Tensor], Steps]:
    """Coordinates are logarithms."""
    return lambda log: (make(log.exp()),)


def _shape(symmetry: SymmetryGraph, name: str) -> tuple[int, ...]:
    return (prod(symmetry.shapes[name]),)


def _beside(symmetry: SymmetryGraph, piece: Piece) -> tuple[int, ...]:
    """The shape of a constant along the piece's axis."""
    return tuple(size for dim, size in enumerate(symmetry.shapes[piece.parameter]) if dim != piece.axis)


def _multiples(symmetry: SymmetryGraph, piece: Piece, frame: int) -> tuple[int, ...]:
    """The shape of the multiples of ones along a frame of the piece."""
    other, shape = prod(sides(piece, frame)), symmetry.shapes[piece.parameter]
    before, behind = (
        [axis for axis in piece.across(len(shape)) if (axis < piece.axis) == first] for first in (True, False)
    )
    several = (other,) if other > 1 else ()
    return *(shape[axis] for axis in before), *several, *(shape[axis] for axis in behind)


def _across_thin(symmetry: SymmetryGraph, thin: Thin) -> tuple[int, ...]:
    """The shape of what a reader of a thin stream may have along the directions in which this never varies."""
    return *_beside(symmetry, thin.reader), thin.number(symmetry.shapes[thin.writer.parameter])


def _constants(symmetry: SymmetryGraph, *, moving: bool) -> Iterator[Freedom]:
    for constant in symmetry.constants:
        if constant.moves == moving:
            name, shape = constant_name(symmetry, constant), constant.shape
            label = f"constant {port_name(symmetry, constant.source)}"
            size = 1.0 if constant.settled else LOGARITHM
            yield Freedom(
                family_of(constant),
                name,
                label,
                shape,
                _alone(partial(Shift, symmetry, constant)),
                size,
                constant.settled,
            )


def _means(symmetry: SymmetryGraph) -> Iterator[Freedom]:
    for centred in symmetry.centred:
        family, word = (Family.WRITTEN, "written") if centred.written else (Family.READ, "read")
        for piece in centred.pieces:
            name, shape = piece_name(symmetry, piece), _multiples(symmetry, piece, centred.frame)
            make = _alone(partial(Lift, symmetry, piece, centred.frame))
            yield Freedom(family, name, f"mean of {word} frame {centred.frame}", shape, make)


def _around_norms(symmetry: SymmetryGraph) -> Iterator[Freedom]:
    """Freedoms whose steps depend on the parameters around them."""
    for lean in symmetry.leans:
        name, shape = (
            lean_name(symmetry, lean),
            _beside(symmetry, lean.plane.reader) if lean.rows is None else (lean.rows.size,),
        )
        yield Freedom(
            Family.LEAN, name, f"lean of {name}", shape, _alone(partial(Slant, symmetry, lean)), settled=lean.settled
        )
    for thin in symmetry.thin:
        name, shape = piece_name(symmetry, thin.reader), _across_thin(symmetry, thin)
        make = _alone(partial(Widened, symmetry, thin))
        yield Freedom(Family.THIN, name, f"thin stream of {name}", shape, make, settled=False)
    for overlooked in symmetry.overlooked:
        name = piece_name(symmetry, overlooked.writer)
        shape = *_beside(symmetry, overlooked.writer), overlooked.number(symmetry.shapes)
        make = _alone(partial(Aside, symmetry, overlooked))
        yield Freedom(Family.OVERLOOKED, name, f"overlooked part of {name}", shape, make, settled=False)
    for sheared in symmetry.shears:
        name, shape = shear_name(symmetry, sheared), () if sheared.single else (sheared.size,)
        make = _alone(partial(Sheared, symmetry, sheared))
        yield Freedom(Family.SHEAR, name, f"shear of {name}", shape, make, LOGARITHM, settled=False)
    for gains in symmetry.spectral:
        yield Freedom(
            Family.SPECTRAL, gains.gain, f"spectrum of {gains.gain}", (), partial(_spun, symmetry, gains), settled=False
        )
    for update in symmetry.updates:
        name, shape = update_name(update), (sum(prod(symmetry.shapes[free]) for free in update.free),)
        make = _alone(partial(Updated, symmetry, update))
        yield Freedom(Family.UPDATE, name, f"update by {name}", shape, make, LOGARITHM, settled=False)
    for statistics in symmetry.statistics:
        name, shape = " + ".join(statistics.tensors), (len(statistics.tensors), *_shape(symmetry, statistics.gain))
        label, norm = f"statistics of {statistics.node}", NormCall(symmetry.graph, statistics)
        make = _alone(partial(Restate, symmetry, norm))
        yield Freedom(Family.STATISTICS, name, label, shape, make, LOGARITHM, settled=False, positive=True)


def _factors(symmetry: SymmetryGraph) -> Iterator[Freedom]:
    for radial in symmetry.radial:
        name, label = radial.name, f"length of {radial.tensors[0]}"
        make = _factor(partial(Stretch, symmetry, radial))
        yield Freedom(factor_family(radial), name, label, radial.shape, make, LOGARITHM)


def _spun(symmetry: SymmetryGraph, spectral: Spectral, amount: Tensor) -> Steps:
    return (Isospectral(symmetry, spectral, float(amount)),)
