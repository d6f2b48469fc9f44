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


# Where a step of Newton's moves a matrix by less than this share of it the next one is exact, as it squares errors.
_NEAR = 1e-8
_STEPS = 40


def polar(c: Tensor) -> tuple[Tensor, Tensor]:
    """Orthogonal factor U V^T of C = U S V^T, and the nuclear norm: (P, n, n) -> (P, n, n), (P,).

    Source: Schoenemann 1966; on devices whose SVD is slow, Newton's iteration (`polar_by_newton`).
    """
    if c.device.type == "cuda" and c.dtype == torch.float64:
        found = polar_by_newton(c)
        if found is not None:
            return found, (found * c).sum((-2, -1))
    u, s, vt = torch.linalg.svd(c, full_matrices=False)
    return u @ vt, s.sum(-1)


def polar_by_newton(c: Tensor) -> Tensor | None:
    """The orthogonal factor of matrices (P, n, n) that are not singular; None where one nearly is.

    X <- (f X + X^-T / f) / 2 with f^2 = |X^-1| / |X|: products and inverses alone.

    Source: Higham 1986, scaled by Frobenius norms.
    """
    x: Tensor = c
    for _ in range(_STEPS):
        inverse, failed = torch.linalg.inv_ex(x)
        back = inverse.mT
        scale = (_norm(back) / _norm(x)).sqrt()
        after = (scale * x + back / scale) / 2
        moved = _norm(after - x) / _norm(after)
        x = after
        # One number for the whole batch: each that is read waits for the device.
        worst = float(torch.where((failed != 0)[..., None, None], torch.nan, moved).amax())
        if not worst < torch.inf:
            return None
        if worst < _NEAR:
            return x
    return None


def _norm(matrix: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.matrix_norm(matrix, keepdim=True)
    return norm


def nuclear_norm(c: Tensor) -> Tensor:
    """The sum of the singular values: (P, n, n) -> (P,)."""
    norm: Tensor = torch.linalg.svdvals(c.double()).sum(-1)
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
