"""A bias in an exponent is a positive gain behind it: coupling layers, encoders that sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph import audit, infer
from symgraph.inference.bias_exponents import with_biases_behind_exponentials
from symgraph.rules.book import default_rules
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace

D = 4
Function = Callable[[Any, Tensor, Tensor], Tensor]


def sampled(s: Any, x: Tensor, noise: Tensor) -> Tensor:
    """A variational encoder with the logarithm of a variance, and its decoder."""
    h = F.relu(s.i(x))
    out: Tensor = s.o(s.m(h) + torch.exp(0.5 * s.l(h) - 0.2) * noise[:, :D])
    return out


def coupled(s: Any, x: Tensor, noise: Tensor) -> Tensor:
    """A coupling layer: one value scales the other, by the exponential of a map."""
    out: Tensor = s.o(s.m(noise) * s.l(F.relu(s.i(x))).exp())
    return out


def channels(s: Any, x: Tensor, noise: Tensor) -> Tensor:
    scale = s.c(x[:, None]).exp()
    out: Tensor = s.o((scale * s.e(noise[:, None])).sum(-1))
    return out


def softmax(s: Any, x: Tensor, noise: Tensor) -> Tensor:
    """Exponentials over their sum: a constant in all exponents has no effect."""
    e = s.l(F.relu(s.i(x))).exp()
    out: Tensor = s.o(e / e.sum(-1, keepdim=True))
    return out


def halves(s: Any, x: Tensor, noise: Tensor) -> Tensor:
    """A variational encoder that makes mean and log-variance by one map."""
    mean, log = s.p(F.relu(s.i(x))).chunk(2, -1)
    out: Tensor = s.o(mean + torch.exp(0.5 * log) * noise[:, :D])
    return out


def halves_turned_round(s: Any, x: Tensor, noise: Tensor) -> Tensor:
    both = s.p(F.relu(s.i(x)))
    out: Tensor = s.o(both[:, D:] + torch.exp(0.3 * both[:, :D] - 0.2) * noise[:, :D])
    return out


def halves_that_overlap(s: Any, x: Tensor, noise: Tensor) -> Tensor:
    both = s.p(F.relu(s.i(x)))
    out: Tensor = s.o(both[:, D - 1 : -1] + both[:, :D].exp() * noise[:, :D])
    return out


def halves_read_twice(s: Any, x: Tensor, noise: Tensor) -> Tensor:
    mean, log = s.p(F.relu(s.i(x))).chunk(2, -1)
    return torch.cat([s.o(mean + log.exp() * noise[:, :D]), log], -1)


def read_twice(s: Any, x: Tensor, noise: Tensor) -> Tensor:
    """The exponent is seen besides, as where a divergence is computed from it."""
    h = F.relu(s.i(x))
    log = s.l(h)
    return torch.cat([s.o(s.m(h) + log.exp() * noise[:, :D]), log], -1)


def net(function: Function) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    maps = {
        "i": nn.Linear(6, 8),
        "p": nn.Linear(8, 2 * D),
        "m": nn.Linear(8, D),
        "l": nn.Linear(8, D),
        "o": nn.Linear(D, 9),
    }
    windows = {"c": nn.Conv1d(1, D, 3, padding=1), "e": nn.Conv1d(1, D, 3)}
    return spread(Net(function, **maps, **windows)), (torch.randn(5, 6), torch.randn(5, 8))


def found_in(function: Function) -> SymmetryGraph:
    model, inputs = net(function)
    found = infer(trace(model, inputs))
    assert error(model, inputs, found) < 1e-9
    counted = audit(model, inputs, symmetry=found)
    assert counted.complete, str(counted)
    return found


# Eight units of relu, scales of both factors or of what is multiplied, and constants where something takes them.
@pytest.mark.parametrize(
    ("function", "directions"),
    [
        (sampled, 8 + 2 * D),
        (coupled, 8 + 2 * D),
        (channels, 2 * D),
        (halves, 8 + 2 * D),
        (halves_turned_round, 8 + 2 * D),
    ],
)
def test_scales_of_what_is_multiplied_are_found(function: Function, directions: int) -> None:
    assert found_in(function).dimension().number == directions


def test_a_softmax_that_is_written_out_is_left_alone() -> None:
    graph = trace(*net(softmax))
    assert with_biases_behind_exponentials(graph, default_rules()) is graph


def test_what_is_seen_besides_keeps_its_bias() -> None:
    """No scale of what is multiplied; the units and the constants of the mean are there."""
    assert found_in(read_twice).dimension().number == 8 + D
    assert found_in(halves_read_twice).dimension().number == 8 + D


def test_parts_that_share_an_entry_keep_the_function() -> None:
    model, inputs = net(halves_that_overlap)
    found = infer(trace(model, inputs))
    assert error(model, inputs, found) < 1e-9
    assert not audit(model, inputs, symmetry=found).unsound
