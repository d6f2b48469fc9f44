"""The inferred continuous symmetries as tangent vectors: one direction of parameter space for every generator.

A direction is taken in the gauge where spaces act (movable biases zero, absorbed gains one) and brought back to the
model's own gauge; all steps are affine, so that this is exact but for one derivative of a matrix exponential.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import exp, prod

import torch
from torch import Tensor

from symgraph.action import GroupElement, neutral
from symgraph.gauge import Act, Lift, Offset, Push, Rescale, State, Step, Stretch, Trade, Transform, gain_of, rescale
from symgraph.groups.classes import SymmetryClass
from symgraph.groups.elements import Element, ones_complement, rotary_matrix
from symgraph.infer.dimension import Family, piece_name, translation_name
from symgraph.infer.families import Paired, Piece, Place, Radial
from symgraph.infer.symmetry import AbsorbedGain, Space, SymmetryGraph
from symgraph.sampling import float64
from symgraph.uneven import Restate, Slant, Turn

Curve = Callable[[float], Step | Sequence[Step]]
Members = tuple[Place, ...]
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

    Source: design section 7.
    """
    clean = float64(state)
    back: list[Step] = []
    for step in _to_clean_gauge(symmetry, clean):
        clean = step.apply(clean)
        back.insert(0, step.inverse())
    home = Transform(tuple(back))
    for family, name, curves in _families(symmetry, clean):
        rows = [_direction(home, clean, curve, names) for curve in curves]
        if rows:
            yield Tangents(family, name, torch.stack(rows))


def _direction(home: Transform, clean: State, curve: Curve, names: Sequence[str]) -> Tensor:
    moved: dict[str, Tensor] = {}
    for i, weight in _STENCIL:
        found = curve(i * _STEP)
        steps = found if isinstance(found, Sequence) else (found,)
        state = Transform(tuple(steps)).apply(clean)
        for n, t in state.items():
            if t is not clean[n]:
                moved[n] = moved.get(n, 0) + (weight / _STEP) * (t - clean[n])
    zero = {n: torch.zeros_like(clean[n]) for n in _floating(clean) if n not in moved}
    arrived = home.apply({**clean, **zero, **moved}, linear=True)
    return torch.cat([arrived[n].reshape(-1) for n in names])


def _floating(state: State) -> Iterator[str]:
    return (n for n, t in state.items() if t.is_floating_point())


def _to_clean_gauge(symmetry: SymmetryGraph, state: State) -> Iterator[Push | Rescale]:
    for m in symmetry.moves:
        if m.sinks:
            yield Push(m.source, m.sinks, m.source.of(state[m.source.parameter]).clone())
    for name, sites in symmetry.gain_sites.items():
        yield rescale(symmetry, sites, gain_of(symmetry, state, name))


