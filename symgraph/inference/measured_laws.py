"""What a function along one axis commutes with, in many worlds: scales, both sides of every number, zeros, ties."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.groups.elements import IndexSet
from symgraph.groups.lattice import Bound, SymmetryClass, down, maps
from symgraph.ir import resized

_C = SymmetryClass
Function = Callable[[Tensor], Tensor]
# What fails in some world fails by as much as that world is there for; what cancels loses half of the digits.
TOLERANCE = 1e-7
# Largest first; what is inside of a class that holds is not tried.
_CLASSES = (
    _C.INVERTIBLE,
    _C.ORTHOGONAL,
    _C.MONOMIAL,
    _C.ORTHOGONAL_ONES,
    _C.SIGNED,
    _C.POSITIVE_MONOMIAL,
    _C.PERMUTATION,
)
_SCALES = (1e-3, 1.0, 1e3)
_BESIDE = (0.3, 3.0)
_BEYOND = 1e3
# A number that is added to exponentials is seen where these are much smaller, beside values that are not large.
_FAR = 100.0
_MODERATE = 30.0
_ROUNDING = 1e-15


@dataclass(frozen=True, slots=True)
class Laws:
    """What holds of a function along an axis in every world.

    `bound`: the classes that it commutes with. `blind`: a constant along the axis changes nothing; `centred`: and the
    result has mean zero. `radial`: neither does a common positive factor. `sums`: the result sums to one. `ordered`:
    distinct entries stay so, in their order. `rows`: the classes of factors that a row may be multiplied by before or
    after.
    """

    bound: Bound
    blind: bool
    centred: bool
    radial: bool
    sums: bool
    ordered: bool
    rows: Bound

    def met(self, other: Laws) -> Laws:
        """What holds of both of two functions."""
        return Laws(
            self.bound & other.bound,
            self.blind and other.blind,
            self.centred and other.centred,
            self.radial and other.radial,
            self.sums and other.sums,
            self.ordered and other.ordered,
            self.rows & other.rows,
        )


def measured(f: Function, shape: Sequence[int], axis: int, numbers: Sequence[float] = ()) -> Laws:
    """The laws of a function of one tensor, of the same shape as its result.

    Args:
        numbers: those that the function is made with; values on both sides of each are tried.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = [world.movedim(-1, axis) for world in _worlds(_with_last(shape, axis), numbers, generator)]
    worlds = [_conditioned(f, world, axis, generator) for world in drawn]
    results = [f(world) for world in worlds]
    pairs = list(zip(worlds, results, strict=True))
    bound: Bound = down(_C.IDENTITY)
    if any(y.shape != x.shape for x, y in pairs):
        return Laws(bound, blind=False, centred=False, radial=False, sums=False, ordered=False, rows=bound)
    for cls in _CLASSES:
        if cls not in bound and _commutes(f, pairs, axis, cls, generator):
            bound |= down(cls)
    blind = all(_gives(f, x + constant, y, axis) for x, y in pairs for constant in _constants(x, axis, generator))
    totals = [y.sum(axis) for _, y in pairs]
    centred = blind and all(_small(t, y) for t, (_, y) in zip(totals, pairs, strict=True))
    # A number that only keeps from dividing by nothing is not seen by values of any size that models have.
    plain = [(x, y) for x, y in pairs if bool(x.abs().max() >= _SCALES[0])]
    radial = all(same(f(x * _factor(x, axis, generator)), y) for x, y in plain)
    sums = all(_alike(t, torch.ones_like(t), x) for t, x in zip(totals, worlds, strict=True))
    ordered = all(_is_ordered(x.movedim(axis, -1), y.movedim(axis, -1)) for x, y in pairs if _is_moderate(x))
    return Laws(bound, blind, centred, radial, sums, ordered, _rows(f, pairs, axis, generator))


def _with_last(shape: Sequence[int], axis: int) -> list[int]:
    return [*(n for i, n in enumerate(shape) if i != axis % len(shape)), shape[axis]]


