"""What devices compute by products alone, where LAPACK would be slow there, is what it finds."""

from __future__ import annotations

import math

import pytest
import torch
from elsewhere import DEVICE, Elsewhere
from spectra import SHAPES, matrices
from torch import Tensor

from symgraph.groups.balance import balanced
from symgraph.groups.charts import _conditioned
from symgraph.groups.rotations import nuclear_norm, polar


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("least", [math.nan, -6.0, -14.0])
@pytest.mark.parametrize("lost", [0, 1])
def test_sums_of_singular_values_are_the_same_on_a_device(rows: int, columns: int, least: float, lost: int) -> None:
    c = matrices(rows, columns, least=least, lost=lost)
    with Elsewhere():
        values = [v.cpu() for v in (nuclear_norm(c.to(DEVICE)), polar(c.to(DEVICE))[1])]
    for value in values:
        torch.testing.assert_close(value, nuclear_norm(c), rtol=1e-13, atol=0)


def moments(size: int, condition: float, empty: int = 0) -> Tensor:
    q = torch.linalg.qr(matrices(size, size, least=math.nan)).Q
    values = torch.logspace(0, -math.log10(condition), size, dtype=torch.float64)
    values[size - empty :] = 0
    made: Tensor = (q * values) @ q.mT
    return made


@pytest.mark.parametrize(("condition", "empty"), [(1.0, 0), (1e3, 0), (1e6, 0), (1e3, 2)])
def test_spaces_are_balanced_the_same_on_a_device(condition: float, empty: int) -> None:
    co, dual = moments(20, condition, empty), moments(20, condition, empty).flip(0)
    with Elsewhere():
        found = [t.cpu() for t in balanced(co.to(DEVICE), dual.to(DEVICE))]
    for one, other in zip(found, balanced(co, dual), strict=True):
        assert (one - other).norm() < 1e-14 * max(10.0, condition) * other.norm()
    g, dual_g = found
    moved = g @ co @ g.mT
    if not empty:
        torch.testing.assert_close(moved, dual_g @ dual @ dual_g.mT, rtol=0, atol=1e-13)
        torch.testing.assert_close(g @ dual_g.mT, torch.eye(20).double().expand(3, -1, -1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("least", [-1.0, -1.999, -2.001, -6.0])
def test_condition_numbers_are_limited_the_same_on_a_device(least: float) -> None:
    matrix = matrices(24, 24, least=least)
    with Elsewhere():
        found = _conditioned(matrix.to(DEVICE), 100.0).cpu()
    torch.testing.assert_close(found, _conditioned(matrix, 100.0), rtol=0, atol=1e-14)
    assert torch.equal(found, matrix) == (least > -2)
