"""Numbers that multiply a parameter, or what it multiplies, are as if they had been learned with it."""

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
from symgraph import audit, infer
from symgraph.prove.verify import random_transform, settled_names
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace

D = 5
X = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(2))
Function = Callable[[Any, Tensor], Any]


def net(function: Function) -> nn.Module:
    torch.manual_seed(0)
    gains = {"g": torch.rand(D) + 0.5, "b": torch.randn(D), "t": torch.rand(())}
    maps = {"i": nn.Linear(6, D), "v": nn.Linear(D, D)}
    return spread(Net(function, **gains, **maps, o=nn.Linear(D, 6)))


def normed(gain: Function) -> Function:
    return lambda s, x: s.o(F.layer_norm(s.i(x), (D,), gain(s, x), s.b))


def between(product: Callable[[Any, Tensor], Tensor]) -> Function:
    return lambda s, x: s.o(F.gelu(product(s, s.i(x))))


COMPLETE: dict[str, Function] = {
    "another sign": normed(lambda s, x: -s.g),
    "a third": normed(lambda s, x: s.g / 3),
    "numbers one after the other": normed(lambda s, x: -(2 * s.g)),
    "and a number that is added": normed(lambda s, x: 0.1 * s.g + 1),
    "a product with another sign": lambda s, x: s.o(-(F.layer_norm(s.i(x), (D,)) * s.g) + s.b),
    "of a norm with another sign": lambda s, x: s.o(-F.layer_norm(s.i(x), (D,)) * s.g + s.b),
    "of half of a norm": lambda s, x: s.o(F.gelu(s.v(F.layer_norm(s.i(x), (D,)) / 2 * s.g + s.b))),
    "a multiple of a norm without means": lambda s, x: s.o(F.rms_norm(s.i(x), (D,), 2 * s.g)),
    "behind a map": between(lambda s, h: h * (0.5 * s.g)),
    "a multiple of a product": between(lambda s, h: 0.5 * (h * s.g)),
    "what divides": between(lambda s, h: h / (-3 * s.g)),
    "a temperature": lambda s, x: s.o(F.softmax((s.v(s.i(x)) @ s.i(x).mT) * (10 * s.t), -1) @ s.i(x)),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_nothing_is_missing(name: str) -> None:
    model = net(COMPLETE[name])
    found = infer(trace(model, (X,)))
    assert found.offsets.keys() & {"g", "t"}
    assert SymmetryGraph.from_json(found.to_json()).offsets == found.offsets
    assert max(error(model, (X,), found, seed) for seed in range(3)) < 1e-9
    counted = audit(found, state_of(model), approximate=False)
    assert counted.complete, str(counted)


SHARED: dict[str, Function] = {
    "two numbers": lambda s, x: s.o(F.gelu(s.i(x) * (2 * s.g)) * (3 * s.g)),
    "as it is beside": lambda s, x: s.o(F.gelu(s.i(x) * (2 * s.g)) * s.g),
    "one number in two places": lambda s, x: s.o(F.gelu(s.i(x) * (2 * s.g)) * (2 * s.g)),
    "a product that is an output": lambda s, x: (lambda v: (v, s.o(F.gelu(-v))))(s.i(x) * s.g)[1],
    "a product that is read twice": lambda s, x: (lambda v: s.o(F.gelu(-v) + v))(s.i(x) * s.g),
    "two parameters in one product": lambda s, x: s.o(F.gelu(s.i(x) + 3 * (s.g * s.b))),
    "a number on each": lambda s, x: s.o(F.gelu((2 * s.i(x)) * (3 * s.g) * 5)),
    "a square": lambda s, x: s.o(F.gelu(s.i(x) * (2 * s.g) ** 2)),
    "a bias": lambda s, x: s.o(F.gelu(s.i(x) + 3 * s.b)),
    "a weight that is tied": lambda s, x: F.gelu(s.i(x)) @ (0.5 * s.o.weight.T) + F.gelu(x @ s.o.weight).sum(),
    "a sum of multiples": lambda s, x: s.o(F.gelu(s.i(x) * (2 * s.g + 3 * s.b))),
    "by nothing": lambda s, x: s.o(F.gelu(s.i(x) * (1 + 0 * s.g))),
    "all of it as well": lambda s, x: s.o(F.gelu(s.i(x) * (2 * s.g))) * s.g.sum(),
}


@pytest.mark.parametrize("name", SHARED)
def test_what_is_shared_keeps_the_function(name: str) -> None:
    model = net(SHARED[name])
    found = infer(trace(model, (X,)))
    assert max(error(model, (X,), found, seed) for seed in range(3)) < 1e-9
    counted = audit(found, state_of(model), approximate=False)
    assert not counted.unsound, str(counted)


@pytest.mark.parametrize("name", ["another sign", "and a number that is added", "a multiple of a product"])
def test_a_planted_element_is_found(name: str) -> None:
    model, x = net(COMPLETE[name]).double(), X.double()
    symmetry, state = infer(trace(model, (x,))), {key: tensor.detach() for key, tensor in state_of(model).items()}
    planted = random_transform(symmetry, state, torch.Generator().manual_seed(2), settled_names(symmetry))
    moved = copy.deepcopy(model)
    moved.load_state_dict(planted.apply(state))
    aligned = symgraph.align(model, moved, x)
    far = sum(float((moved.state_dict()[key] - tensor).square().sum()) for key, tensor in state.items())
    near = sum(float((aligned.state[key] - tensor).square().sum()) for key, tensor in state.items())
    assert near < 1e-6 * far
