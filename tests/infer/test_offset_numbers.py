"""What is learned as its difference from a number: gains, biases of norms, maps whose result a number is added to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn
from torch.nn import functional as F

import symgraph
from symgraph import audit, infer
from symgraph.orbit.unique import unique
from symgraph.prove.verify import random_transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace

X = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1))


def scale_norms(s: Any, x: Tensor) -> Tensor:
    """Two blocks behind norms with one number each, which the maps that read them make up for."""
    x = s.i(x)
    x = x + s.d(torch.tanh(s.u(F.normalize(x, dim=-1) * (s.g + s.one))))
    found: Tensor = s.o(F.normalize(x, dim=-1) * (s.h + s.one))
    return found


def read_elsewhere(s: Any, x: Tensor) -> Tensor:
    """The number is also seen as it is."""
    found: Tensor = scale_norms(s, x) + s.g
    return found


def model(one: float, function: Any = scale_norms) -> nn.Module:
    torch.manual_seed(0)
    maps = {"i": nn.Linear(5, 4), "u": nn.Linear(4, 6), "d": nn.Linear(6, 4), "o": nn.Linear(4, 7)}
    net = spread(Net(function, **maps, g=torch.full((1,), 0.3), h=torch.full((1,), 0.6)))
    net.one = one  # type: ignore[assignment]
    return net


@pytest.mark.parametrize("one", [0.0, 1.0, -2.0])
def test_the_sum_is_what_multiplies(one: float) -> None:
    net = model(one)
    found = infer(trace(net, (X,)))
    numbers = {r.tensors: found.offsets[r.tensors[0]].number if one else 0.0 for r in found.radial if r.by_number}
    assert numbers == {("g", "u.weight"): one, ("h", "o.weight"): one}
    assert SymmetryGraph.from_json(found.to_json()).radial == found.radial
    assert error(net, (X,), found) < 1e-9
    counted = audit(net, X, symmetry=found)
    assert counted.complete, str(counted)


def test_what_sees_the_number_keeps_it() -> None:
    net = model(1.0, read_elsewhere)
    found = infer(trace(net, (X,)))
    assert [r.tensors[0] for r in found.radial if r.by_number] == ["h"]
    assert error(net, (X,), found) < 1e-9


def test_planted_numbers_are_found() -> None:
    net = model(1.0)
    found = infer(trace(net, (X,)))
    moved, state = copy.deepcopy(net), state_of(net)
    moved.load_state_dict(random_transform(found, state, torch.Generator().manual_seed(3)).apply(state))
    assert abs(float(state_of(moved)["g"] - state["g"])) > 1e-2
    aligned = symgraph.align(net, moved, X)
    for name, tensor in state.items():
        torch.testing.assert_close(aligned.state[name], tensor, rtol=0, atol=1e-3)


# -- everywhere that a number may be added -----------------------------------------------------------------------------

D = 4
Case = tuple[Callable[..., Any], dict[str, Any]]


def branch(change: Callable[[Any, Tensor], Tensor], **parts: Any) -> Case:
    """A stream with one branch, and what is made of it before it is added."""

    def forward(s: Any, x: Tensor) -> Any:
        x = s.i(x)
        return s.o(x + change(s, s.d(F.gelu(s.u(x)))))

    ends = {"i": nn.Linear(5, D), "u": nn.Linear(D, 6), "d": nn.Linear(6, D), "o": nn.Linear(D, 5)}
    return forward, {**ends, **parts}


def read_twice(norm: Callable[[Any, Tensor], Tensor], *, biased: bool = False, **parts: Any) -> Case:
    """What a norm makes is read by two maps, which tell where its plane lies where they have no biases."""

    def forward(s: Any, x: Tensor) -> Any:
        h = norm(s, s.i(x))
        return s.o(h) + s.p(F.gelu(s.q(h)))

    readers = {"o": nn.Linear(D, 5, bias=biased), "q": nn.Linear(D, 6, bias=biased)}
    ends = {"i": nn.Linear(5, D), "p": nn.Linear(6, 5), "w": torch.rand(D), "b": torch.rand(D)}
    return forward, {**ends, **readers, **parts}


def hidden(function: Callable[[Any, Tensor], Tensor], **parts: Any) -> Case:
    """A layer of units that are what a function says."""
    ends = {"i": nn.Linear(5, D), "o": nn.Linear(D, 6)}
    return lambda s, x: s.o(function(s, x)), {**ends, **parts}


def stored(s: Any, x: Tensor) -> Tensor:
    return F.gelu(F.batch_norm(s.i(x).flatten(0, 1) + 0.5, s.m, s.v, s.w + 1, s.b - 1))


def halves(h: Tensor) -> Tensor:
    return torch.cat([h[..., :2] + 1, h[..., 2:]], -1)


STATISTICS = {"m": (torch.rand(D), True), "v": (torch.rand(D) + 1, True), "w": torch.rand(D), "b": torch.rand(D)}
COMPLETE: dict[str, Callable[[], Case]] = {
    "a constant through a gain": lambda: branch(lambda s, h: h * (1 + s.g), g=torch.rand(D)),
    "a constant through a number": lambda: branch(lambda s, h: h * (1 + s.g), g=torch.rand(1)),
    "the bias of a norm": lambda: read_twice(lambda s, h: F.layer_norm(h, (D,), s.w, s.b + 1)),
    "the bias of a norm, readers with biases": lambda: read_twice(
        lambda s, h: F.layer_norm(h, (D,), s.w, s.b + 1), biased=True
    ),
    "gain and bias of a norm": lambda: read_twice(lambda s, h: F.layer_norm(h, (D,), s.w + 1, s.b - 2)),
    "behind a norm": lambda: read_twice(lambda s, h: F.layer_norm(h, (D,), s.w, s.b) * -2 + 1),
    "stored statistics": lambda: hidden(stored, **STATISTICS),
    "behind a map": lambda: hidden(lambda s, x: F.relu(s.i(x) + 0.3)),
    "behind a map, in place": lambda: hidden(lambda s, x: F.relu(s.i(x).add_(0.3))),
    "behind a multiple of a map": lambda: hidden(lambda s, x: F.relu(s.i(x) / 2 + 0.3)),
    "less than a number": lambda: hidden(lambda s, x: F.relu(0.3 - s.i(x))),
    "behind half of a map": lambda: hidden(lambda s, x: F.relu(halves(s.i(x)))),
    "what divides": lambda: hidden(lambda s, x: F.gelu(s.i(x) / (s.g + 0.5)), g=torch.rand(D) + 1),
    "a matrix": lambda: hidden(lambda s, x: s.i(x) @ (s.g + 1), g=torch.rand(D, D)),
    "a thin stream": lambda: hidden(
        lambda s, x: F.gelu(s.t(s.r(F.gelu(s.i(x))) + 2)), r=nn.Linear(D, 6), t=nn.Linear(6, D)
    ),
    "a matrix beside another": lambda: hidden(lambda s, x: F.relu(s.i(x) + x @ (s.g + 1)), g=torch.rand(5, D)),
    "two maps that are added": lambda: hidden(
        lambda s, x: F.gelu(s.i(x) * (1 + s.j(x) + s.k(x.square()))), j=nn.Linear(5, D), k=nn.Linear(5, D)
    ),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_nothing_is_missing_wherever_a_number_is_added(name: str) -> None:
    torch.manual_seed(0)
    function, parts = COMPLETE[name]()
    net = spread(Net(function, **parts))
    found = infer(trace(net, (X,)))
    assert found.offsets
    assert error(net, (X,), found) < 1e-9
    counted = audit(net, symmetry=found, approximate=False)
    assert counted.complete, str(counted)


APART: dict[str, Case] = {
    "with and without it": hidden(lambda s, x: F.relu(s.i(x) + 0.3) + s.i(x)),
    "two numbers": hidden(lambda s, x: F.relu(s.i(x) + 0.3) * (s.i(x) + 0.4)),
    "two multiples": hidden(lambda s, x: F.relu(2 * s.i(x) + 0.3) * (s.i(x) + 0.3)),
    "twice the map": hidden(lambda s, x: F.relu(torch.add(x[..., :D], s.i(x), alpha=2) + 0.3)),
    "an infinite number": hidden(lambda s, x: (s.i(x) + torch.inf).clamp(max=3.0)),
    "a bias of two norms": read_twice(lambda s, h: F.layer_norm(F.layer_norm(h, (D,), s.w, s.b + 1), (D,), s.w, s.b)),
    "a bias that is read by itself": read_twice(lambda s, h: F.layer_norm(h, (D,), s.w, s.b + 1) * s.b),
    "what is put out": (lambda s, x: s.o(x) + 1, {"o": nn.Linear(5, 4)}),
}


@pytest.mark.parametrize("name", APART)
def test_a_number_that_does_not_belong_to_an_entry_stays(name: str) -> None:
    function, parts = APART[name]
    net = spread(Net(function, **parts))
    found = infer(trace(net, (X,)))
    assert not found.offsets
    assert error(net, (X,), found) < 1e-9


SETTLED = ["a constant through a gain", "the bias of a norm, readers with biases", "behind a map"]


@pytest.mark.parametrize("name", SETTLED)
def test_there_is_one_canonical_form(name: str) -> None:
    torch.manual_seed(0)
    function, parts = COMPLETE[name]()
    net = spread(Net(function, **parts)).double()
    found, state = infer(trace(net, (X.double(),))), {k: v.detach() for k, v in state_of(net).items()}
    moved = random_transform(found, state, torch.Generator().manual_seed(3)).apply(state)
    one, other = (unique(found, at).state for at in (state, moved))
    for key, tensor in one.items():
        torch.testing.assert_close(other[key], tensor, rtol=0, atol=1e-6)
