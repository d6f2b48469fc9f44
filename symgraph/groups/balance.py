"""Points of least norm for one space: both sides of a circuit balanced, scales equalised (design section 8)."""

from __future__ import annotations

import torch
from torch import Tensor

# Directions whose second moment is below this fraction of the largest one are empty.
RANK_TOLERANCE = 1e-12
# The same for the singular values of what one side makes of the other.
CROSS_TOLERANCE = 1e-10
NEWTON_STEPS = 60
# A unit whose curvature has vanished, in multiples of the rounding error, has nothing on one side: it has no optimum.
FLAT = 1e3


def balanced(co: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
    """g = X^1/2 with X = co^-1 # dual, so that g co g^T = g^-T dual g^-1; and its inverse transpose.

    With co = L L^T, dual = M M^T and M^T L = U S V^T, X^-1 = L V S^-1 V^T L^T on the range of L and 1 on the null space
    of M^T: what is empty on both sides (units that padding added) has an optimum, too. There is none where the two
    sides are empty in different numbers of directions, or one meets the other's null space: g is then the identity.
    """
    (left, rank, _), (right, other, empty) = factor(co), factor(dual)
    _, s, vt = torch.linalg.svd(right.transpose(-1, -2) @ left)
    full = s > CROSS_TOLERANCE * s[..., :1].clamp_min(torch.finfo(s.dtype).tiny)
    good = ((rank == other) & (rank == full.sum(-1)))[..., None, None]
    half = (left @ vt.transpose(-1, -2)) * (full / torch.where(full, s, 1.0).sqrt()).unsqueeze(-2)
    eye = torch.eye(co.shape[-1], dtype=co.dtype, device=co.device)
    inverse = torch.where(good, half @ half.transpose(-1, -2) + empty, eye)
    return _power(inverse, -0.5), _power(inverse, 0.5)


def factor(m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A factor L of a second moment L L^T, its rank, and the projector on its empty directions."""
    values, vectors = torch.linalg.eigh(m)
    held = values > RANK_TOLERANCE * values[..., -1:].clamp_min(torch.finfo(m.dtype).tiny)
    null = vectors * (~held).unsqueeze(-2)
    factor = vectors * torch.where(held, values, 0.0).sqrt().unsqueeze(-2)
    return factor, held.sum(-1), null @ null.transpose(-1, -2)


def _power(m: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh((m + m.transpose(-1, -2)) / 2)
    powers = values.clamp_min(torch.finfo(m.dtype).tiny).pow(exponent)
    power: Tensor = (vectors * powers.unsqueeze(-2)) @ vectors.transpose(-1, -2)
    return power


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
    units, p = values.shape[1], exponents.shape[1]
    logs = values.new_zeros(units, p)
    eps = torch.finfo(values.dtype).eps
    flat, slope = torch.zeros_like(logs, dtype=torch.bool), torch.zeros_like(logs)
    outer = exponents.unsqueeze(2) * exponents.unsqueeze(1)
    for _ in range(NEWTON_STEPS):
        weights = values.T * torch.exp(2 * logs @ exponents.T)
        weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
        curve, basis = torch.linalg.eigh(4 * torch.einsum("um,mpq->upq", weights, outer))
        flat = curve <= FLAT * eps
        slope = (basis.transpose(1, 2) @ (2 * weights @ exponents).unsqueeze(2)).squeeze(2)
        step = (basis @ (slope / curve.clamp_min(eps)).unsqueeze(2)).squeeze(2)
        logs -= step / step.norm(dim=1, keepdim=True).clamp_min(1.0)
        if float(step.abs().max()) <= eps:
            break
    # Where what holds weight pulls to one side alone, the slope never vanishes: there is no optimum either.
    gone = flat.any(1, keepdim=True) | (slope.norm(dim=1, keepdim=True) > eps**0.5)
    return torch.where(gone, torch.zeros_like(logs), logs).exp().T
