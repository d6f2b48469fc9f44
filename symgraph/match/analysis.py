"""What an alignment did, in figures: per parameter, per space and per unit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from symgraph.groups.elements import Element
from symgraph.io.sums import square
from symgraph.match.barrier_by_space import BySpace
from symgraph.match.confidence import Confidence, confidences
from symgraph.match.pair_basis import PairBasis
from symgraph.match.tensor_weights import parameter_weights, tensor_weights
from symgraph.measure.result import LossBarrier
from symgraph.orbit.steps import State
from symgraph.orbit.tensor_blocks import blocks
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.present import group_text, kind
from symgraph.symmetry.structure import Space

Plain = dict[str, Any]
# Units of a space that are listed, those with the smallest gap first.
LISTED = 10
# Degrees and cosines that one bar of a histogram stands for.
ANGLE_STEP, GAP_STEP = 5.0, 0.05
# A matrix is a rotation up to this; of another one the rotation that is nearest is looked at.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a histogram."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class TensorFigures:
    """A parameter of both models: distances in canonical form over the norm of A's, before and after.

    `share`: of what the match leaves of the squared distance, as it weighs it. `growth`: the norm of B's tensor as it
    is used over that as it was; None where it was zero.
    """

    name: str
    shape: tuple[int, ...]
    before: float
    after: float
    share: float
    growth: float | None


@dataclass(frozen=True, slots=True)
class Doubtful:
    """A unit that hardly differs from the next best: places and units as positions of outer spaces, then its own."""

    place: tuple[int, ...]
    unit: tuple[int, ...]
    other: tuple[int, ...]
    cosine: float
    second: float
    gap: float


@dataclass(frozen=True, slots=True)
class Assigned:
    """The assignment of a space: how many units there are, how many changed place or sign, and how sure that is."""

    units: int
    moved: int
    flipped: int
    median: float
    least: float
    doubtful: tuple[Doubtful, ...]
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Turned:
    """The principal angles of the rotations of a space, in degrees; `nearest`: of the rotation that is nearest."""

    matrices: int
    median: float
    largest: float
    bars: tuple[Bar, ...]
    nearest: bool


@dataclass(frozen=True, slots=True)
class SpaceFigures:
    """A space: distances of all that stands on it over the norm of A's, weighed as the match does, and what it did."""

    name: str
    group: str
    kind: str
    size: int
    before: float
    after: float
    assigned: Assigned | None
    turned: Turned | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """What an alignment did. `barriers` and `by_space` are there if there was data."""

    parameters: tuple[TensorFigures, ...]
    spaces: tuple[SpaceFigures, ...]
    barriers: Mapping[str, LossBarrier]
    by_space: BySpace | None = None

    def to_plain(self) -> Plain:
        """Everything as plain data, without the curves."""
        return {
            "parameters": [asdict(parameter) for parameter in self.parameters],
            "spaces": [asdict(space) for space in self.spaces],
            "by_space": None if self.by_space is None else carried_plain(self.by_space),
        }


def carried_plain(found: BySpace) -> Plain:
    """The loss barrier with all spaces aligned, and with each left as it was."""
    aligned = found.aligned
    return {
        "lambdas": list(aligned.lambdas),
        "barrier": aligned.barrier,
        "standard_error": aligned.standard_error,
        "spaces": [
            {"space": space.space, "barrier": space.measured.barrier, "standard_error": space.measured.standard_error}
            for space in found.spaces
        ],
    }


def figures(
    basis: PairBasis, growth: Mapping[str, float]
) -> tuple[tuple[TensorFigures, ...], tuple[SpaceFigures, ...]]:
    """The figures of all parameters and of all spaces on which more than the identity acts."""
    first, second = basis.before(0), basis.before(1)
    moved = (basis.after(0) if basis.basis[0].steps else first, basis.after(1))
    symmetry = basis.symmetry
    names = [name for name in first if name in second]
    four = [{name: state[name] for name in names} for state in (first, second, *moved)]
    each = tensor_weights(symmetry, basis.weighting, *four[:2])
    parameters = _tensors(names, list(map(symmetry.raised, four)), each, growth)
    acting = list(map(symmetry.acting, four))
    weights = parameter_weights(symmetry, basis.weighting, *acting[:2])
    sums = _sums(symmetry, acting, weights)
    sure = {confidence.space.id: confidence for confidence in confidences(symmetry, *moved, weights)}
    spaces = (_space(basis, space, sums[space.id], sure.get(space.id)) for space in symmetry.active if space.id in sums)
    return parameters, tuple(spaces)


# -- distances ---------------------------------------------------------------------------------------------------------


def _tensors(
    names: Sequence[str],
    four: Sequence[Mapping[str, Tensor]],
    weights: Mapping[str, float],
    growth: Mapping[str, float],
) -> tuple[TensorFigures, ...]:
    squares = {name: _Squares.of([state[name] for state in four]) for name in names}
    total = sum(weights[name] * own.after for name, own in squares.items()) or 1.0
    return tuple(
        TensorFigures(
            name,
            tuple(four[0][name].shape),
            *own.distances(),
            weights[name] * own.after / total,
            growth.get(name),
        )
        for name, own in squares.items()
    )


