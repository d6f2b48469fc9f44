"""Constants that are the same at every position pass what moves, sorts or resamples positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn
from torch.nn import functional as F

from symgraph import audit, infer
from symgraph.tracing import trace

CHANNELS, POSITIONS = 6, 8
PASSING: dict[str, Callable[[Tensor], Tensor]] = {
    "rolled": lambda h: h.roll(1, -1),
    "reversed": lambda h: h.flip(-1),
    "repeated": lambda h: F.interpolate(h, scale_factor=2),
    "between": lambda h: F.interpolate(h, size=11, mode="linear"),
    "the middle": lambda h: h.median(-1, keepdim=True).values,
    "the last but one": lambda h: h.kthvalue(2, -1, keepdim=True).values,
    "in order": lambda h: h.sort(-1).values,
    "the largest": lambda h: h.topk(3, -1).values,
    "every other one of two windows": lambda h: F.max_pool1d(h, 2, dilation=2, stride=1),
}
# What tells positions apart, or adds them up, sees a constant.
SEEING: dict[str, Callable[[Tensor], Tensor]] = {
    "running sums": lambda h: h.cumsum(-1),
    "a Fourier transform": lambda h: torch.fft.rfft(h).real,
    "zeros beside them": lambda h: F.pad(h, (1, 1)),
}


def net(way: Callable[[Tensor], Tensor]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    def forward(s: Any, x: Tensor) -> Tensor:
        moved = way(s.i(x))
        beside = F.interpolate(x.roll(2, -1), size=moved.shape[-1])
        out: Tensor = s.o(torch.tanh(moved + s.r(beside)))
        return out

    torch.manual_seed(0)
    parts = {name: nn.Conv1d(9, CHANNELS, 1) for name in "ir"}
    model = spread(Net(forward, **parts, o=nn.Conv1d(CHANNELS, 7, 1)))
    return model, (torch.randn(2, 9, POSITIONS),)


@pytest.mark.parametrize("name", PASSING)
def test_it_moves_into_what_is_added_behind(name: str) -> None:
    model, inputs = net(PASSING[name])
    found = infer(trace(model, inputs))
    assert found.dimension().number == CHANNELS
    assert error(model, inputs, found) < 1e-9
    counted = audit(model, inputs, symmetry=found)
    assert counted.complete, str(counted)


@pytest.mark.parametrize("name", SEEING)
def test_it_is_seen(name: str) -> None:
    model, inputs = net(SEEING[name])
    assert infer(trace(model, inputs)).dimension().number == 0


def test_channels_are_not_rolled_as_positions_are() -> None:
    """A constant of unlike entries along the axis that is rolled does not come out as it went in."""
    torch.manual_seed(0)
    model = spread(Net(lambda s, x: s.o(torch.tanh(s.i(x).roll(1, -1) + s.r(x))), **_linear()))
    inputs = (torch.randn(3, 9),)
    found = infer(trace(model, inputs))
    assert error(model, inputs, found) < 1e-9


def _linear() -> dict[str, nn.Module]:
    return {"i": nn.Linear(9, CHANNELS), "r": nn.Linear(9, CHANNELS), "o": nn.Linear(CHANNELS, 7)}


UNITS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "the larger of two": lambda s, x: torch.maximum(s.a(x), s.b(x)),
    "the larger of three": lambda s, x: torch.maximum(torch.maximum(s.a(x), s.b(x)), s.c(x)),
    "the smaller of two": lambda s, x: torch.fmin(s.a(x), s.b(x)),
    "halves of one map": lambda s, x: torch.maximum(*s.d(x).chunk(2, -1)),
    "a learned bound": lambda s, x: torch.maximum(s.a(x), s.t),
}


@pytest.mark.parametrize("name", UNITS)
def test_what_is_added_to_all_that_one_is_chosen_of_is_added_to_it(name: str) -> None:
    """Maxout: units have a scale and a constant each."""
    torch.manual_seed(0)
    maps = {part: nn.Linear(9, CHANNELS) for part in "abc"} | {"d": nn.Linear(9, 2 * CHANNELS)}
    model = spread(Net(lambda s, x: s.o(UNITS[name](s, x)), **maps, o=nn.Linear(CHANNELS, 7), t=torch.zeros(CHANNELS)))
    inputs = (torch.randn(5, 9),)
    found = infer(trace(model, inputs))
    assert found.dimension().number == 2 * CHANNELS
    assert error(model, inputs, found) < 1e-9
    assert audit(model, inputs, symmetry=found).complete


def test_what_is_not_added_to_all_is_seen() -> None:
    torch.manual_seed(0)
    parts = {"a": nn.Linear(9, CHANNELS), "o": nn.Linear(CHANNELS, 7)}
    model = spread(Net(lambda s, x: s.o(torch.maximum(s.a(x), x[:, :CHANNELS])), **parts))
    assert infer(trace(model, (torch.randn(5, 9),))).dimension().number == 0
