"""Polar factors by Newton's iteration are those of the SVD, and reach its optimum where there are several."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from symgraph.groups.rotations import polar, polar_by_newton


def matrices(size: int, *, least: float, lost: int = 0) -> Tensor:
    """Three matrices whose singular values fall from one to `least`, the last ones being zero."""
    generator = torch.Generator().manual_seed(size)
    u, _, vt = torch.linalg.svd(torch.randn(3, size, size, dtype=torch.float64, generator=generator))
    values = torch.logspace(0, least, size, dtype=torch.float64)
    values[size - lost :] = 0
    made: Tensor = (u * values) @ vt
    return made


@pytest.mark.parametrize("size", [1, 2, 17, 64])
@pytest.mark.parametrize("least", [0, -6])
def test_it_is_that_of_the_svd(size: int, least: int) -> None:
    c = matrices(size, least=least)
    found = polar_by_newton(c)
    expected, _ = polar(c)
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.mT @ found, torch.eye(size).double().expand(3, -1, -1), rtol=0, atol=1e-12)


def test_of_a_singular_matrix_it_reaches_the_optimum() -> None:
    c = matrices(16, least=-3, lost=2)
    found = polar_by_newton(c)
    if found is not None:
        torch.testing.assert_close((found * c).sum((-2, -1)), polar(c)[1], rtol=1e-12, atol=0)


def test_what_has_no_inverse_is_told() -> None:
    assert polar_by_newton(torch.zeros(2, 4, 4, dtype=torch.float64)) is None
    assert polar_by_newton(torch.full((1, 2, 2), torch.nan, dtype=torch.float64)) is None