@dataclass(frozen=True, slots=True)
class _Squares:
    """|A - B|^2 before and after, and |A|^2."""

    before: float = 0.0
    after: float = 0.0
    size: float = 0.0

    @staticmethod
    def of(tensors: Sequence[Tensor]) -> _Squares:
        """Those of a tensor of A and of B, before and after."""
        a, b, a_after, b_after = tensors
        return _Squares(square(a - b), square(a_after - b_after), square(a))

    def plus(self, other: _Squares, weight: float) -> _Squares:
        """The sum with others, weighed."""
        return _Squares(
            self.before + weight * other.before, self.after + weight * other.after, self.size + weight * other.size
        )

    def distances(self) -> tuple[float, float]:
        """Both distances over the norm of A; of what is zero in A, 0 where it is zero in B."""
        return _relative(self.before, self.size), _relative(self.after, self.size)


def _relative(distance: float, size: float) -> float:
    """A distance over a norm, both squared."""
    return math.sqrt(distance / size) if size > 0 else (math.inf if distance > 0 else 0.0)


def _sums(symmetry: SymmetryGraph, four: Sequence[State], weights: Mapping[str, float]) -> dict[int, _Squares]:
    """The squares of all that stands on each space, weighed."""
    found: dict[int, _Squares] = {}
    for name in four[0]:
        for block in blocks(name, [state[name] for state in four], symmetry.acting_terms[name]):
            squares = _Squares.of(block.tensors)
            for space in block.spaces():
                found[space] = found.get(space, _Squares()).plus(squares, weights[name])
    return found


# -- spaces ------------------------------------------------------------------------------------------------------------


def _space(basis: PairBasis, space: Space, squares: _Squares, sure: Confidence | None) -> SpaceFigures:
    element = basis.element.elements.get(space.id)
    turned = None if element is None or element.matrix is None else _turned(element.matrix)
    return SpaceFigures(
        space.name,
        group_text(space),
        kind(space.maps),
        space.size,
        *squares.distances(),
        None if sure is None else _assigned(basis, sure, element),
        turned,
    )


def _assigned(basis: PairBasis, sure: Confidence, element: Element | None) -> Assigned:
    gaps = sure.gaps
    index, signs = (None, None) if element is None else (element.index, element.sign)
    order = gaps.flatten().argsort()[:LISTED].tolist()
    return Assigned(
        units=gaps.numel(),
        moved=0 if index is None else int((index != torch.arange(sure.space.size, device=index.device)).sum()),
        flipped=0 if signs is None else int((signs < 0).sum()),
        median=float(gaps.median()),
        least=float(gaps.min()),
        doubtful=tuple(_doubtful(basis, sure, at) for at in order),
        bars=_bars(gaps.flatten(), GAP_STEP),
    )


def _doubtful(basis: PairBasis, sure: Confidence, at: int) -> Doubtful:
    row, place = divmod(at, sure.space.size)
    outer = _positions(basis, sure.space, row)
    cosine, second = float(sure.matched[row, place]), float(sure.second[row, place])
    places = (place, int(sure.other[row, place]))
    unit, other = (tuple(_origin(basis, sure.space, (*outer, own))) for own in places)
    return Doubtful((*outer, place), unit, other, cosine, second, cosine - second)


def _path(basis: PairBasis, space: Space) -> list[Space]:
    """The active spaces that a space is fibred over, outer ones first."""
    active = {space.id for space in basis.symmetry.active}
    return [basis.symmetry.spaces[outer] for outer in space.fibre if outer in active]


def _positions(basis: PairBasis, space: Space, row: int) -> tuple[int, ...]:
    found: list[int] = []
    for outer in reversed(_path(basis, space)):
        row, position = divmod(row, outer.size)
        found.insert(0, position)
    return tuple(found)


def _origin(basis: PairBasis, space: Space, place: tuple[int, ...]) -> Iterator[int]:
    """Where in B, as it was, a unit comes from that stands at a place now."""
    placed = list(zip([*_path(basis, space), space], place, strict=True))
    known = {one.id: position for one, position in placed}
    for one, position in placed:
        element = basis.element.elements.get(one.id)
        if element is None or element.index is None:
            yield position
            continue
        # What is fibred over rigid spaces is the same at all of their positions.
        around = tuple(known.get(outer, 0) for outer in one.fibre)
        yield int(element.index[(*around, position)])


def _turned(matrix: Tensor) -> Turned:
    maps = matrix.double().reshape(-1, *matrix.shape[-2:])
    eye = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    nearest = bool((maps @ maps.mT - eye).abs().max() > ROUNDING)
    if nearest:
        left, _, right = torch.linalg.svd(maps)
        maps = left @ right
    # The eigenvalues of a rotation are exp(+-i angle); those of its symmetric part are the cosines.
    angles = torch.linalg.eigvalsh((maps + maps.mT) / 2).clamp(-1, 1).arccos().rad2deg().flatten()
    bars = _bars(angles, ANGLE_STEP, 0.0, 180.0)
    return Turned(len(maps), float(angles.median()), float(angles.max()), bars, nearest)


def _bars(values: Tensor, step: float, low: float | None = None, high: float | None = None) -> tuple[Bar, ...]:
    """A histogram by edges at multiples of a step."""
    first = math.floor((float(values.min()) if low is None else low) / step + 1e-9)
    last = max(math.ceil((float(values.max()) if high is None else high) / step - 1e-9), first + 1)
    edges = [round(number * step, 9) for number in range(first, last + 1)]
    places = ((values.double().cpu() / step).floor().long() - first).clamp(0, len(edges) - 2)
    counts = torch.bincount(places, minlength=len(edges) - 1).tolist()
    return tuple(Bar(*ends, count) for ends, count in zip(pairwise(edges), counts, strict=True))
