"""Closed-form solvers for one space: maximise <g, C> over the compact part of its group (design section 11).

C is a correlation: C[i, j] = sum of A's slice i times B's slice j. All solvers are batched over leading dimensions and
return the optimal element together with its value, which is what an outer assignment needs.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from symgraph.groups.elements import ones_complement, pair_indices, rotary_matrix
from symgraph.groups.lattice import SymmetryClass

_C = SymmetryClass


def assignment(c: Tensor) -> Tensor:
    """Permutations p with maximal sum_i C[i, p_i]: (P, n, n) -> (P, n). Source: Kuhn 1955, by scipy."""
    # Scipy and POT take longer to import than the rest of the package together, and few commands solve anything.
    from scipy.optimize import linear_sum_assignment

    flat = c.detach().reshape(-1, *c.shape[-2:]).cpu().numpy()
    found = [linear_sum_assignment(m, maximize=True)[1] for m in flat]
    return torch.stack([torch.from_numpy(f) for f in found]).reshape(c.shape[:-1]).to(c.device)


def matrix_optimum(group: SymmetryClass, c: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """Optimal matrix of the compact part of `group`, and its value: (P, n, n) -> (P, n, n), (P,)."""
    if group is _C.ROTARY:
        return rotation(c, layout)
    if group is _C.ORTHOGONAL_ONES:
        return polar_ones(c)
    return polar(c)


def polar(c: Tensor) -> tuple[Tensor, Tensor]:
    """Orthogonal factor U V^T of C = U S V^T, and the nuclear norm. Source: Schoenemann 1966."""
    u, s, vt = torch.linalg.svd(c, full_matrices=False)
    return u @ vt, s.sum(-1)


def polar_ones(c: Tensor) -> tuple[Tensor, Tensor]:
    """The same over orthogonal matrices that fix the ones vector: the polar factor on the hyperplane of mean zero."""
    n = c.shape[-1]
    basis = ones_complement(n, c.dtype, c.device)
    inner, value = polar(basis.T @ c @ basis)
    mean = torch.full((n, n), 1.0 / n, dtype=c.dtype, device=c.device)
    return basis @ inner @ basis.T + mean, value + c.sum((-2, -1)) / n


def rotation(c: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """The best angle of each frequency pair; the value is the sum of the pairs' moduli."""
    i, j = pair_indices(c.shape[-1], layout)
    a = c[..., i, i] + c[..., j, j]
    b = c[..., j, i] - c[..., i, j]
    modulus = torch.hypot(a, b)
    safe = torch.where(modulus > 0, modulus, torch.ones_like(modulus))
    unit = torch.stack([torch.where(modulus > 0, a / safe, torch.ones_like(a)), b / safe], dim=-1)
    return rotary_matrix(unit, layout), modulus.sum(-1)


def best_signs(parts: dict[tuple[int, ...], Tensor], generators: int) -> tuple[Tensor, Tensor]:
    """Signs that maximise sum_e prod_k s_k^e_k C_e for every pair: {e: (P, n, n)} -> (q, P, n, n), (P, n, n)."""
    first = next(iter(parts.values()))
    best = torch.full_like(first, -torch.inf)
    signs = first.new_ones(generators, *first.shape)
    for choice in itertools.product((1.0, -1.0), repeat=generators):
        total = torch.zeros_like(first)
        for e, c in parts.items():
            factor = 1.0
            for k in range(generators):
                factor *= choice[k] if e[k] % 2 else 1.0
            total = total + factor * c
        better = total > best
        best = torch.where(better, total, best)
        for k in range(generators):
            signs[k] = torch.where(better, torch.full_like(first, choice[k]), signs[k])
    return signs, best
