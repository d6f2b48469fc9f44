"""Models that return a loss over all entries, as autoencoders and vector quantisers do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from function_nets import Net
from torch import Tensor, nn
from torch.nn import functional

import symgraph

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, tuple[Loss, str]] = {
    "mse": (lambda a, b: functional.mse_loss(a, b), "orthogonal"),
    "summed": (lambda a, b: functional.mse_loss(a, b, reduction="sum"), "orthogonal"),
    "mean of squares": (lambda a, b: ((a - b) ** 2).mean(), "orthogonal"),
    "sum of products": (lambda a, b: ((a - b) * (a - b)).sum(), "orthogonal"),
    "over all axes": (lambda a, b: (a - b).square().mean((0, 1)), "orthogonal"),
    "absolute": (lambda a, b: functional.l1_loss(a, b), "permutation"),
    "smooth": (lambda a, b: functional.smooth_l1_loss(a, b), "permutation"),
    "fourth power": (lambda a, b: ((a - b) ** 4).mean(), "signed permutation"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_loss_compares_moves_as_far_as_it_allows(name: str) -> None:
    loss, group = LOSSES[name]
    torch.manual_seed(0)
    model = Net(lambda s, x: loss(s.one(x), s.other(x)), one=nn.Linear(5, 4), other=nn.Linear(5, 4)).double()
    x = torch.randn(30, 5, dtype=torch.float64)
    symmetry = symgraph.infer(model, x)
    assert [str(space.group) for space in symmetry.active if space.size == 4] == [group]
    assert symgraph.verify(symmetry, model).passed
    moved = symgraph.sample(model, x, seed=1)
    assert torch.allclose(moved(x), model(x), rtol=1e-10)


def test_masks_that_move_have_no_derivative() -> None:
    """Of a masked autoregressive network, whose hidden units take their masks with them."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 8)
            self.register_buffer("mask", torch.rand(6, 8) < 0.6)

        def forward(self, x: Tensor) -> Tensor:
            hidden = functional.linear(x, self.get_buffer("mask") * self.first.weight, self.first.bias)
            out: Tensor = self.second(torch.relu(hidden))
            return out

    torch.manual_seed(0)
    model = Masked()
    symmetry = symgraph.infer(model, torch.randn(20, 8))
    assert [str(space.group) for space in symmetry.active] == ["positive monomial"]
    assert symgraph.audit(symmetry, model).complete
