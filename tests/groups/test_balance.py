"""Points of least norm: where slopes vanish, and units that have none."""

from __future__ import annotations

import torch

from symgraph.groups.balance import equalised

# Three kinds of occurrence, two free scales.
KINDS = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.0], [1.0, 1.0]], dtype=torch.float64)


def _values(units: int) -> torch.Tensor:
    return torch.rand(len(KINDS), units, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e3


def test_the_slope_vanishes_along_every_scale() -> None:
    values = _values(200)
    logs = equalised(values, KINDS).log()
    weights = values * torch.exp(2 * KINDS @ logs)
    slopes = KINDS.T @ (weights / weights.sum(0))
    assert slopes.abs().max() < 1e-14


def test_planted_scales_are_taken_off_again() -> None:
    balanced = _values(50)
    balanced = balanced * torch.exp(2 * KINDS @ equalised(balanced, KINDS).log())
    planted = torch.randn(2, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = equalised(balanced * torch.exp(2 * KINDS @ planted), KINDS).log()
    torch.testing.assert_close(found, -planted, rtol=0, atol=1e-12)


def test_a_unit_that_one_side_alone_pulls_at_stays_beside_one_that_moves() -> None:
    values = _values(3)
    values[2:, 0] = 0.0  # Nothing holds the second scale from below.
    values[:, 1] = 0.0  # Nothing is there at all.
    scales = equalised(values, KINDS)
    assert bool((scales[:, :2] == 1).all())
    assert bool((scales[:, 2] != 1).all())
