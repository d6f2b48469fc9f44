"""The frequency pairs of a rotary axis: which coordinates make a pair, and what acts on each pair."""

from __future__ import annotations

import torch
from torch import Tensor

from symgraph.groups.elements import IndexSet


def pair_indices(size: int, layout: str) -> tuple[Tensor, Tensor]:
    """First and second members of the pairs of an axis of this size; an odd coordinate out is in none.

    Pairs in no order that has a name are listed: `0-3 1-2`.
    """
    if "-" in layout:
        first, second = zip(*(map(int, pair.split("-")) for pair in layout.split()), strict=True)
        return torch.tensor(first), torch.tensor(second)
    if layout == "interleaved":
        return torch.arange(0, size - 1, 2), torch.arange(1, size, 2)
    return torch.arange(0, size // 2), torch.arange(size // 2, size - size % 2)


def over_pairs(values: Tensor, size: int, layout: str) -> Tensor:
    """A number for each pair as one for each coordinate: (..., n / 2) -> (..., n)."""
    spread = values.new_ones(*values.shape[:-1], size)
    for members in pair_indices(size, layout):
        spread = spread.index_copy(-1, members.to(values.device), values)
    return spread


def sum_of_pairs(values: Tensor, layout: str) -> Tensor:
    """The sum over the members of each pair: (..., n) -> (..., n / 2)."""
    first, second = (members.to(values.device) for members in pair_indices(values.shape[-1], layout))
    return values[..., first] + values[..., second]


def rotary_matrix(pairs: Tensor, size: int, layout: str) -> Tensor:
    """Block matrix (F, n, n) from a I + b J for each pair: `pairs` is (F, n / 2, 2) with (a, b)."""
    first, second = (members.to(pairs.device) for members in pair_indices(size, layout))
    matrix = torch.eye(size, dtype=pairs.dtype, device=pairs.device).repeat(*pairs.shape[:-2], 1, 1)
    scale, turn = pairs[..., 0], pairs[..., 1]
    matrix[..., first, first], matrix[..., second, second] = scale, scale
    matrix[..., first, second], matrix[..., second, first] = -turn, turn
    return matrix


def rotary_generators(size: int, layout: str) -> list[Tensor]:
    """The scale, then the rotation, of every pair as directions (n, n)."""
    zero = rotary_matrix(torch.zeros(size // 2, 2, dtype=torch.float64), size, layout)
    pairs = torch.eye(2 * (size // 2), dtype=torch.float64)
    return [rotary_matrix(pair.reshape(-1, 2), size, layout) - zero for pair in pairs]


def random_pairs(on: IndexSet, generator: torch.Generator, spread: float) -> Tensor:
    """A uniform angle and a log-normal scale for each pair, as matrices (F, n, n)."""
    pairs = (*on.fibre, on.size // 2)
    unit = torch.randn(*pairs, 2, generator=generator, dtype=torch.float64)
    radius = torch.exp(spread * torch.randn(*pairs, 1, generator=generator, dtype=torch.float64))
    return rotary_matrix(radius * unit / unit.norm(dim=-1, keepdim=True), on.size, on.layout)


def best_rotations(correlation: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """The best angle of each pair for a correlation (..., n, n), as a matrix; the value is the sum of the moduli."""
    size = correlation.shape[-1]
    first, second = pair_indices(size, layout)
    trace = correlation[..., first, first] + correlation[..., second, second]
    skew = correlation[..., second, first] - correlation[..., first, second]
    modulus = torch.hypot(trace, skew)
    turns = modulus > 0
    safe = torch.where(turns, modulus, torch.ones_like(modulus))
    cosine = torch.where(turns, trace / safe, torch.ones_like(trace))
    unit = torch.stack([cosine, skew / safe], dim=-1)
    odd = correlation[..., size - 1, size - 1] if size % 2 else 0.0
    return rotary_matrix(unit, size, layout), modulus.sum(-1) + odd
