"""Sums of products, piece by piece: those of the whole, whatever shape, strides and dtype a tensor has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from symgraph.io import sums
from symgraph.io.sums import inner, square

TENSORS = {
    "a number": torch.tensor(3.0),
    "nothing": torch.empty(0, 4),
    "a row longer than a piece": torch.randn(3, 50),
    "a last piece that is shorter": torch.randn(7, 5),
    "columns": torch.randn(6, 9).T,
    "one row for all": torch.randn(1, 4).expand(9, 4),
    "halves": torch.randn(11, 3).bfloat16(),
    "more axes": torch.randn(5, 2, 3).permute(1, 2, 0),
}


@pytest.mark.parametrize("name", TENSORS)
def test_it_is_the_sum_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_PIECE", 20)
    one: Tensor = TENSORS[name]
    other = torch.randn(one.shape).to(one.dtype)
    assert inner(one, other) == pytest.approx(float((one.double() * other.double()).sum()), rel=1e-12, abs=1e-12)
    assert square(one) == pytest.approx(float(one.double().square().sum()), rel=1e-12)
