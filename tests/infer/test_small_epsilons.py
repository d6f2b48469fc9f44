"""A norm that is written by hand is blind to a constant and centred however small its epsilon is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph import audit, infer
from symgraph.inference.measured_laws import measured
from symgraph.tracing import trace

EPSILONS = (1e-5, 1e-7, 1e-12)


def by_hand(x: Tensor, eps: float) -> Tensor:
    """As I-BERT writes it."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(eps + (centred**2).mean(-1, keepdim=True))


@pytest.mark.parametrize("eps", EPSILONS)
def test_what_is_measured_of_it(eps: float) -> None:
    laws = measured(lambda x: by_hand(x, eps), (7, 5), -1, (2.0, eps))
    assert laws.blind and laws.centred


def test_a_step_below_the_epsilon_is_seen() -> None:
    """Where values are small a constant crosses the step, though it is small as well."""
    laws = measured(lambda x: by_hand(x, 1e-12) * (x.abs().amax(-1, keepdim=True) > 1e-12), (7, 5), -1, (1e-12,))
    assert not laws.blind


@pytest.mark.parametrize("eps", EPSILONS)
def test_nothing_is_missing_behind_it(eps: float) -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        x = s.i(x)
        out: Tensor = s.o(by_hand(x + s.d(s.u(x).tanh()), eps) * s.gain + s.bias)
        return out

    torch.manual_seed(0)
    maps = {"i": nn.Linear(7, 5), "u": nn.Linear(5, 6), "d": nn.Linear(6, 5), "o": nn.Linear(5, 9)}
    model, inputs = spread(Net(forward, gain=torch.ones(5), bias=torch.zeros(5), **maps)), (torch.randn(2, 6, 7),)
    symmetry = infer(trace(model, inputs))
    assert any(centred.written for centred in symmetry.centred)
    counted = audit(model, symmetry=symmetry)
    assert counted.complete, str(counted)
    assert error(model, inputs, symmetry) < 1e-9
