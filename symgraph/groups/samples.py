"""Random elements of the symmetry classes, as matrices in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from symgraph.groups.lattice import SymmetryClass

_C = SymmetryClass
SCALED = (_C.SIGNED, _C.POSITIVE_MONOMIAL, _C.MONOMIAL)
PERMUTING = (_C.IDENTITY, _C.PERMUTATION, _C.SEMI_PERMUTATION, *SCALED)


@dataclass(frozen=True, slots=True)
class Element:
    """How one axis is transformed: `co` acts on values, `dual` on what contracts with them, `bare` without scales.

    Shapes: all (m, n); m differs from n only for semi-permutations.
    """

    co: torch.Tensor
    dual: torch.Tensor
    bare: torch.Tensor

    def by(self, mark: str) -> torch.Tensor:
        """The matrix for an axis with this mark."""
        return {"": self.co, "'": self.dual, "~": self.bare}[mark]


def random_element(
    cls: SymmetryClass, n: int, generator: torch.Generator, layout: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random element of a class on an axis of size n: its action on values, and on what contracts with them."""
    if cls is _C.SEMI_PERMUTATION:
        return _semi_permutation(n, generator)
    if cls is _C.ROTARY:
        return _with_dual(_rotary(n, generator, layout or "halves"))
    if cls is _C.INVERTIBLE:
        scale = torch.diag(_positive(n, generator))
        return _with_dual(_orthogonal(n, generator) @ scale @ _orthogonal(n, generator))
    if cls is _C.ORTHOGONAL:
        return _with_dual(_orthogonal(n, generator))
    if cls is _C.ORTHOGONAL_ONES:
        return _with_dual(_orthogonal_ones(n, generator))
    if cls is _C.IDENTITY:
        return _with_dual(torch.eye(n, dtype=torch.float64))
    return _with_dual(random_scales(cls, n, generator).unsqueeze(1) * _permutation(n, generator))


def element(cls: SymmetryClass, n: int, generator: torch.Generator, layout: str | None = None) -> Element:
    """A random element with its permutation part."""
    co, dual = random_element(cls, n, generator, layout)
    bare = co.ne(0).double() if cls in PERMUTING else co.abs()
    return Element(co, dual, bare)


def random_scales(cls: SymmetryClass, n: int, generator: torch.Generator) -> torch.Tensor:
    """The diagonal of a monomial element; at least one sign is negative where signs are allowed."""
    scales = torch.ones(n, dtype=torch.float64)
    if cls in (_C.SIGNED, _C.MONOMIAL):
        scales = 1.0 - 2.0 * torch.randint(0, 2, (n,), generator=generator).double()
        scales[int(torch.randint(0, n, (1,), generator=generator))] = -1.0
    return scales * _positive(n, generator) if cls in (_C.POSITIVE_MONOMIAL, _C.MONOMIAL) else scales


def scaled(element: Element, scales: torch.Tensor) -> Element:
    """The monomial element with the permutation of `element` and these scales."""
    return Element(scales.unsqueeze(1) * element.bare, element.bare / scales.unsqueeze(1), element.bare)


def _with_dual(co: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return co, torch.linalg.inv(co).T.contiguous()


def _positive(n: int, generator: torch.Generator) -> torch.Tensor:
    return 0.5 + 1.5 * torch.rand(n, generator=generator, dtype=torch.float64)


def _permutation(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.eye(n, dtype=torch.float64)[torch.randperm(n, generator=generator)]


def _orthogonal(n: int, generator: torch.Generator) -> torch.Tensor:
    q, r = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    unbiased: torch.Tensor = q * torch.sign(torch.diagonal(r))
    return unbiased


def _orthogonal_ones(n: int, generator: torch.Generator) -> torch.Tensor:
    """O(n-1) on the hyperplane of mean zero, by the reflection that takes the first basis vector to the ones."""
    inner = torch.eye(n, dtype=torch.float64)
    if n > 1:
        inner[1:, 1:] = _orthogonal(n - 1, generator)
    axis = torch.full((n,), -(n**-0.5), dtype=torch.float64)
    axis[0] += 1.0
    length = axis.dot(axis)
    if length < 1e-12:
        return inner
    reflection = torch.eye(n, dtype=torch.float64) - 2.0 * torch.outer(axis, axis) / length
    return reflection @ inner @ reflection


def _rotary(n: int, generator: torch.Generator, layout: str) -> torch.Tensor:
    co = torch.eye(n, dtype=torch.float64)
    half = n // 2
    angles = 6.28 * torch.rand(half, generator=generator, dtype=torch.float64)
    scales = _positive(half, generator)
    for k in range(half):
        i, j = (k, k + half) if layout == "halves" else (2 * k, 2 * k + 1)
        c, s = scales[k] * torch.cos(angles[k]), scales[k] * torch.sin(angles[k])
        co[i, i], co[i, j], co[j, i], co[j, j] = c, -s, s, c
    return co


def _semi_permutation(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Units copied unequally often, and split for what reads them: the dual's columns sum to one."""
    extra = torch.randint(0, n, (n // 2 + 1,), generator=generator)
    source = torch.cat([torch.arange(n), extra])[torch.randperm(n + n // 2 + 1, generator=generator)]
    copy = torch.eye(n, dtype=torch.float64)[source]
    weights = copy * _positive(len(source), generator).unsqueeze(1)
    return copy, weights / weights.sum(0)
