"""Orthogonal matrices: random, nearest to a correlation, and those that fix the ones vector."""

from __future__ import annotations

import torch
from torch import Tensor


def haar(size: int, fibre: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Haar distributed orthogonal matrices (F, n, n): a Gaussian's factor with the right signs (Mezzadri 2007)."""
    normal = torch.randn(*fibre, size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    signed: Tensor = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
    return signed


def ones_complement(size: int, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
    """Orthonormal basis (n, n - 1) of the hyperplane of mean zero: columns of the Householder map of the ones."""
    normal = torch.full((size,), size**-0.5, dtype=dtype, device=device)
    normal[0] += 1.0
    reflection = torch.eye(size, dtype=dtype, device=device) - 2.0 * torch.outer(normal, normal) / normal.dot(normal)
    return reflection[:, 1:]


def fixing_ones(inner: Tensor) -> Tensor:
    """The matrix (F, n, n) that is `inner` (F, n - 1, n - 1) on the hyperplane of mean zero and one on the ones."""
    size = inner.shape[-1] + 1
    basis = ones_complement(size, inner.dtype, inner.device)
    return basis @ inner @ basis.T + inner.new_full((size, size), 1.0 / size)


# Steps of Newton and Schulz, each of which raises a small singular value by half: what is left of the largest after so
# many is rounding. Whether they may end is asked after every few, as each number that is read waits for the device.
_SCHULZ_STEPS = 88
_ASKED = 4
# Where X^T X is so near one, the step after it is exact, as it squares errors.
_NEAR = 1e-8


def polar(c: Tensor) -> tuple[Tensor, Tensor]:
    """Orthogonal factor U V^T of C = U S V^T, and the nuclear norm: (P, m, n) -> (P, m, n), (P,).

    Source: Schoenemann 1966; on devices whose SVD is slow by products (`polar_by_newton_schulz`), unless C is singular.
    """
    if c.device.type != "cpu" and c.dtype == torch.float64:
        found = polar_by_newton_schulz(c)
        if found is not None:
            return found, (found * c).sum((-2, -1))
    u, s, vt = torch.linalg.svd(c, full_matrices=False)
    return u @ vt, s.sum(-1)


def polar_by_newton_schulz(c: Tensor) -> Tensor | None:
    """The orthogonal factor of matrices (P, m, n) of full rank; None where one is singular to rounding.

    X <- X (3 - X^T X) / 2: products alone. It is that of C if it is orthogonal, as it has the range of C.

    Source: Bjorck and Bowie 1971.
    """
    x, orthogonal = _schulz(c)
    return x if orthogonal else None


def _schulz(c: Tensor) -> tuple[Tensor, bool]:
    """C with its singular values raised to one, but for those that are nothing beside the largest; whether all are."""
    if c.shape[-2] < c.shape[-1]:
        x, orthogonal = _schulz(c.mT)
        return x.mT, orthogonal
    x = (c / _norm(c).clamp_min(torch.finfo(c.dtype).tiny)).reshape(-1, *c.shape[-2:])
    eye = torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
    near = False
    for step in range(1, _SCHULZ_STEPS + 1):
        off = torch.baddbmm(eye, x.mT, x, alpha=-1)
        x = torch.baddbmm(x, x, off, alpha=0.5)
        if step % _ASKED == 0:
            worst = float(_norm(off).amax())
            near = worst < _NEAR
            if near or not worst < torch.inf:
                break
    return x.reshape(c.shape), near


def _norm(matrix: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.matrix_norm(matrix, keepdim=True)
    return norm


def nuclear_norm(c: Tensor) -> Tensor:
    """The sum of the singular values: (P, n, n) -> (P,).

    On devices whose SVD is slow it is <C, X> for what `polar_by_newton_schulz` ends at, which differs from a factor
    where singular values are nothing beside the largest: they add as much to the sum.
    """
    wide = c.double()
    if c.device.type != "cpu":
        return (_schulz(wide)[0] * wide).sum((-2, -1))
    norm: Tensor = torch.linalg.svdvals(wide).sum(-1)
    return norm


def polar_ones(c: Tensor) -> tuple[Tensor, Tensor]:
    """The same over orthogonal matrices that fix the ones vector: the polar factor on the hyperplane of mean zero."""
    size = c.shape[-1]
    basis = ones_complement(size, c.dtype, c.device)
    inner, value = polar(basis.T @ c @ basis)
    return fixing_ones(inner), value + c.sum((-2, -1)) / size


def skew_generators(columns: list[Tensor]) -> list[Tensor]:
    """The rotations' generators a b^T - b a^T in every plane that two of the columns span."""
    return [
        torch.outer(first, second) - torch.outer(second, first)
        for count, first in enumerate(columns)
        for second in columns[:count]
    ]
