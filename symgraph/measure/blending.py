"""Ways of making one tensor of several, as recipes of merges name them: each a function of tensors and numbers.

Source: linear, Wortsman et al., arXiv 2203.05482; slerp, Shoemake 1985; task arithmetic, arXiv 2212.04089; TIES,
Yadav et al., arXiv 2306.01708; DARE, Yu et al., arXiv 2311.03099. What they leave open is as mergekit has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Directions that are nearer than this are mixed on a straight line.
PARALLEL = 0.9995
Sparsify = Callable[[Tensor, float, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class Deltas:
    """A mean of differences from a base: how each is thinned out, whether signs have to agree, and what is divided by.

    `rescale`: what was thinned out keeps its sum of magnitudes. `normalise`: divide by the sum of the weights.
    """

    sparsify: Sparsify | None = None
    elect: bool = False
    normalise: bool = False
    rescale: bool = False


def linear(tensors: Sequence[Tensor], weights: Sequence[float], *, normalise: bool = True) -> Tensor:
    """The weighted sum, or the weighted mean.

    Raises:
        ValueError: the weights of a mean sum to zero.
    """
    total = sum(weights) if normalise else 1.0
    if abs(total) < 1e-8:
        raise ValueError("the weights sum to zero")
    combined = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        combined.add_(tensor, alpha=weight / total)
    return combined


def slerp(base: Tensor, other: Tensor, t: float) -> Tensor:
    """The point at `t` of the arc between the directions of two tensors; of parallel ones of the segment."""
    norms = [tensor.norm().clamp_min(1e-8) for tensor in (base, other)]
    cosine = float((base / norms[0] * (other / norms[1])).sum().clamp(-1, 1))
    if abs(cosine) > PARALLEL:
        return torch.lerp(base, other, t)
    angle = torch.tensor(cosine, dtype=base.dtype).acos()
    first, second = (((1 - t) * angle).sin(), (t * angle).sin())
    return (first * base + second * other) / angle.sin()


def deltas(
    base: Tensor,
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    densities: Sequence[float],
    how: Deltas,
    strength: float,
    generator: torch.Generator,
) -> Tensor:
    """The base and so much of the mean of the others' differences from it."""
    parts = [
        _thinned(tensor - base, density, how, generator) * weight
        for tensor, weight, density in zip(tensors, weights, densities, strict=True)
    ]
    total, divisor = torch.zeros_like(base), torch.zeros_like(base)
    sign = _elected(parts) if how.elect else None
    for part, weight in zip(parts, weights, strict=True):
        agrees = torch.ones_like(base) if sign is None else (part.sign() == sign).to(base)
        total.add_(part * agrees)
        divisor.add_(agrees, alpha=weight)
    if how.normalise:
        total = total / torch.where(divisor.abs() < 1e-8, 1.0, divisor)
    return base + strength * total


def largest(delta: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """The entries of the largest magnitudes, so many of them; zero elsewhere."""
    kept = max(1, int(density * delta.numel()))
    chosen = delta.abs().flatten().topk(kept).indices
    mask = torch.zeros_like(delta).flatten().index_fill_(0, chosen, 1.0)
    return delta * mask.view_as(delta)


def dropped(delta: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Entries kept with this probability; zero elsewhere."""
    return delta * (torch.rand(delta.shape, generator=generator, dtype=torch.float64) < density).to(delta)


def _thinned(delta: Tensor, density: float, how: Deltas, generator: torch.Generator) -> Tensor:
    if how.sparsify is None or density >= 1 or not delta.numel():
        return delta
    if density <= 0:
        return torch.zeros_like(delta)
    kept = how.sparsify(delta, density, generator)
    before, after = float(delta.abs().sum()), float(kept.abs().sum())
    return kept * (before / after) if how.rescale and min(before, after) > 1e-7 else kept


def _elected(parts: Sequence[Tensor]) -> Tensor:
    """The sign of the sum at every entry; plus where it is zero."""
    total = torch.stack(list(parts)).sum(0)
    return torch.where(total >= 0, 1.0, -1.0).to(total)


DELTAS = {
    "task_arithmetic": Deltas(),
    "ties": Deltas(largest, elect=True, normalise=True),
    "dare_linear": Deltas(dropped, rescale=True),
    "dare_ties": Deltas(dropped, elect=True, rescale=True),
}
METHODS = ("linear", "slerp", *DELTAS)
