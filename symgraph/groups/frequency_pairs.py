"""The frequency pairs of a rotary axis: which coordinates make a pair, and what acts on each pair."""

from __future__ import annotations

import torch
from torch import Tensor

from symgraph.groups.elements import IndexSet


def pair_indices(n: int, layout: str) -> tuple[Tensor, Tensor]:
    """First and second members of the pairs of an axis of size n; an odd coordinate out is in none.

    Pairs in no order that has a name are listed: `0-3 1-2`.
    """
    if "-" in layout:
        first, second = zip(*(map(int, pair.split("-")) for pair in layout.split()), strict=True)
        return torch.tensor(first), torch.tensor(second)
    if layout == "interleaved":
        return torch.arange(0, n - 1, 2), torch.arange(1, n, 2)
    return torch.arange(0, n // 2), torch.arange(n // 2, n - n % 2)


def over_pairs(values: Tensor, n: int, layout: str) -> Tensor:
    """A number for each pair as one for each coordinate: (..., n / 2) -> (..., n)."""
    found = values.new_ones(*values.shape[:-1], n)
    for members in pair_indices(n, layout):
        found = found.index_copy(-1, members.to(values.device), values)
    return found


def sum_of_pairs(values: Tensor, layout: str) -> Tensor:
    """The sum over the members of each pair: (..., n) -> (..., n / 2)."""
    first, second = (i.to(values.device) for i in pair_indices(values.shape[-1], layout))
    return values[..., first] + values[..., second]


def rotary_matrix(pairs: Tensor, n: int, layout: str) -> Tensor:
    """Block matrix (F, n, n) from a I + b J for each pair: `pairs` is (F, n / 2, 2) with (a, b)."""
    i, j = (x.to(pairs.device) for x in pair_indices(n, layout))
    m = torch.eye(n, dtype=pairs.dtype, device=pairs.device).repeat(*pairs.shape[:-2], 1, 1)
    a, b = pairs[..., 0], pairs[..., 1]
    m[..., i, i], m[..., j, j] = a, a
    m[..., i, j], m[..., j, i] = -b, b
    return m


def rotary_generators(n: int, layout: str) -> list[Tensor]:
    """The scale, then the rotation, of every pair as directions (n, n)."""
    zero = rotary_matrix(torch.zeros(n // 2, 2, dtype=torch.float64), n, layout)
    pairs = torch.eye(2 * (n // 2), dtype=torch.float64)
    return [rotary_matrix(p.reshape(-1, 2), n, layout) - zero for p in pairs]


def random_pairs(on: IndexSet, generator: torch.Generator, spread: float) -> Tensor:
    """A uniform angle and a log-normal scale for each pair, as matrices (F, n, n)."""
    pairs = (*on.fibre, on.size // 2)
    unit = torch.randn(*pairs, 2, generator=generator, dtype=torch.float64)
    radius = torch.exp(spread * torch.randn(*pairs, 1, generator=generator, dtype=torch.float64))
    return rotary_matrix(radius * unit / unit.norm(dim=-1, keepdim=True), on.size, on.layout)


def best_rotations(c: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """The best angle of each pair for a correlation (..., n, n), as a matrix; the value is the sum of the moduli."""
    n = c.shape[-1]
    i, j = pair_indices(n, layout)
    a = c[..., i, i] + c[..., j, j]
    b = c[..., j, i] - c[..., i, j]
    modulus = torch.hypot(a, b)
    safe = torch.where(modulus > 0, modulus, torch.ones_like(modulus))
    unit = torch.stack([torch.where(modulus > 0, a / safe, torch.ones_like(a)), b / safe], dim=-1)
    odd = c[..., n - 1, n - 1] if n % 2 else 0.0
    return rotary_matrix(unit, n, layout), modulus.sum(-1) + odd
