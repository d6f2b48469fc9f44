"""Models whose signal fades to what rounding leaves of constants: verified where there is something to see."""

from __future__ import annotations

import torch
from torch import nn

import symgraph


def faded(scale: float) -> nn.Module:
    """Blocks whose norms have the statistics of no data, so that each makes what it reads smaller."""
    torch.manual_seed(0)
    linear = [nn.Linear(6, 6) for _ in range(4)]
    for layer in linear:
        nn.init.normal_(layer.weight, std=scale)
        nn.init.zeros_(layer.bias)
    blocks = [nn.Sequential(layer, nn.BatchNorm1d(6), nn.SiLU()) for layer in linear]
    return nn.Sequential(*blocks, nn.Linear(6, 5, bias=False)).eval()


def test_rounding_is_not_taken_for_a_change() -> None:
    model, x = faded(1e-4), torch.randn(8, 6)
    assert float(model(x).abs().max()) < 1e-14
    found = symgraph.verify(model, x)
    assert found.passed and "rounding alone changes outputs by" in found.note and "note: " in str(found)


def test_models_with_a_signal_are_verified_as_they_are() -> None:
    found = symgraph.verify(faded(0.5), torch.randn(8, 6))
    assert found.passed and not found.note
