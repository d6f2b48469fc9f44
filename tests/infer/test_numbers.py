"""Learned numbers that multiply a value: the maps beside them can make up for a factor."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import symgraph
from symgraph.inference.pipeline import infer
from symgraph.prove.audit import audit
from symgraph.prove.verify import verify
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace

Forward = Callable[["Scaled", Tensor], Tensor]


class Scaled(nn.Module):
    """Maps and numbers that a function puts together."""

    def __init__(self, f: Forward, shape: tuple[int, ...] = (), bias: bool = False) -> None:
        super().__init__()
        self.f, self.first, self.second = f, nn.Linear(3, 4, bias=bias), nn.Linear(4, 3, bias=bias)
        self.g, self.h = nn.Parameter(torch.full(shape, 0.7)), nn.Parameter(torch.full(shape, 1.3))

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self, x)


def written(m: Scaled, x: Tensor) -> Tensor:
    result: Tensor = m.second(torch.tanh(m.first(x) * m.g))
    return result


def read(m: Scaled, x: Tensor) -> Tensor:
    result: Tensor = m.second(m.g * torch.tanh(m.first(x)))
    return result


def twice(m: Scaled, x: Tensor) -> Tensor:
    result: Tensor = m.second(torch.tanh(m.h * (m.g * m.first(x))))
    return result


def at_both_maps(m: Scaled, x: Tensor) -> Tensor:
    result: Tensor = m.g * m.second(torch.tanh(m.g * m.first(x)))
    return result


def seen_elsewhere(m: Scaled, x: Tensor) -> Tensor:
    result: Tensor = m.second(torch.tanh(m.first(x) * m.g)) + m.g
    return result


def writer_used_twice(m: Scaled, x: Tensor) -> Tensor:
    result: Tensor = m.second(torch.tanh(m.first(x) * m.g)) + m.second(torch.tanh(m.first(x + 1)))
    return result


def product_of_one_map(m: Scaled, x: Tensor) -> Tensor:
    h = m.first(x).view(5, 4, 4)
    result: Tensor = m.second(torch.tanh((h @ h) * m.g))
    return result


def product_with_positions(m: Scaled, x: Tensor) -> Tensor:
    h = m.first(x).view(5, 4, 4)
    result: Tensor = m.second(torch.tanh((x.view(5, 4, 3) @ x.view(5, 3, 4) @ h) * m.g))
    return result


FOUND: dict[str, tuple[Forward, list[tuple[str, ...]]]] = {
    "written": (written, [("g", "first.weight")]),
    "read": (read, [("g", "second.weight")]),
    "twice": (twice, [("g", "first.weight"), ("h", "first.weight")]),
    "at-both-maps": (at_both_maps, [("g", "first.weight", "second.weight")]),
    "seen-elsewhere": (seen_elsewhere, []),
    "writer-used-twice": (writer_used_twice, []),
    "product-with-positions": (product_with_positions, [("g", "first.weight")]),
}


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("case", FOUND)
def test_numbers_and_what_makes_up_for_them(case: str, shape: tuple[int, ...]) -> None:
    f, expected = FOUND[case]
    symmetry = infer(trace(Scaled(f, shape), (torch.randn(20, 3),)))
    assert sorted(r.tensors for r in symmetry.radial) == expected
    verify(symmetry).raise_if_failed()
    found = audit(symmetry)
    assert found.inferred == found.measured
    assert SymmetryGraph.from_json(symmetry.to_json()).radial == symmetry.radial


def test_a_product_of_one_map_has_the_square_of_its_factor() -> None:
    """The factor of the map stands twice in it: with the same one the number would make up for too little."""
    symmetry = infer(trace(Scaled(product_of_one_map), (torch.randn(20, 3),)))
    assert symmetry.radial == ()
    assert audit(symmetry).measured == 1


def test_biases_of_writers_take_part() -> None:
    symmetry = infer(trace(Scaled(written, bias=True), (torch.randn(20, 3),)))
    (radial,) = symmetry.radial
    ones = {name: torch.ones(()) for name in radial.tensors}
    moved = {name: float(tensor) for name, tensor in radial.times(ones, torch.tensor(2.0)).items()}
    assert moved == {"g": 0.5, "first.weight": 2.0, "first.bias": 2.0}
    verify(symmetry).raise_if_failed()


class Residual(nn.Module):
    """A residual block of convolutions whose branch begins at nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.inner, self.outer = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 1)
        self.gain, self.head = nn.Parameter(torch.tensor(0.2)), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        result: Tensor = self.head(x + self.gain * self.outer(F.silu(self.inner(x))))
        return result


def pair(gain: float) -> tuple[Residual, Residual]:
    """A block, and the same with another gain, which the branch makes up for where it can."""
    torch.manual_seed(0)
    one = Residual()
    other = copy.deepcopy(one)
    factor = one.gain.item() / gain if gain else 1.0
    with torch.no_grad():
        other.gain.fill_(gain)
        for parameter in other.outer.parameters():
            parameter.mul_(factor)
    return one, other


@pytest.mark.parametrize("gain", [0.05, -1.5])
def test_alignment_takes_a_factor_back(gain: float) -> None:
    one, other = pair(gain)
    moved = dict(symgraph.align(one, other, torch.randn(2, 2, 4, 4)).module.named_parameters())
    assert all(torch.allclose(moved[n], p, atol=1e-5) for n, p in one.named_parameters())


def test_a_number_that_is_zero_stays() -> None:
    one, other = pair(0.0)
    x = torch.randn(2, 2, 4, 4)
    for first, second in ((one, other), (other, one)):
        aligned = symgraph.align(first, second, x)
        gains = [dict(model.named_parameters())["gain"].item() for model in (second, aligned.module)]
        assert (gains[0] == 0) == (gains[1] == 0)
        torch.testing.assert_close(aligned.module(x), second(x), rtol=0, atol=1e-5)
