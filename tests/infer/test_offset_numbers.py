"""A learned number that is stored as its difference from another one, as of scale norms with a unit offset."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn
from torch.nn import functional as F

import symgraph
from symgraph import audit, infer
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
    numbers = {r.tensors: r.offset for r in found.radial if r.by_number}
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
