"""Gains of one spectrum: the same map on the plane of mean zero, up to a rotation; found where norms write a stream."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from symgraph.groups.rotations import ones_complement
from symgraph.inference.pipeline import infer
from symgraph.orbit.spectral_gains import along_spectrum, sheared
from symgraph.prove.audit import audit
from symgraph.prove.verify import verify
from symgraph.tracing import state_of, trace

gains = st.lists(st.floats(-3, 3), min_size=2, max_size=7)


def compressed(gain: Tensor) -> Tensor:
    plane = ones_complement(len(gain))
    return plane @ plane.T @ torch.diag(gain) @ plane @ plane.T


@given(gains, st.floats(-1, 1))
def test_the_spectrum_stays_and_the_rotation_takes_one_map_to_the_other(numbers: list[float], amount: float) -> None:
    gain = torch.tensor(numbers, dtype=torch.float64)
    assume(float(gain.sort().values.diff().min()) > 1e-3)
    moved, rotation = along_spectrum(gain, amount)
    assert torch.allclose(compressed(moved), rotation @ compressed(gain) @ rotation.T, atol=1e-9)
    assert torch.allclose(rotation @ rotation.T, torch.eye(len(gain), dtype=torch.float64), atol=1e-12)
    assert torch.allclose(rotation.sum(1), torch.ones(len(gain), dtype=torch.float64), atol=1e-12)
    assert torch.equal(moved.argsort(), gain.argsort())
    assert amount == 0 or abs(amount) < 1e-6 or not torch.equal(moved, gain)


@given(gains, st.floats(-1, 1), st.floats(-1, 1))
def test_amounts_add(numbers: list[float], first: float, second: float) -> None:
    gain = torch.tensor(numbers, dtype=torch.float64)
    assume(float(gain.sort().values.diff().min()) > 1e-2)
    twice = along_spectrum(along_spectrum(gain, first)[0], second)[0]
    assert torch.allclose(twice, along_spectrum(gain, first + second)[0], atol=1e-9)


def test_equal_gains_do_not_move() -> None:
    moved, rotation = along_spectrum(torch.ones(4, dtype=torch.float64), 0.5)
    assert torch.equal(moved, torch.ones(4, dtype=torch.float64))
    assert torch.equal(rotation, torch.eye(4, dtype=torch.float64))


class Block(nn.Module):
    def __init__(self, norms: tuple[nn.Module, ...]) -> None:
        super().__init__()
        self.embed, self.norms = nn.Linear(8, 5), nn.ModuleList(norms)
        self.up, self.down, self.head = nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.norms
        x = first(self.embed(x))
        x = x + self.down(torch.tanh(self.up(second(x))))
        found: Tensor = self.head(last(x))
        return found


@pytest.mark.parametrize(("kind", "number"), [(nn.LayerNorm, 1), (nn.RMSNorm, 0)])
def test_a_norm_that_writes_a_centred_stream_has_one(kind: Callable[..., nn.Module], number: int) -> None:
    model = Block(tuple(kind(5, eps=1e-5) for _ in range(3)))
    symmetry = infer(trace(model, (torch.randn(7, 8),)))
    assert [s.gain for s in symmetry.spectral] == ["norms.0.weight"] * number
    state = {n: torch.randn_like(t) for n, t in state_of(model).items()}
    assert verify(symmetry, state).passed
    found = audit(symmetry)
    assert found.complete, str(found)


def test_a_stream_that_is_read_as_it_is_is_sheared_as_well() -> None:
    model = Block((nn.LayerNorm(5), nn.LayerNorm(5), nn.Identity()))
    symmetry = infer(trace(model, (torch.randn(7, 8),)))
    assert [s.stream >= 0 for s in symmetry.spectral] == [True]
    assert not audit(symmetry).unsound


class Read(Block):
    """Another operator than norms and linear maps sees the stream."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.tanh(self.norms[0](self.embed(x))).sum(-1, keepdim=True)


def test_a_stream_that_anything_else_reads_has_none() -> None:
    symmetry = infer(trace(Read(tuple(nn.LayerNorm(5) for _ in range(3))), (torch.randn(7, 8),)))
    assert not symmetry.spectral and not symmetry.shears


@given(st.lists(st.floats(0.4, 2.0), min_size=3, max_size=6), st.floats(-1, 1), st.floats(-1, 1))
def test_a_sheared_stream_keeps_its_means_and_steps_add(numbers: list[float], first: float, second: float) -> None:
    old = torch.tensor(numbers, dtype=torch.float64)
    assume(float(old.sort().values.diff().min()) > 0.05)
    new, rotation = along_spectrum(old, first)
    matrix, dual = sheared(old, new, rotation)
    plane = torch.eye(len(old), dtype=torch.float64) - 1 / len(old)
    assert torch.allclose(matrix @ torch.diag(old) @ plane, torch.diag(new) @ rotation @ plane, atol=1e-8)
    assert torch.allclose(dual.T @ matrix, torch.eye(len(old), dtype=torch.float64), atol=1e-8)
    last, more = along_spectrum(new, second)
    whole, both = along_spectrum(old, first + second)
    assert torch.allclose(sheared(new, last, more)[0] @ matrix, sheared(old, whole, both)[0], atol=1e-7)
