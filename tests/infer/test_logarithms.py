"""Gains that are stored as logarithms: what multiplies is positive, and stays so."""

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
    "before signs": (lambda s, x: s.o(torch.tanh(s.i(x) * s.s.exp())), (D,)),
    "a flow": (lambda s, x: s.o(F.relu((s.i(x) + s.b) * s.s.exp())), (D,)),
    "a number": (lambda s, x: s.o(F.rms_norm(s.i(x), (D,)) * s.s.exp()), (1,)),
    "a temperature": (lambda s, x: s.o(F.softmax(s.v(s.i(x)) @ s.i(x).mT * s.s.exp(), -1) @ s.i(x)), (1,)),
    "the gain of a norm": (lambda s, x: s.o(branch(s.i(x), s, s.s.exp())), (D,)),
    "a scale of a branch": (lambda s, x: scaled(s, s.i(x), s.s.exp()), (D,)),
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


@pytest.mark.parametrize("name", ["behind a map", "a flow", "a scale of a branch"])
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


def test_a_wider_model_has_logarithms_of_ones() -> None:
    function, _ = COMPLETE["between maps"]
    narrow, wide = net(function, D).double(), net(function, 2 * D, width=2 * D).double()
    found = symgraph.embed(narrow, (X.double(),), like=wide)
    assert found.embedding.error < 1e-9
    assert all(bool(tensor.isfinite().all()) for tensor in found.state.values())


def test_a_temperature_that_is_a_logarithm_does_not_keep_a_model_from_being_pruned() -> None:
    model = Net(
        lambda s, x: s.o(F.relu(s.u(x))) * s.t.exp(), u=nn.Linear(X.shape[-1], 8), o=nn.Linear(8, 3), t=torch.rand(())
    )
    found = symgraph.prune(model, X, ratio=0.5)
    assert found.symmetry.is_positive("t")
    assert found.state["u.weight"].shape[0] == 4
