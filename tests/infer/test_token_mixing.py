"""Maps along positions: the number that all channels have in common, and the factor of all of them at once."""

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
from symgraph.prove.verify import random_transform, settled_names
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace

POSITIONS, CHANNELS = 4, 5
X = torch.randn(3, POSITIONS, 6, generator=torch.Generator().manual_seed(1))


def across(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function along positions."""
    return function(x.transpose(1, 2)).transpose(1, 2)


def mixer(s: Any, x: Tensor) -> Any:
    h = s.i(x)
    h = h + across(lambda t: s.t2(F.gelu(s.t1(t))), s.n1(h))
    h = h + s.c2(F.gelu(s.c1(s.n2(h))))
    return s.o(s.n3(h))


def one_block(s: Any, x: Tensor) -> Any:
    h = s.i(x)
    return s.o(h + across(lambda t: s.t2(F.gelu(s.t1(t))), s.n1(h)))


def gated(s: Any, x: Tensor) -> Any:
    def mixed(t: Tensor) -> Any:
        a, b = s.t1(t).chunk(2, -1)
        return s.t2(a * F.silu(b))

    h = s.i(x)
    return s.o(s.n3(h + across(mixed, s.n1(h))))


def layer_scale(s: Any, x: Tensor) -> Any:
    h = s.i(x)
    return s.o(s.n3(h + s.g * across(s.t, F.gelu(h))))


def absorbed(s: Any, x: Tensor) -> Any:
    """The gain goes into the map that reads the sum, which has a factor of its own."""
    return s.o(F.gelu(s.c(s.i(x) + s.g * across(s.t, F.gelu(s.j(x))))))


def norms(*names: str) -> dict[str, nn.Module]:
    return {name: nn.LayerNorm(CHANNELS) for name in names}


def ends(**parts: Any) -> dict[str, Any]:
    return {"i": nn.Linear(6, CHANNELS), "o": nn.Linear(CHANNELS, 5), "g": torch.rand(CHANNELS), **parts}


def mixing(wide: int = 7) -> dict[str, nn.Module]:
    return {"t1": nn.Linear(POSITIONS, wide), "t2": nn.Linear(7, POSITIONS), "t": nn.Linear(POSITIONS, POSITIONS)}


CASES: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[[], dict[str, Any]]]] = {
    "two blocks": (
        mixer,
        lambda: ends(**norms("n1", "n2", "n3"), **mixing(), c1=nn.Linear(CHANNELS, 8), c2=nn.Linear(8, CHANNELS)),
    ),
    "one block": (one_block, lambda: ends(**norms("n1"), **mixing())),
    "gated": (gated, lambda: ends(**norms("n1", "n3"), **mixing(14))),
    "a layer scale": (layer_scale, lambda: ends(**norms("n3"), **mixing())),
    "a gain that is absorbed": (absorbed, lambda: ends(**mixing(), j=nn.Linear(6, CHANNELS), c=nn.Linear(CHANNELS, 5))),
}


def net(name: str) -> nn.Module:
    torch.manual_seed(0)
    function, parts = CASES[name]
    return spread(Net(function, **parts()))


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_missing(name: str) -> None:
    model = net(name)
    found = infer(trace(model, (X,)))
    assert error(model, (X,), found) < 1e-9
    assert any(radial.is_traded for radial in found.radial)
    counted = audit(model, X, symmetry=found, approximate=False)
    assert counted.complete, str(counted)
    assert found.dimension().number == counted.inferred
    assert SymmetryGraph.from_json(found.to_json()).radial == found.radial


def test_what_all_channels_have_in_common_goes_through_a_map_of_positions() -> None:
    found = infer(trace(net("two blocks"), (X,)))
    (common,) = [c for c in found.constants if c.source.piece.parameter == "n1.bias"]
    assert common.even and [share.port.piece.parameter for share in common.shares] == ["t1.bias"]
    (factor,) = [radial for radial in found.radial if radial.is_traded]
    assert dict(zip(factor.tensors, factor.powers, strict=True)) == {"n1.weight": 1, "n1.bias": 1, "t1.weight": -1}


@pytest.mark.parametrize("name", CASES)
def test_there_is_one_canonical_form(name: str) -> None:
    model = net(name).double()
    found, state = infer(trace(model, (X.double(),))), {k: v.detach() for k, v in state_of(model).items()}
    moved = random_transform(found, state, torch.Generator().manual_seed(3)).apply(state)
    one, other = (unique(found, at).state for at in (state, moved))
    for key, tensor in one.items():
        torch.testing.assert_close(other[key], tensor, rtol=0, atol=1e-6)


def test_a_planted_element_is_found() -> None:
    model = net("two blocks").double()
    x = X.double()
    found, state = infer(trace(model, (x,))), state_of(model)
    moved = copy.deepcopy(model)
    planted = random_transform(found, state, torch.Generator().manual_seed(2), settled_names(found))
    moved.load_state_dict(planted.apply(state))
    aligned = symgraph.align(model, moved, x)
    for key, tensor in state.items():
        torch.testing.assert_close(aligned.state[key], tensor, rtol=0, atol=1e-6)


def seen(read: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    """One block, with something else that reads what its norm makes."""

    def forward(s: Any, x: Tensor) -> Any:
        h = s.i(x)
        n = s.n1(h)
        return s.o(h + across(lambda t: s.t2(F.gelu(s.t1(t))), n) + read(s, n))

    return spread(Net(forward, **ends(**norms("n1"), **mixing())))


def put_out(s: Any, x: Tensor) -> Any:
    return one_block(s, x), s.n1.weight


READ: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "as it is": lambda s, n: n,
    "behind a function": lambda s, n: n.tanh(),
    "a map that is used twice": lambda s, n: across(s.t1, n.tanh()).mean((1, 2), keepdim=True),
    "a gain that is used twice": lambda s, n: s.n1.weight,
}


@pytest.mark.parametrize("name", READ)
def test_what_others_see_has_no_factor(name: str) -> None:
    model = seen(READ[name])
    found = infer(trace(model, (X,)))
    assert not any(radial.is_traded for radial in found.radial)
    assert error(model, (X,), found) < 1e-9


def test_what_is_put_out_has_no_factor() -> None:
    model = spread(Net(put_out, **ends(**norms("n1"), **mixing())))
    assert not any(radial.is_traded for radial in infer(trace(model, (X,))).radial)


def test_units_with_scales_have_no_other_factor() -> None:
    model = spread(Net(lambda s, x: s.o(F.relu(s.i(x))), **ends()))
    assert not infer(trace(model, (X,))).radial


def test_complex_weights_keep_their_factor() -> None:
    """Factors are balanced by norms of real numbers, which alone are widened before they are moved."""
    torch.manual_seed(0)
    parts = {"w": torch.randn(4, 6, dtype=torch.complex64), "o": nn.Linear(6, 3)}
    model = Net(lambda s, x: s.o((x.to(torch.complex64) @ s.w).imag), **parts)
    inputs = (torch.randn(5, 4),)
    found = infer(trace(model, inputs))
    assert not found.radial
    assert symgraph.verify(model, inputs, symmetry=found).passed
