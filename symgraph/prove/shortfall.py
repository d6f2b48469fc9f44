"""What the kernel of a Jacobian has beyond the inferred directions, in words: where it lives and what it looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from symgraph.orbit.tensor_blocks import on_blocks, spread
from symgraph.prove.jacobian import singular
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Leaf
from symgraph.tracing.sampling import State

# Of the cosine of an angle: the angle itself may be ten thousand times as large.
_TOLERANCE = 1e-8
_SHARE = 0.02
_SHOWN = 6
# Larger spaces would need more rotations than there are rows to test them with.
_WIDEST = 64


@dataclass(frozen=True, slots=True)
class Shortfall:
    """So many missing directions of one kind, and the parameters that move most in them."""

    kind: str
    number: int
    places: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(self.places[:_SHOWN])
        more = len(self.places) - _SHOWN
        return f"{self.number} x {self.kind} in {shown}{f' and {more} more' if more > 0 else ''}"


@dataclass(frozen=True, slots=True)
class Space:
    """The space that directions live in: `names` in order, `live` the numbers that count."""

    symmetry: SymmetryGraph
    state: State
    names: list[str]
    live: Tensor


def describe(space: Space, kernel: Tensor, known: Tensor) -> tuple[Shortfall, ...]:
    """The directions of the kernel outside `known`, by the first hypothesis that explains them.

    Shapes: kernel and known have orthonormal rows over the live numbers.
    """
    if len(kernel) <= len(known):
        return ()
    shortfalls: list[Shortfall] = []
    for kind, hypotheses in _HYPOTHESES.items():
        for basis in hypotheses(space):
            if len(known) == len(kernel):
                return tuple(shortfalls)
            new, known = _beyond(solutions(kernel, basis), known)
            if len(new):
                shortfalls.append(Shortfall(kind, len(new), _places(space, new)))
    new, _ = _beyond(kernel, known)
    if len(new):
        shortfalls.append(Shortfall("other", len(new), _places(space, new)))
    return tuple(_merged(shortfalls))


def _merged(shortfalls: list[Shortfall]) -> Iterator[Shortfall]:
    """Shortfalls of one kind as one where they have a place each (a bias in every layer)."""
    kinds: dict[str, list[Shortfall]] = {}
    for shortfall in shortfalls:
        kinds.setdefault(shortfall.kind, []).append(shortfall)
    for kind, several in kinds.items():
        places = dict.fromkeys(place for shortfall in several for place in shortfall.places)
        yield Shortfall(kind, sum(shortfall.number for shortfall in several), tuple(places))


def solutions(kernel: Tensor, basis: Tensor) -> Tensor:
    """The combinations of the basis that lie in the kernel: the principal vectors at angle zero.

    Shapes: basis (directions, numbers), of any rank.
    """
    lengths = basis.norm(dim=1)
    basis = basis[lengths > 0] / lengths[lengths > 0, None]
    if not len(basis):
        return basis
    _, values, plain = singular(basis)
    plain = plain[values > 1e-9 * values[0]]
    _, cosines, vectors = singular(kernel @ plain.T)
    solutions: Tensor = vectors[cosines > 1 - _TOLERANCE] @ plain
    return solutions


def _beyond(vectors: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """What is outside the known span, as an orthonormal basis, and both together."""
    left = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-300)
    left = left - (left @ known.T) @ known
    if not len(left):
        return left, known
    _, values, rows = singular(left)
    new = rows[values > 1e-5]
    return new, torch.cat([known, new])


def _places(space: Space, vectors: Tensor) -> tuple[str, ...]:
    """Tensors by their share of the directions' squared length, largest first."""
    whole = torch.zeros(len(space.live), dtype=torch.float64)
    whole[space.live] = vectors.square().sum(0) / len(vectors)
    shares = {name: float(whole[start:stop].sum()) for name, start, stop in _ranges(space)}
    return tuple(name for name, share in sorted(shares.items(), key=lambda pair: -pair[1]) if share > _SHARE)


def _ranges(space: Space) -> Iterator[tuple[str, int, int]]:
    sizes = [space.state[name].numel() for name in space.names]
    stops = list(accumulate(sizes))
    yield from zip(space.names, [0, *stops], stops, strict=False)


# -- hypotheses ----------------------------------------------------------------------------------------------------


def _nulls(space: Space) -> Iterator[Tensor]:
    """Any change of one tensor alone."""
    for _, start, stop in _ranges(space):
        eye = torch.zeros(stop - start, len(space.live), dtype=torch.float64)
        eye[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
        yield eye[:, space.live]


def _constants(space: Space) -> Iterator[Tensor]:
    """For each position of each axis, a constant along all other axes."""
    yield _along_axes(space, lambda tensor, axis, mark: torch.ones_like(tensor) * mark)


def _scales(space: Space) -> Iterator[Tensor]:
    """For each position of each axis, a factor."""
    yield _along_axes(space, lambda tensor, axis, mark: tensor * mark)


def _along_axes(space: Space, make: Callable[[Tensor, int, Tensor], Tensor]) -> Tensor:
    rows = []
    for name, start, stop in _ranges(space):
        tensor = space.state[name]
        for axis, size in enumerate(tensor.shape):
            for unit in torch.eye(size, dtype=torch.float64):
                whole = torch.zeros(len(space.live), dtype=torch.float64)
                whole[start:stop] = make(tensor, axis, spread(unit, tensor.dim(), [axis])).reshape(-1)
                rows.append(whole[space.live])
    return torch.stack(rows) if rows else torch.zeros(0, int(space.live.sum()), dtype=torch.float64)


def _rotations(space: Space) -> Iterator[Tensor]:
    """Every rotation of one space, wherever it occurs."""
    for turned in space.symmetry.spaces:
        if 1 < turned.size <= _WIDEST:
            pairs = [(row, column) for row in range(turned.size) for column in range(row)]
            yield torch.stack([_rotated(space, turned.id, row, column)[space.live] for row, column in pairs])


def _rotated(space: Space, wanted: int, row: int, column: int) -> Tensor:
    def turn(tensor: Tensor, block: tuple[Leaf, ...]) -> Tensor:
        moved = torch.zeros_like(tensor)
        for dim, leaf in enumerate(block):
            if leaf.space == wanted:
                at = moved.movedim(dim, 0)
                at[row] += tensor.movedim(dim, 0)[column]
                at[column] -= tensor.movedim(dim, 0)[row]
        return moved

    terms = space.symmetry.terms
    parts = [on_blocks(space.state[name], terms[name], turn) for name in space.names]
    return torch.cat([part.reshape(-1) for part in parts])


_HYPOTHESES: dict[str, Callable[[Space], Iterator[Tensor]]] = {
    "null direction": _nulls,
    "translation": _constants,
    "scale": _scales,
    "rotation": _rotations,
}