def _worlds(shape: list[int], numbers: Sequence[float], generator: torch.Generator) -> Iterator[Tensor]:
    """Values with the axis last; in each some rows are plain, so that what is special is seen beside them."""
    beside = [abs(number) * b for number in numbers for b in _BESIDE if 1e-30 < abs(number) < 1e30]
    for scale in dict.fromkeys((*_SCALES, *beside)):
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        rows = x.reshape(-1, shape[-1])
        if len(rows) > 1:
            rows[0] = rows[0, 0] * min(1.0, 1.0 / scale)
        if len(rows) > 2:
            rows[2, : shape[-1] // 2] = 0.0
        if len(rows) > 3:
            rows[3] = rows[3].abs().ceil()
        if len(rows) > 4:
            rows[4] = 0.0
        if len(rows) > 5:
            rows[5] += 3.0
        yield scale * x
    for number in dict.fromkeys(number for number in numbers if 1.0 < abs(number) < 1e30):
        yield number + torch.randn(shape, generator=generator, dtype=torch.float64)


def _conditioned(f: Function, x: Tensor, axis: int, generator: torch.Generator) -> Tensor:
    """The values with other rows in the place of those that rounding alone changes the result of.

    Behind a mean, equal entries are nothing but what rounding leaves, which a length below them makes large.
    """
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    y = f(x)
    return x if y.shape != x.shape else torch.where(_ill_conditioned(f, x, y, axis), x.abs().max() * noise, x)


def _ill_conditioned(f: Function, x: Tensor, y: Tensor, axis: int) -> Tensor:
    """The rows of which rounding alone changes the result."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    beside, finite = f(x * (1.0 + _ROUNDING * noise)), y.isfinite()
    largest = y[finite].abs().max() if bool(finite.any()) else y.new_zeros(())
    return ((y - beside).abs() > TOLERANCE / 10 * largest).any(axis, keepdim=True)


def _gives(f: Function, x: Tensor, expected: Tensor, axis: int) -> bool:
    """Whether this is the result, in all rows of which it is more than rounding."""
    found = f(x)
    known = ~_ill_conditioned(f, x, found, axis).expand(found.shape)
    return bool(known.any()) and _alike(found[known], expected[known], x)


def _alike(found: Tensor, expected: Tensor, x: Tensor) -> bool:
    """Whether two results are equal; exponentials of large values may be no numbers in one of them."""
    return same(found, expected) if _is_moderate(x) else same_where_defined(found, expected)


def _is_moderate(x: Tensor) -> bool:
    return bool(x.abs().max() <= _MODERATE + _FAR)


def _is_ordered(x: Tensor, y: Tensor) -> bool:
    """Whether the result is strictly larger where the value is, in every row of distinct entries."""
    values, order = x.sort(-1)
    apart = (values.diff(dim=-1) > 0.0).all(-1)
    return bool((y.gather(-1, order).diff(dim=-1) > 0.0).all(-1)[apart].all())


def _commutes(
    f: Function, pairs: list[tuple[Tensor, Tensor]], axis: int, cls: SymmetryClass, generator: torch.Generator
) -> bool:
    for x, y in pairs:
        g = maps(cls).sample(IndexSet(x.shape[axis], "halves"), generator).co
        if not _alike(f(_along(g, x, axis)), _along(g, y, axis), x):
            return False
    return True


def _rows(f: Function, pairs: list[tuple[Tensor, Tensor]], axis: int, generator: torch.Generator) -> Bound:
    """The classes of factors of single rows that a function passes on: of either sign, positive, or none."""
    factors = [_factor(x, axis, generator) for x, _ in pairs]
    if not all(same(f(x * c), y * c) for (x, y), c in zip(pairs, factors, strict=True)):
        return down(_C.IDENTITY)
    odd = all(same(f(-x), -y) for x, y in pairs)
    return down(_C.MONOMIAL if odd else _C.POSITIVE_MONOMIAL)


def _along(g: Tensor, x: Tensor, axis: int) -> Tensor:
    return (x.movedim(axis, -1) @ g.T).movedim(-1, axis)


def _constant(x: Tensor, axis: int, generator: torch.Generator) -> Tensor:
    """Something that does not vary along the axis, as large as the values unless those are large.

    Beside small values it is larger, by so much that rounding leaves the digits which are compared.
    """
    shape = resized(tuple(x.shape), axis % x.dim(), 1)
    size = x.abs().max()
    size = torch.maximum(size, (_BEYOND * size).clamp(max=_SCALES[0])).clamp(max=1.0)
    return size * torch.randn(shape, generator=generator, dtype=torch.float64)


def _constants(x: Tensor, axis: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Constants along the axis, beside values of moderate size large ones of either sign as well."""
    yield _constant(x, axis, generator)
    if 1.0 <= x.abs().max() <= _MODERATE:
        shape = resized(tuple(x.shape), axis % x.dim(), 1)
        yield from (torch.full(shape, far, dtype=torch.float64) for far in (-_FAR, _FAR))


def _factor(x: Tensor, axis: int, generator: torch.Generator) -> Tensor:
    shape = resized(tuple(x.shape), axis % x.dim(), 1)
    return 0.3 + 2.0 * torch.rand(shape, generator=generator, dtype=torch.float64)


def same(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are equal up to rounding; what is not a number must be none in both."""
    if found.shape != expected.shape or not bool((found.isnan() == expected.isnan()).all()):
        return False
    return same_where_defined(found, expected)


def same_where_defined(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are equal up to rounding, wherever both are numbers and somewhere at least."""
    defined = found.isfinite() & expected.isfinite()
    if found.shape != expected.shape or not bool(defined.any()):
        return False
    found, expected = found[defined], expected[defined]
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp_min(1e-30))


def _small(total: Tensor, beside: Tensor) -> bool:
    """Whether sums are nothing beside what was summed, wherever that is a number and somewhere at least."""
    defined = total.isfinite()
    if not bool(defined.any()):
        return False
    return bool(total[defined].abs().max() <= TOLERANCE * beside[beside.isfinite()].abs().max().clamp_min(1e-30))
