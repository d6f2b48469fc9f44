"""The inferred continuous symmetries as tangent vectors: one direction of parameter space for every generator.

A direction is taken in the gauge where spaces act (movable biases zero, absorbed gains one) and brought back to the
model's own gauge; all steps are affine, so that this is exact but for one derivative of a matrix exponential. Where a
positive function that is no exponential is read of a parameter, they are not: the derivative is taken at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod

import torch
from torch import Tensor

from symgraph.groups.elements import Element
from symgraph.orbit.action import GroupElement, neutral
from symgraph.orbit.freedoms import freedoms, to_clean_gauge
from symgraph.orbit.step import Step
from symgraph.orbit.steps import Act, State, Transform
from symgraph.symmetry.dimension import Family
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space

Curve = Callable[[float], Sequence[Step]]
# A central difference of fourth order: curves that are not affine are exponentials of unit generators.
_STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))
_STEP = 2e-3


@dataclass(frozen=True, slots=True)
class Tangents:
    """The directions of one family: `vectors` has one row for each generator.

    Shapes: vectors (generators, numbers of all tensors in the order of `names` given to `tangents`).
    """

    family: Family
    name: str
    vectors: Tensor


def tangents(symmetry: SymmetryGraph, state: Mapping[str, Tensor], names: Sequence[str]) -> Iterator[Tangents]:
    """Every inferred family's directions at a point of parameter space.

    Args:
        state: parameters and buffers; computed in float64.
        names: the tensors whose numbers make up a vector, in order.

    Raises:
        SymgraphError: a gain is zero, so that the point lies on no regular orbit.

    Source: design section 9.
    """
    out, clean = to_clean_gauge(symmetry, state)
    home = out.inverse()
    arrive = _through if any(offset.curved for offset in symmetry.offsets.values()) else _pushed
    for family, name, curves in _families(symmetry):
        rows = [arrive(home, clean, curve, names) for curve in curves]
        if rows:
            yield Tangents(family, name, torch.stack(rows))


def _through(home: Transform, clean: State, curve: Curve, names: Sequence[str]) -> Tensor:
    """The same where what is stored is no affine function of what moves: the curve itself is brought back."""
    arrived = torch.zeros(sum(clean[name].numel() for name in names), dtype=torch.float64)
    for place, weight in _STENCIL:
        state = home.apply(Transform(tuple(curve(place * _STEP))).apply(clean))
        arrived += (weight / _STEP) * torch.cat([state[name].reshape(-1).double() for name in names])
    return arrived


def _pushed(home: Transform, clean: State, curve: Curve, names: Sequence[str]) -> Tensor:
    moved: dict[str, Tensor] = {}
    for place, weight in _STENCIL:
        state = Transform(tuple(curve(place * _STEP))).apply(clean)
        for name, tensor in state.items():
            # Masks that an order moves stay as they are along a curve.
            if tensor is not clean[name] and (tensor.is_floating_point() or tensor.is_complex()):
                moved[name] = moved.get(name, 0) + (weight / _STEP) * (tensor - clean[name])
    zero = {name: torch.zeros_like(clean[name]) for name in _floating(clean) if name not in moved}
    arrived = home.apply({**clean, **zero, **moved}, linear=True)
    return torch.cat([arrived[name].reshape(-1) for name in names])


def _floating(state: State) -> Iterator[str]:
    return (name for name, tensor in state.items() if tensor.is_floating_point())


def _families(symmetry: SymmetryGraph) -> Iterator[tuple[Family, str, Iterator[Curve]]]:
    for space in symmetry.active:
        yield Family.SPACE, space.name, _of_space(symmetry, space)
    for freedom in freedoms(symmetry):
        yield freedom.family, freedom.name, _along(freedom.steps, freedom.shape)


def _along(make: Callable[[Tensor], Sequence[Step]], shape: Sequence[int]) -> Iterator[Curve]:
    for unit in _units(prod(shape)):
        yield partial(_scaled, make, unit.reshape(list(shape)))


def _scaled(make: Callable[[Tensor], Sequence[Step]], direction: Tensor, length: float) -> Sequence[Step]:
    return make(length * direction)


def _of_space(symmetry: SymmetryGraph, space: Space) -> Iterator[Curve]:
    generators = space.maps.generators(symmetry.index_set(space))
    for position in product(*map(range, symmetry.fibre_sizes(space))):
        for generator in generators if space.is_matrix else ():
            yield partial(_scaled, partial(_matrix, symmetry, space, position), generator)
        for number, generator in product(range(space.scales), generators):
            yield partial(_scaled, partial(_scale, symmetry, space, (number, *position)), generator.diagonal())


def _matrix(symmetry: SymmetryGraph, space: Space, at: tuple[int, ...], log: Tensor) -> Sequence[Step]:
    base = neutral(symmetry, space)
    return _act(symmetry, space, Element(matrix=_with(base.matrix, at, torch.matrix_exp(log))))


def _scale(symmetry: SymmetryGraph, space: Space, at: tuple[int, ...], log: Tensor) -> Sequence[Step]:
    base = neutral(symmetry, space)
    return _act(symmetry, space, Element(base.index, _with(base.scale, at, log.exp()), base.sign))


def _act(symmetry: SymmetryGraph, space: Space, element: Element) -> Sequence[Step]:
    return (Act(GroupElement(symmetry, {space.id: element})),)


def _with(whole: Tensor | None, at: tuple[int, ...], part: Tensor) -> Tensor:
    changed = torch.empty(0) if whole is None else whole.clone()
    changed[at] = part
    return changed


def _units(size: int) -> list[Tensor]:
    return list(torch.eye(size, dtype=torch.float64))