def _families(symmetry: SymmetryGraph, state: State) -> Iterator[tuple[Family, str, Iterator[Curve]]]:
    for space in symmetry.active:
        yield Family.SPACE, space.name, _of_space(symmetry, space)
    for name, sites in symmetry.gain_sites.items():
        yield Family.GAIN, name, _along(partial(_rescaled, symmetry, sites), [state[name].numel()])
    for m in symmetry.moves:
        family = Family.MOVE if m.sinks else Family.NULL
        curves = _along(partial(Push, m.source, m.sinks), [m.source.size])
        yield family, piece_name(symmetry, m.source), curves
    for t in symmetry.translations:
        yield Family.TRANSLATION, translation_name(t), _of_translation(t.sets, state)
    for c in symmetry.centred:
        for piece in c.pieces:
            family = Family.WRITTEN if c.written else Family.READ
            yield family, piece_name(symmetry, piece), _along(partial(Lift, piece), _others(piece, state))
    for x in symmetry.leans:
        yield Family.LEAN, piece_name(symmetry, x.reader), _along(partial(Slant, x), _others(x.reader, state))
    for tilt in symmetry.tilts:
        yield Family.TILT, tilt.bias, _along(partial(Turn, tilt), list(state[tilt.bias].shape))
    for p in symmetry.paired:
        half = [state[p.gains[0][0]].numel() // 2]
        yield Family.PAIRED, " + ".join(n for n, _ in p.gains), _along(partial(_traded, symmetry, p), half)
    for r in symmetry.radial:
        yield Family.RADIAL, " + ".join(r.tensors), iter([partial(_stretched, r)])
    for s in symmetry.statistics:
        shape = [len(s.tensors), *state[s.gain].shape]
        yield Family.STATISTICS, " + ".join(s.tensors), _along(partial(Restate, symmetry.graph, s), shape)


def _traded(symmetry: SymmetryGraph, paired: Paired, log: Tensor) -> Step:
    return Trade(symmetry, paired, log.exp())


def _stretched(radial: Radial, t: float) -> Step:
    return Stretch(radial, exp(t))


def _others(piece: Piece, state: State) -> list[int]:
    return [n for i, n in enumerate(state[piece.parameter].shape) if i != piece.axis]


def _along(make: Callable[[Tensor], Step], shape: Sequence[int]) -> Iterator[Curve]:
    for e in _units(prod(shape)):
        yield partial(_scaled, make, e.reshape(list(shape)))


def _scaled(make: Callable[[Tensor], Step], e: Tensor, t: float) -> Step:
    return make(t * e)


def _rescaled(symmetry: SymmetryGraph, sites: tuple[AbsorbedGain, ...], log: Tensor) -> Step:
    return rescale(symmetry, sites, log.exp())


def _of_translation(sets: tuple[Members, ...], state: State) -> Iterator[Curve]:
    first = sets[0]
    size = state[first[0].parameter].shape[first[0].axis]
    for others in sets[1:]:
        for e in _units(size):
            yield partial(_between, first, others, e)


def _between(first: Members, others: Members, e: Tensor, t: float) -> Sequence[Step]:
    return (*(Offset(p, t * e) for p in first), *(Offset(p, -t * e) for p in others))


def _of_space(symmetry: SymmetryGraph, space: Space) -> Iterator[Curve]:
    for position in product(*map(range, symmetry.fibre_sizes(space))):
        for a in generators(space) if space.is_matrix else ():
            yield partial(_scaled, partial(_matrix, symmetry, space, position), a)
        for k in range(space.scales):
            yield from _along(partial(_scale, symmetry, space, (k, *position)), [space.size])


def _matrix(symmetry: SymmetryGraph, space: Space, at: tuple[int, ...], log: Tensor) -> Step:
    base = neutral(symmetry, space)
    return _act(symmetry, space, Element(matrix=_with(base.matrix, at, torch.matrix_exp(log))))


def _scale(symmetry: SymmetryGraph, space: Space, at: tuple[int, ...], log: Tensor) -> Step:
    base = neutral(symmetry, space)
    return _act(symmetry, space, Element(base.index, _with(base.scale, at, log.exp()), base.sign))


def _act(symmetry: SymmetryGraph, space: Space, element: Element) -> Act:
    return Act(GroupElement(symmetry, {space.id: element}))


def _with(whole: Tensor | None, at: tuple[int, ...], part: Tensor) -> Tensor:
    changed = torch.empty(0) if whole is None else whole.clone()
    changed[at] = part
    return changed


def generators(space: Space) -> list[Tensor]:
    """A basis of the Lie algebra of a space's matrix group, without its fibre."""
    e = _units(space.size)
    if space.group is SymmetryClass.INVERTIBLE:
        return [torch.outer(a, b) for a in e for b in e]
    if space.group is SymmetryClass.ROTARY:
        return [rotary_matrix(p.reshape(-1, 2), space.layout) for p in e]
    columns = list(ones_complement(space.size).T) if space.group is SymmetryClass.ORTHOGONAL_ONES else e
    return [torch.outer(a, b) - torch.outer(b, a) for i, a in enumerate(columns) for b in columns[:i]]


def _units(n: int) -> list[Tensor]:
    return list(torch.eye(n, dtype=torch.float64))
