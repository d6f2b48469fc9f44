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
    seen = (n for n in symmetry.terms if n in kept and n in state and state[n].is_floating_point())
    return {n: float(state[n].square().mean().sqrt()) if state[n].numel() else 0.0 for n in seen}


def noise_weights(
    symmetry: SymmetryGraph, to: Transform, b: State, sizes: Mapping[str, float], probes: int = 2
) -> dict[str, float]:
    """One over the variance that noise of equal share in every tensor of B has in another gauge, by parameter."""
    generator, found = torch.Generator().manual_seed(SEED + 2), dict[str, float]()
    for _ in range(probes):
        noise = {n: sizes[n] * _noise_like(t, generator) if n in sizes else t for n, t in b.items()}
        moved = to.apply(noise, linear=True)
        for n in sizes:
            found[n] = found.get(n, 0.0) + float(moved[n].square().mean()) / probes
    least = 1e-12 * max(found.values(), default=1.0)
    # What the canonical form leaves open says nothing there.
    ports = (p for c in tilted(symmetry) for p in (c.source, *(s.port for s in c.shares if s.port.plane is not None)))
    free = {p.piece.parameter for p in ports}
    return {n: 0.0 if n in free else 1.0 / max(v, least) for n, v in found.items() if n in symmetry.graph.parameters}


def _noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
