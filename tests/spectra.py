"""Matrices whose singular values are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHAPES = [(1, 1), (2, 2), (64, 64), (30, 17), (17, 30)]


def matrices(rows: int, columns: int, *, least: float, lost: int = 0) -> Tensor:
    """Three matrices whose singular values fall from one to 10^least, the last ones being zero."""
    generator = torch.Generator().manual_seed(rows)
    normal = torch.randn(3, rows, columns, dtype=torch.float64, generator=generator)
    u, s, vt = torch.linalg.svd(normal, full_matrices=False)
    values = s if math.isnan(least) else torch.logspace(0, least, s.shape[-1], dtype=torch.float64).expand_as(s).clone()
    values[:, values.shape[-1] - lost :] = 0
    made: Tensor = (u * values.unsqueeze(-2)) @ vt
    return made
