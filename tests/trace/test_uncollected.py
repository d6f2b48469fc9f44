"""Garbage is not looked for during a trace, and is again after it, whatever happens."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

import symgraph
from symgraph.errors import TraceError

SEEN: list[bool] = []


class Seeing(nn.Module):
    """Notes whether garbage would be collected while it is run."""

    def __init__(self, stops: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.stops = stops

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A trace gives a model back as it was, what it has noted itself included.
        SEEN.append(gc.isenabled())
        if self.stops:
            raise ValueError("no further")
        y: torch.Tensor = self.linear(x)
        return y


def test_a_trace_does_not_look_for_garbage() -> None:
    SEEN.clear()
    symgraph.trace(Seeing(), (torch.zeros(1, 2),))
    assert SEEN and not any(SEEN)
    assert gc.isenabled()


def test_a_trace_that_fails_leaves_collection_on() -> None:
    with pytest.raises(TraceError, match="no further"):
        symgraph.trace(Seeing(stops=True), (torch.zeros(1, 2),))
    assert gc.isenabled()


def test_collection_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        symgraph.trace(Seeing(), (torch.zeros(1, 2),))
        assert not gc.isenabled()
    finally:
        gc.enable()
