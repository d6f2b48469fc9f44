"""Parameters that code reads from a list of its own, where they have no name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import symgraph


class Scaled(nn.Module):
    """Layers with gains that are registered one by one, and read from a plain list (as pykan does)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.gains: list[Tensor] = []
        for number in range(2):
            self.register_parameter(f"gain_{number}", nn.Parameter(1.0 + 0.2 * torch.rand(4)))
            self.gains.append(self.get_parameter(f"gain_{number}"))
        self.head = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        for layer, gain in zip(self.layers, self.gains, strict=True):
            x = torch.relu(gain * layer(x))
        out: Tensor = self.head(x)
        return out


def test_they_are_the_parameters_that_are_registered() -> None:
    torch.manual_seed(0)
    model, x = Scaled().double(), torch.randn(3, 4, dtype=torch.float64)
    symmetry = symgraph.infer(model, x)
    assert not symmetry.graph.unread and not any("full" in node.target for node in symmetry.graph.calls)
    assert [str(space.group) for space in symmetry.active] == ["positive monomial"] * 2
    assert symgraph.verify(symmetry, model).passed


def test_a_moved_module_reads_them_as_well() -> None:
    torch.manual_seed(0)
    model, x = Scaled().double(), torch.randn(3, 4, dtype=torch.float64)
    moved = symgraph.sample(model, x, seed=1)
    assert not torch.equal(moved.gains[0], model.gains[0]) and moved.gains[0] is moved.get_parameter("gain_0")
    assert torch.allclose(moved(x), model(x), rtol=1e-10)


def test_what_only_shares_memory_is_another_value() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 4, dtype=torch.float64))
            self.parts = [self.weight.detach()[:3]]

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x @ self.weight.T) @ self.weight + (x @ self.parts[0].T).sum(-1, keepdim=True)

    model, x = Part(), torch.randn(3, 4, dtype=torch.float64)
    symmetry = symgraph.infer(model, x)
    moved = symgraph.sample(model, x, seed=1)
    assert symgraph.verify(symmetry, model).passed and torch.allclose(moved(x), model(x), rtol=1e-10)
