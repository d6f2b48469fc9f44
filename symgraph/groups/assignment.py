"""Assignments, and signs beside them: what matching index spaces comes down to.

C is a correlation: C[i, j] = sum of A's slice i times B's slice j.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor


def assignment(c: Tensor) -> Tensor:
    """Permutations p with maximal sum_i C[i, p_i]: (P, n, n) -> (P, n). Source: Kuhn 1955, by scipy."""
    # Scipy takes longer to import than the rest of the package, and few commands solve anything.
    from scipy.optimize import linear_sum_assignment

    flat = c.detach().reshape(-1, *c.shape[-2:]).cpu().numpy()
    found = [linear_sum_assignment(m, maximize=True)[1] for m in flat]
    return torch.stack([torch.from_numpy(f) for f in found]).reshape(c.shape[:-1]).to(c.device)


def best_signs(parts: Mapping[tuple[int, ...], Tensor], generators: int) -> tuple[Tensor, Tensor]:
    """Signs that maximise sum_e prod_k s_k^e_k C_e for every entry: {e: (...)} -> (q, ...), (...)."""
    first = next(iter(parts.values()))
    best = torch.full_like(first, -torch.inf)
    signs = first.new_ones(generators, *first.shape)
    for choice in itertools.product((1.0, -1.0), repeat=generators):
        total = torch.zeros_like(first)
        for exponents, c in parts.items():
            total = total + c * _sign(choice, exponents)
        better = total > best
        best = torch.where(better, total, best)
        for k in range(generators):
            signs[k] = torch.where(better, torch.full_like(first, choice[k]), signs[k])
    return signs, best


def _sign(choice: tuple[float, ...], exponents: tuple[int, ...]) -> float:
    odd = [s for s, e in zip(choice, exponents, strict=False) if e % 2]
    return -1.0 if odd.count(-1.0) % 2 else 1.0
