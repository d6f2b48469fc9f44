"""Gains that noise has carried through zero: their readers point the other way, and no small step leads there.

A gain and what reads it may be multiplied by one number and its inverse, entry by entry. On the way from one sign to
the other the gain goes through infinity, so that a fit stays on its side.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from symgraph.orbit.fitted import square
from symgraph.orbit.steps import State, rescale
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import AbsorbedGain

# Factors that are tried, and as many with the other sign.
FACTORS = torch.logspace(-2, 2, 81, dtype=torch.float64)


def with_nearer_signs(
    symmetry: SymmetryGraph, here: State, target: Mapping[str, Tensor], weights: Mapping[str, float]
) -> State:
    """The state with the signs of single gains, and of what reads them, for which it is nearer to the target.

    Args:
        here, target: states in float64, in one gauge.
        weights: of the tensors that count, by name.
    """
    signed = (sites for name, sites in symmetry.gain_sites.items() if not symmetry.is_positive(name))
    for sites in signed:
        here = _turned(symmetry, sites, here, target, weights)
    return here


def _turned(
    symmetry: SymmetryGraph,
    sites: tuple[AbsorbedGain, ...],
    here: State,
    target: Mapping[str, Tensor],
    weights: Mapping[str, float],
) -> State:
    def moved(factor: Tensor) -> State:
        return rescale(symmetry, sites, factor).apply(here)

    one = torch.ones(prod(symmetry.shapes[sites[0].parameter]), dtype=torch.float64, requires_grad=True)
    at, twice, thrice = moved(one), moved(2 * one.detach()), moved(3 * one.detach())
    factors = torch.cat([FACTORS, -FACTORS])[:, None]
    costs = torch.zeros(len(factors), len(one), dtype=torch.float64)
    for name in (name for name in weights if at[name].requires_grad):
        first, second = (there[name] - here[name] for there in (twice, thrice))
        # What is multiplied by a factor grows evenly, what is divided by it does not.
        grows = bool((second - 2 * first).norm() < (second - first * 4 / 3).norm())
        slope = first if grows else -2 * first
        pair = (slope, target[name] - here[name])
        size, along = (_by_entry(at[name], one, weights[name] ** 2 * by, grows) for by in pair)
        way = (factors if grows else 1 / factors) - 1
        costs += way.square() * size - 2 * way * along
    best = costs.argmin(0)
    chosen = torch.where(best < len(FACTORS), 1.0, factors[best, 0])
    if bool((chosen > 0).all()):
        return here
    there = moved(chosen)
    return there if square(there, target, weights) < square(here, target, weights) else here


def _by_entry(tensor: Tensor, factor: Tensor, by: Tensor, grows: bool) -> Tensor:
    """The inner product with the slope of a tensor, for each entry of the factor."""
    (found,) = torch.autograd.grad((tensor * by).sum(), factor, retain_graph=True)
    return found if grows else -found
