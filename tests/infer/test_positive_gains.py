"""Gains of which a positive function is read: what multiplies is positive, and stays so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, error, spread
from torch import Tensor, nn

import symgraph
from symgraph import infer
from symgraph.orbit.unique import unique
from symgraph.prove.audit import audit
from symgraph.prove.verify import random_transform, settled_names
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.offsets import Chart
from symgraph.tracing import state_of, trace

D = 4
X = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(2))
Function = Callable[[Any, Tensor], Any]


def net(function: Function, *sizes: int, width: int = D) -> nn.Module:
    """A model of one stream with a parameter `s` of this size, and others beside it."""
    maps = {"i": nn.Linear(6, width), "u": nn.Linear(width, 5), "d": nn.Linear(5, width), "v": nn.Linear(width, width)}
    torch.manual_seed(0)
    learned = {"s": torch.rand(*sizes), "b": torch.rand(width)}
    return spread(Net(function, **maps, o=nn.Linear(width, 6), **learned))


def branch(h: Tensor, s: Any, gain: Tensor | None) -> Tensor:
    made: Tensor = s.d(F.gelu(s.u(F.layer_norm(h, (D,), gain, s.b))))
    return made


def scaled(s: Any, h: Tensor, scale: Tensor) -> Tensor:
    made: Tensor = s.o(F.layer_norm(h + scale * branch(h, s, None), (D,)))
    return made


COMPLETE: dict[str, tuple[Function, tuple[int, ...]]] = {
    "behind a map": (lambda s, x: s.o(F.gelu(s.i(x) * s.s.exp())), (D,)),
    "between maps": (lambda s, x: s.o(s.i(x) * s.s.exp()), (D,)),
    "what divides": (lambda s, x: s.o(F.gelu(s.i(x) / s.s.exp())), (D,)),
    "one over it": (lambda s, x: s.o(F.gelu(s.i(x) * (1 / s.s.exp()))), (D,)),
    "before signs": (lambda s, x: s.o(torch.tanh(s.i(x) * s.s.exp())), (D,)),
    "a flow": (lambda s, x: s.o(F.relu((s.i(x) + s.b) * s.s.exp())), (D,)),
    "a number": (lambda s, x: s.o(F.rms_norm(s.i(x), (D,)) * s.s.exp()), (1,)),
    "a temperature": (lambda s, x: s.o(F.softmax(s.v(s.i(x)) @ s.i(x).mT * s.s.exp(), -1) @ s.i(x)), (1,)),
    "the gain of a norm": (lambda s, x: s.o(branch(s.i(x), s, s.s.exp())), (D,)),
    "a scale of a branch": (lambda s, x: scaled(s, s.i(x), s.s.exp()), (D,)),
    "a multiple": (lambda s, x: s.o(branch(s.i(x), s, (-2 * s.s).exp())), (D,)),
    "a number before": (lambda s, x: s.o(branch(s.i(x), s, torch.exp(0.5 - s.s / 3))), (D,)),
    "of another base": (lambda s, x: s.o(branch(s.i(x), s, 2**s.s)), (D,)),
    "softplus": (lambda s, x: s.o(branch(s.i(x), s, F.softplus(s.s))), (D,)),
    "softplus of a multiple": (lambda s, x: scaled(s, s.i(x), F.softplus(1 - 3 * s.s, beta=2.0)), (D,)),
    "softplus of rows": (lambda s, x: scaled(s, s.i(x) * F.softplus(s.s[1]), F.softplus(s.s[0])), (2, D)),
    "rows": (lambda s, x: (lambda h: s.o(h * s.s[0].exp() + s.v(F.gelu(h)) * s.s[1].exp()))(s.i(x)), (2, D)),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_nothing_is_missing(name: str) -> None:
    function, sizes = COMPLETE[name]
    model = net(function, *sizes)
    symmetry = infer(trace(model, (X,)))
    for found in (symmetry, SymmetryGraph.from_json(symmetry.to_json())):
        assert all(map(found.is_positive, found.reading.read("s")))
    assert error(model, (X,), symmetry) < 1e-9
    counted = audit(symmetry, approximate=False)
    assert counted.complete, str(counted)


APART: dict[str, Function] = {
    "a bias": lambda s, x: s.o(F.gelu(s.i(x) + s.s.exp())),
    "a part of a bias": lambda s, x: s.o(s.i(x) + s.s.exp() * s.b),
    "with a number": lambda s, x: s.o(F.gelu(s.i(x) * (1 + s.s.exp()))),
    "as it is": lambda s, x: s.o(F.gelu(s.i(x) * s.s.exp()) * s.s),
    "another exponential": lambda s, x: s.o(F.gelu(s.i(x) * s.s.exp()) * (2 * s.s).exp()),
    "what is divided": lambda s, x: s.o(s.s.exp() / (s.i(x).square() + 1)),
    "two functions": lambda s, x: s.o(F.gelu(s.i(x) * s.s.exp()) * F.softplus(s.s)),
    "two signs": lambda s, x: s.o(F.gelu(s.i(x) * s.s.exp()) * (-s.s).exp()),
    "bounded below": lambda s, x: s.o(F.gelu(s.i(x) * (1 + F.softplus(s.s)))),
    "bounded on both sides": lambda s, x: s.o(F.gelu(s.i(x) * s.s.sigmoid())),
    "in another unit": lambda s, x: s.o(F.gelu(s.i(x) * F.softplus(s.s, threshold=1.0))),
    "of no multiple": lambda s, x: s.o(F.gelu(s.i(x) * (0 * s.s).exp())),
    "at most a number": lambda s, x: s.o(F.gelu(s.i(x) * s.s.exp().clamp(max=1.5))),
}


@pytest.mark.parametrize("name", APART)
def test_what_does_more_than_to_multiply_is_none(name: str) -> None:
    model = net(APART[name], D)
    symmetry = infer(trace(model, (X,)))
    assert not symmetry.is_positive("s")
    assert error(model, (X,), symmetry) < 1e-9


def test_gains_of_one_spectrum_stay_positive() -> None:
    def forward(s: Any, x: Tensor) -> Any:
        h = F.layer_norm(s.i(x), (D,), s.s.exp(), s.b)
        return s.o(F.layer_norm(h + branch(h, s, None), (D,)))

    model = net(forward, D)
    symmetry = infer(trace(model, (X,)))
    assert not symmetry.spectral
    assert error(model, (X,), symmetry) < 1e-9


@pytest.mark.parametrize("name", ["behind a map", "a flow", "a scale of a branch", "a multiple", "softplus"])
def test_a_planted_element_is_found(name: str) -> None:
    function, sizes = COMPLETE[name]
    model, x = net(function, *sizes).double(), X.double()
    symmetry, state = infer(trace(model, (x,))), {key: tensor.detach() for key, tensor in state_of(model).items()}
    planted = random_transform(symmetry, state, torch.Generator().manual_seed(2), settled_names(symmetry))
    moved = copy.deepcopy(model)
    moved.load_state_dict(planted.apply(state))
    one, other = (unique(symmetry, at).state for at in (state, state_of(moved)))
    aligned = symgraph.align(model, moved, x)
    for key, tensor in state.items():
        torch.testing.assert_close(other[key].detach(), one[key], rtol=0, atol=1e-6)
        torch.testing.assert_close(aligned.state[key], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("function", [torch.exp, F.softplus, lambda s: torch.exp(1 - 2 * s)])
def test_a_wider_model_has_what_makes_ones(function: Callable[[Tensor], Tensor]) -> None:
    def forward(s: Any, x: Tensor) -> Any:
        return s.o(s.i(x) * function(s.s))

    narrow, wide = net(forward, D).double(), net(forward, 2 * D, width=2 * D).double()
    found = symgraph.embed(narrow, (X.double(),), like=wide)
    assert found.embedding.error < 1e-9
    assert all(bool(tensor.isfinite().all()) for tensor in found.state.values())


@pytest.mark.parametrize(
    "chart", [Chart("exp"), Chart("exp", -0.5), Chart("softplus"), Chart("softplus", -3.0, 2.0)], ids=str
)
def test_what_is_read_has_been_stored(chart: Chart) -> None:
    stored = torch.linspace(-6, 6, 25, dtype=torch.float64)
    read = chart.of(stored)
    assert bool((read > 0).all())
    torch.testing.assert_close(chart.back(read), stored, rtol=0, atol=1e-7)


def test_a_temperature_that_is_a_logarithm_does_not_keep_a_model_from_being_pruned() -> None:
    model = Net(
        lambda s, x: s.o(F.relu(s.u(x))) * s.t.exp(), u=nn.Linear(X.shape[-1], 8), o=nn.Linear(8, 3), t=torch.rand(())
    )
    found = symgraph.prune(model, X, ratio=0.5)
    assert found.symmetry.is_positive("t")
    assert found.state["u.weight"].shape[0] == 4
