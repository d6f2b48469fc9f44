"""Polar factors by products alone are those of the SVD."""

from __future__ import annotations

import math

import pytest
import torch
from spectra import SHAPES, matrices

from symgraph.groups.rotations import polar, polar_by_newton_schulz


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("least", [math.nan, 0.0, -3.0, -6.0, -12.0])
def test_factors_are_those_of_the_svd(rows: int, columns: int, least: float) -> None:
    c = matrices(rows, columns, least=least)
    found = polar_by_newton_schulz(c)
    expected, value = polar(c)
    assert found is not None
    # A factor is as sensitive as the least singular value is small.
    condition = 10 ** (0.0 if math.isnan(least) else -least)
    assert (found - expected).abs().max() < 1e-13 * max(10.0, condition)
    gram = found.mT @ found if rows >= columns else found @ found.mT
    torch.testing.assert_close(gram, torch.eye(len(gram[0])).double().expand(3, -1, -1), rtol=0, atol=1e-13)
    torch.testing.assert_close((found * c).sum((-2, -1)), value, rtol=1e-13, atol=0)


def test_a_singular_matrix_has_none() -> None:
    assert polar_by_newton_schulz(matrices(16, 16, least=-3, lost=2)) is None
    assert polar_by_newton_schulz(torch.zeros(2, 4, 4, dtype=torch.float64)) is None
    assert polar_by_newton_schulz(torch.full((1, 2, 2), torch.nan, dtype=torch.float64)) is None
