"""Norms that centre an axis made of several: patches and heads that are laid out flat before the norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import symgraph


class _Flat(nn.Module):
    """A layer norm over an axis of two times four, and a map that reads it.

    `crossed`: the map reads the two factors in the other order than the norm's gain has them. `inner`: the axis is made
    by the network and not by its input.
    """

    def __init__(self, *, affine: bool = True, bias: bool = True, crossed: bool = False, inner: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.crossed = crossed
        self.embed = nn.Linear(3, 8) if inner else nn.Identity()
        self.norm = nn.LayerNorm(8, elementwise_affine=affine)
        self.map = nn.Linear(8, 5, bias=bias)
        self.head = nn.Linear(5, 3)
        for p in self.parameters():
            nn.init.normal_(p)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.embed(x)).reshape(-1, 2, 4)
        x = self.norm(x.reshape(-1, 8))
        if self.crossed:
            x = x.reshape(-1, 2, 4).transpose(1, 2).reshape(-1, 8)
        found: Tensor = self.head(torch.tanh(self.map(x)))
        return found


@pytest.mark.parametrize(
    ("inferred", "measured", "net"),
    [
        (21, 21, {}),
        (16, 16, {"bias": False}),
        (5, 5, {"affine": False}),
        (5, 5, {"affine": False, "bias": False}),
        (21, 21, {"inner": True}),
        (5, 5, {"affine": False, "crossed": True}),
        (21, 21, {"crossed": True}),
        (21, 21, {"crossed": True, "inner": True}),
    ],
    ids=str,
)
def test_what_a_norm_of_a_flat_axis_does_not_see(inferred: int, measured: int, net: dict[str, bool]) -> None:
    model = _Flat(**net).double().eval()
    example = (torch.randn(9, 3 if net.get("inner") else 8, dtype=torch.double),)
    found = symgraph.audit(model, example)
    assert (found.inferred, found.measured) == (inferred, measured)
    assert not found.unsound
    moved = symgraph.sample(model, example)
    torch.testing.assert_close(moved(*example), model(*example), rtol=1e-9, atol=1e-9)
