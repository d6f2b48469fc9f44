"""Points of least norm for one space: both sides of a circuit balanced, scales equalised (design section 8)."""

from __future__ import annotations

import torch
from torch import Tensor

from symgraph.groups.rotations import polar_by_newton_schulz

# Directions whose second moment is below this fraction of the largest one are empty.
RANK_TOLERANCE = 1e-12
# The same for the singular values of what one side makes of the other.
CROSS_TOLERANCE = 1e-10
# Second moments with a bound on the condition number below this are whole beyond doubt.
WHOLE = 1e10
NEWTON_STEPS = 60
# A unit whose curvature has vanished, in multiples of the rounding error, has nothing on one side: it has no optimum.
FLAT = 1e3


def balanced(co: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
    """g = X^1/2 with X = co^-1 # dual, so that g co g^T = g^-T dual g^-1; and its inverse transpose.

    With co = L L^T, dual = M M^T and M^T L = U S V^T, X^-1 = L V S^-1 V^T L^T on the range of L and 1 on the null space
    of M^T: what is empty on both sides (units that padding added) has an optimum, too. There is none where the two
    sides are empty in different numbers of directions, or one meets the other's null space: g is then the identity.
    """
    if co.device.type != "cpu" and (found := _balanced_whole(co, dual)) is not None:
        return found
    (left, rank, _), (right, other, empty) = factor(co), factor(dual)
    _, singular, vt = torch.linalg.svd(right.transpose(-1, -2) @ left)
    full = singular > CROSS_TOLERANCE * singular[..., :1].clamp_min(torch.finfo(singular.dtype).tiny)
    good = ((rank == other) & (rank == full.sum(-1)))[..., None, None]
    roots = full / torch.where(full, singular, 1.0).sqrt()
    half = (left @ vt.transpose(-1, -2)) * roots.unsqueeze(-2)
    eye = torch.eye(co.shape[-1], dtype=co.dtype, device=co.device)
    inverse = torch.where(good, half @ half.transpose(-1, -2) + empty, eye)
    return _roots(inverse)


def _balanced_whole(co: Tensor, dual: Tensor) -> tuple[Tensor, Tensor] | None:
    """The same by triangular and orthogonal factors, which take no eigenvectors; None where a side is nearly empty.

    With the polar factor Q of M^T L, X^-1 = M^-T Q L^T; and with X^-1 = R R^T and the polar factor P of R, its square
    root is R P^T.
    """
    left, right = _triangular(co), _triangular(dual)
    bounds = torch.stack([_condition(co, left), _condition(dual, right)])
    if not bool((bounds < WHOLE).all()):
        return None
    turn = polar_by_newton_schulz(right.mT @ left)
    if turn is None:
        return None
    inverse = torch.linalg.solve_triangular(right.mT, turn @ left.mT, upper=True)
    root = _triangular((inverse + inverse.mT) / 2)
    turned = polar_by_newton_schulz(root)
    if turned is None:
        return None
    back, forth = root @ turned.mT, torch.linalg.solve_triangular(root, turned, upper=False, left=False)
    return (forth + forth.mT) / 2, (back + back.mT) / 2


def _triangular(gram: Tensor) -> Tensor:
    """The factor L of L L^T, lower triangular; NaN where there is none."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    return torch.where((failed != 0)[..., None, None], torch.nan, factor)


def _condition(gram: Tensor, factor: Tensor) -> Tensor:
    """A bound on the condition number of L L^T: (..., n, n) -> (...)."""
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
    bound: Tensor = torch.linalg.matrix_norm(gram) * inverse.square().sum((-2, -1))
    return bound


def factor(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A factor L of a second moment L L^T, its rank, and the projector on its empty directions."""
    values, vectors = torch.linalg.eigh(gram)
    held = values > RANK_TOLERANCE * values[..., -1:].clamp_min(torch.finfo(gram.dtype).tiny)
    null = vectors * (~held).unsqueeze(-2)
    factor = vectors * torch.where(held, values, 0.0).sqrt().unsqueeze(-2)
    return factor, held.sum(-1), null @ null.transpose(-1, -2)


def _roots(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of the square root, and the square root."""
    values, vectors = torch.linalg.eigh((gram + gram.transpose(-1, -2)) / 2)
    lengths = values.clamp_min(torch.finfo(gram.dtype).tiny).sqrt().unsqueeze(-2)
    back = vectors.transpose(-1, -2)
    return (vectors / lengths) @ back, (vectors * lengths) @ back


def quarter_power(co: Tensor, dual: Tensor) -> Tensor:
    """The scale that gives both squared norms the same value; one where a side is empty."""
    good = (co > 0) & (dual > 0)
    one = torch.ones_like(co)
    return (torch.where(good, dual, one) / torch.where(good, co, one)).pow(0.25)


def equalised(values: Tensor, exponents: Tensor) -> Tensor:
    """Scales (p, F, n) that minimise sum_m values_m * prod_k scale_k^(2 e_mk): convex in the logarithms.

    A unit that has no weight on one side has no minimum; it is left as it is.
    """
    flat = values.reshape(len(values), -1)
    if exponents.shape[1] == 1 and bool((exponents.abs() <= 1).all()):
        sides = [(flat * (sign * exponents > 0)).sum(0) for sign in (1, -1)]
        scale = quarter_power(*sides).unsqueeze(0)
    else:
        scale = _newton(flat, exponents)
    return scale.reshape(exponents.shape[1], *values.shape[1:])


def _newton(values: Tensor, exponents: Tensor) -> Tensor:
    """Damped Newton's method for every unit at once: (m, N), (m, p) -> scales (p, N)."""
    logs = values.new_zeros(values.shape[1], exponents.shape[1])
    eps = torch.finfo(values.dtype).eps
    for _ in range(NEWTON_STEPS):
        slope, curve = _derivatives(values, exponents, logs)
        factor, failed = _cholesky(curve)
        step = torch.cholesky_solve(slope.unsqueeze(2), factor).squeeze(2).masked_fill(failed.unsqueeze(1), 0.0)
        logs -= step / step.norm(dim=1, keepdim=True).clamp_min(1.0)
        # The error of the next one is that of this one squared.
        if float(step.abs().max()) <= eps**0.5:
            break
    # Where what holds weight pulls to one side alone, the slope never vanishes: there is no optimum either.
    slope, curve = _derivatives(values, exponents, logs)
    gone = _is_flat(curve) | (slope.norm(dim=1) > eps**0.5)
    return logs.masked_fill(gone.unsqueeze(1), 0.0).exp().T


def _derivatives(values: Tensor, exponents: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """Slope (N, p) and curvature (N, p, p) of the norm of every unit, over that norm."""
    weights = values.T * torch.exp(2 * logs @ exponents.T)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    outer = exponents.unsqueeze(2) * exponents.unsqueeze(1)
    slope = 2 * weights @ exponents
    curve = 4 * weights @ outer.flatten(1)
    return slope, curve.view(-1, *outer.shape[1:])


def _cholesky(curve: Tensor) -> tuple[Tensor, Tensor]:
    """A factor of every curvature, raised by what is flat, and where there is none for rounding."""
    flat = 0.1 * FLAT * torch.finfo(curve.dtype).eps
    eye = torch.eye(curve.shape[-1]).to(curve)
    factor, info = torch.linalg.cholesky_ex(curve + flat * eye)
    return factor, info != 0


def _is_flat(curve: Tensor) -> Tensor:
    """Whether a unit's curvature has vanished in some direction: (N, p, p) -> (N,)."""
    least, others = FLAT * torch.finfo(curve.dtype).eps, curve.shape[-1] - 1
    factor, failed = _cholesky(curve)
    pivots = factor.diagonal(dim1=1, dim2=2).square().prod(1)
    # The least eigenvalue times the mean of the others, to their number, is at least the determinant.
    mean = curve.diagonal(dim1=1, dim2=2).sum(1) / max(others, 1)
    if bool((~failed & (pivots > 2 * least * mean**others)).all()):
        return failed
    flat: Tensor = torch.linalg.eigvalsh(curve)[:, 0] <= least
    return flat
