"""How much the tensors of a model count where another one is compared with it that has noise in them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from symgraph.match.match_options import MatchOptions
from symgraph.orbit.fitted import SEED
from symgraph.orbit.steps import State, Transform
from symgraph.orbit.upright import tilted
from symgraph.symmetry.graph import SymmetryGraph

OPTIONS = MatchOptions(precision="float64", sweeps=20)


def sizes_of(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> dict[str, float]:
    """The root mean square of each tensor that models are compared by: what a checkpoint stores and the graph reads."""
    kept = symmetry.graph.state.keys() - symmetry.graph.transient
    tensors = {name: state[name] for name in symmetry.terms if name in kept and name in state}
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    return {name: float(own.square().mean().sqrt()) if own.numel() else 0.0 for name, own in floating.items()}


def noise_weights(
    symmetry: SymmetryGraph, to: Transform, b: State, sizes: Mapping[str, float], probes: int = 2
) -> dict[str, float]:
    """One over the variance that noise of equal share in every tensor of B has in another gauge, by parameter."""
    generator, variances = torch.Generator().manual_seed(SEED + 2), dict.fromkeys(sizes, 0.0)
    for _ in range(probes):
        noise = {name: sizes[name] * _noise_like(own, generator) if name in sizes else own for name, own in b.items()}
        moved = to.apply(noise, linear=True)
        for name in sizes:
            variances[name] += float(moved[name].square().mean()) / probes
    least = 1e-12 * max(variances.values(), default=1.0)
    weights = {name: 1.0 / max(variances[name], least) for name in sizes if name in symmetry.graph.parameters}
    # What the canonical form leaves open says nothing there.
    for constant in tilted(symmetry):
        planes = [share.port for share in constant.shares if share.port.plane is not None]
        weights |= {port.piece.parameter: 0.0 for port in (constant.source, *planes) if port.piece.parameter in weights}
    return weights


def _noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
