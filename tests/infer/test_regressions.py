"""Models on which inference once claimed too much."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from symgraph.infer.engine import infer
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.trace import trace
from symgraph.verify import verify


class EverySecond(nn.Module):
    """A norm's bias that is read with a step, beside a part that is cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        rotated, _ = self.norm(self.first(x)).split([4, 4], -1)
        found: Tensor = self.last(rotated[..., 0::2] * rotated[..., 1::2])
        return found


class HeadsToHeads(nn.Module):
    """A weight that maps (heads, features) to heads: which of the two would a feature map be fibred over?"""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.out = nn.Linear(5, 8), nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        value = self.value(x)
        heads = value.unflatten(-1, (2, 4)) * self.gate(value).sigmoid().unsqueeze(-1)
        found: Tensor = self.out(heads.flatten(-2))
        return found


class WeightOnTheLeft(nn.Module):
    """A gain whose reader is the first operand of a product, so that its axis names the frame."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.RMSNorm(6), nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last @ self.norm(self.first(x)).transpose(-1, -2)
        return found


def checked(model: nn.Module, *shape: int) -> SymmetryGraph:
    symmetry = infer(trace(model, (torch.randn(shape),)))
    verify(symmetry).raise_if_failed()
    return symmetry


def test_what_is_read_with_a_step_is_seen() -> None:
    assert not [m for m in checked(EverySecond(), 3, 4).moves if m.source.start == 0]


def test_a_space_that_stands_twice_beside_is_no_fibre() -> None:
    symmetry = checked(HeadsToHeads(), 3, 5)
    assert all(len(s.fibre) == 0 for s in symmetry.active)


@pytest.mark.parametrize("batch", [(), (2,)])
def test_a_gain_read_from_the_left(batch: tuple[int, ...]) -> None:
    symmetry = checked(WeightOnTheLeft(), *batch, 3, 4)
    assert [g.parameter for g in symmetry.gains] == ["norm.weight"]
    assert {str(s.group) for s in symmetry.active} == {"orthogonal"}
