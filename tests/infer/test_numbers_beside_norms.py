"""A number that is added behind a norm leaves the plane that the norm writes into: its readers see the mean."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import symgraph

Change = Callable[[Tensor], Tensor]
CENTRED: dict[str, Change] = {
    "by hand": lambda h: h - h.mean(-1, keepdim=True),
    "layer norm": lambda h: nn.functional.layer_norm(h, (6,)),
}
# What adds a number to every entry, and what moves entries alone.
SEEN: dict[str, Change] = {
    "plus": lambda h: h + 1.0,
    "minus": lambda h: h - 0.5,
    "mean of tokens": lambda h: h.mean(1, keepdim=True) + 1.0,
}
UNSEEN: dict[str, Change] = {
    "nothing": lambda h: h,
    "turned": lambda h: h.transpose(0, 1),
    "plus zero": lambda h: h + 0.0,
}


class Net(nn.Module):
    """A map, what centres its result, a change of that, and a reader."""

    def __init__(self, centre: Change, change: Change) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.write, self.read, self.head = nn.Linear(4, 6), nn.Linear(6, 7), nn.Linear(7, 3)
        self.centre, self.change = centre, change
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.relu(self.read(self.change(self.centre(self.write(x))))))
        return found


def unseen_means(model: nn.Module) -> set[str]:
    """The readers along whose axis the mean of what they hold is not seen, once the proof holds."""
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    found = symgraph.infer(model, x)
    symgraph.verify(model, x, symmetry=found).raise_if_failed()
    return {piece.parameter for centred in found.centred if not centred.written for piece in centred.pieces}


@pytest.mark.parametrize("centre", CENTRED)
@pytest.mark.parametrize("change", SEEN)
def test_a_number_shows_the_mean(centre: str, change: str) -> None:
    assert not unseen_means(Net(CENTRED[centre], SEEN[change]))


@pytest.mark.parametrize("centre", CENTRED)
@pytest.mark.parametrize("change", UNSEEN)
def test_what_moves_entries_does_not(centre: str, change: str) -> None:
    assert unseen_means(Net(CENTRED[centre], UNSEEN[change])) == {"read.weight"}


def test_a_number_behind_a_gain_shows_what_leans() -> None:
    norm = nn.LayerNorm(6)
    norm.weight.data += torch.linspace(-0.3, 0.3, 6)
    model = Net(norm, lambda h: h + 1.0)
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    found = symgraph.infer(model, x)
    symgraph.verify(model, x, symmetry=found).raise_if_failed()
    assert not found.leans
