"""Weighted means of states of one architecture, and what the weights must be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.io.state import check_finite

State = dict[str, Tensor]


def interpolate(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> State:
    """The weighted mean of states of one architecture, each tensor in the dtype of the first state.

    Integers, and tensors that are equal in all states, are those of the first.

    Raises:
        UsageError: the weights do not fit.
        CheckpointError: the mean overflows its dtype.
    """
    check_weights(weights, len(states))
    found = {name: _mean([s[name] for s in states], weights) for name in states[0]}
    check_finite({n: t for n, t in found.items() if t is not states[0][n]}, where="the weighted mean")
    return found


def _mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    first = tensors[0]
    # Infinite entries of a mask, times a weight of zero, would become NaN.
    if not (first.is_floating_point() or first.is_complex()) or all(torch.equal(first, t) for t in tensors[1:]):
        return first
    wide = torch.complex128 if first.is_complex() else torch.float64
    total = torch.zeros(first.shape, dtype=wide)
    for t, w in zip(tensors, weights, strict=True):
        total.add_(t.detach().to("cpu", wide), alpha=w)
    return total.to(first.dtype)


def dirichlet(models: int, concentration: float, samples: int, seed: int) -> list[tuple[float, ...]]:
    """Random weights of this many models; the seed decides alone, whatever has been drawn elsewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parameter = torch.full((models,), concentration, dtype=torch.float64)
        drawn = torch.distributions.Dirichlet(parameter).sample((samples,))
    return [tuple(row) for row in drawn.tolist()]


def check_weights(weights: Sequence[float], models: int) -> None:
    """Raise unless there is one weight for each of two models or more, and they sum to one.

    Raises:
        UsageError: saying what is wrong and which weights would do.
    """
    if models < 2:
        raise UsageError(f"{models} model: there is nothing to merge it with", remedy="name two models or more")
    if len(weights) != models:
        even = " ".join([f"{1 / models:.6g}"] * models)
        raise UsageError(f"{models} models and {len(weights)} weights", remedy=f"give one for each, such as {even}")
    total = math.fsum(weights)
    if abs(total - 1) <= 1e-6:
        return
    scaled = " ".join(f"{w / total:.6g}" for w in weights) if total > 0 and math.isfinite(total) else ""
    remedy = f"in these proportions: {scaled}" if scaled else "give shares such as 0.5 0.5"
    raise UsageError(f"the weights sum to {total:g}, not to one", remedy=remedy)
