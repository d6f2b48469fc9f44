"""Gains that are computed from a condition and stored as their difference from one: FiLM, adaLN, DiT, PixArt."""

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
from symgraph.prove.audit import audit
from symgraph.prove.verify import random_transform, settled_names
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace

D, H = 4, 6
GENERATOR = torch.Generator().manual_seed(5)
X, C = torch.randn(2, 5, 7, generator=GENERATOR), torch.randn(2, 6, generator=GENERATOR)
Case = tuple[Callable[[], nn.Module], tuple[Tensor, ...]]


def centred(h: Tensor) -> Tensor:
    return F.layer_norm(h, h.shape[-1:])


def scaled(h: Tensor) -> Tensor:
    return F.rms_norm(h, h.shape[-1:])


def transformer(norm: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """Two blocks as those of DiT, each with a linear map of its own for gain, bias and gate, and a last norm."""

    def forward(net: Any, x: Tensor, c: Tensor) -> Any:
        h, c = net.i(x), F.silu(net.c2(F.silu(net.c1(c))))
        for maps, up, down in ((net.m1, net.u1, net.d1), (net.m2, net.u2, net.d2)):
            shift, scale, gate = maps(c).chunk(3, dim=-1)
            inner = norm(h) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
            h = h + gate.unsqueeze(1) * down(F.gelu(up(inner)))
        shift, scale = net.m(c).chunk(2, dim=-1)
        return net.o(norm(h) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1))

    def make() -> nn.Module:
        blocks = {f"{name}{k}": nn.Linear(*size) for name, size in SIZES.items() for k in (1, 2)}
        ends = {"i": nn.Linear(7, D), "c1": nn.Linear(6, 5), "c2": nn.Linear(5, 5), "o": nn.Linear(D, 9)}
        return Net(forward, **ends, m=nn.Linear(5, 2 * D), **blocks)

    return make


SIZES = {"m": (5, 3 * D), "u": (D, H), "d": (H, D)}


def modulated(change: Callable[[Tensor, Tensor, Tensor], Tensor], **parts: Any) -> Case:
    """A norm with a gain and a bias from one linear map of the condition, and what is made of these."""

    def forward(net: Any, x: Tensor, c: Tensor) -> Any:
        scale, shift = net.m(c).unsqueeze(1).chunk(2, dim=-1)
        return net.o(change(centred(net.i(x)), scale, shift))

    return lambda: Net(forward, i=nn.Linear(7, D), m=nn.Linear(6, 2 * D), o=nn.Linear(D, 9), **parts), (X, C)


def tables(net: Any, x: Tensor, c: Tensor) -> Any:
    """One map of the condition for all norms, and a table beside it for each of them."""
    made, h = net.m(c).reshape(2, 2, D), net.i(x)
    for table, maps in ((net.t, net.u), (net.w, net.o)):
        shift, scale = (table[None] + made).chunk(2, dim=1)
        h = maps(centred(h) * (1 + scale) + shift)
    return h


CASES: dict[str, Case] = {
    "a transformer, layer norm": (transformer(centred), (X, C)),
    "a transformer, RMS norm": (transformer(scaled), (X, C)),
    "less than one": modulated(lambda h, s, b: h * (1 - s) + b),
    "one less": modulated(lambda h, s, b: h * (s - 1) + b),
    "with the number multiplied out": modulated(lambda h, s, b: h + h * s + b),
    "in one call": modulated(lambda h, s, b: torch.addcmul(b, h, 1 + s)),
    "used twice with one number": modulated(lambda h, s, b: F.gelu(h * (1 + s) + b) * (1 + s)),
    "tables beside one map": (
        lambda: Net(
            tables,
            i=nn.Linear(7, D),
            m=nn.Linear(6, 2 * D),
            u=nn.Linear(D, D),
            o=nn.Linear(D, 9),
            t=torch.rand(2, D),
            w=torch.rand(2, D),
        ),
        (X, C),
    ),
}


def sound(case: Case) -> tuple[nn.Module, SymmetryGraph]:
    """The model of a case with what is inferred, which leaves its function."""
    make, inputs = case
    torch.manual_seed(0)
    model = spread(make())
    symmetry = infer(trace(model, inputs))
    assert error(model, inputs, symmetry) < 1e-9
    return model, symmetry


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_missing(name: str) -> None:
    model, symmetry = sound(CASES[name])
    assert symmetry.offsets
    state = {key: tensor.double() for key, tensor in state_of(model).items()}
    found = audit(symmetry, state, approximate=False)
    assert found.complete, str(found)


def elsewhere(read: Callable[[Tensor, Tensor, Tensor, Any], Tensor]) -> Case:
    def forward(net: Any, x: Tensor, c: Tensor) -> Any:
        made, h = net.m(c), centred(net.i(x))
        scale, shift = made.unsqueeze(1).chunk(2, dim=-1)
        return net.o(read(h * (1 + scale) + shift, scale, made.unsqueeze(1), net))

    return lambda: Net(forward, i=nn.Linear(7, D), m=nn.Linear(6, 2 * D), o=nn.Linear(D, 9)), (X, C)


READ: dict[str, Case] = {
    "as it is": elsewhere(lambda h, s, m, net: F.gelu(h) * s),
    "with another number": elsewhere(lambda h, s, m, net: F.gelu(h) * (2 + s)),
    "some of it with the number, some without": elsewhere(lambda h, s, m, net: F.gelu(h) * m[..., 2 : 2 + D]),
    "its bias": elsewhere(lambda h, s, m, net: h + net.m.bias.sum()),
    "behind a function": modulated(lambda h, s, b: h * (1 + s.tanh()) + b.tanh()),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read_elsewhere_keeps_its_number(name: str) -> None:
    assert not sound(READ[name])[1].offsets


def test_numbers_stand_where_they_are_added() -> None:
    make, inputs = CASES["a transformer, RMS norm"]
    symmetry = infer(trace(make(), inputs))
    runs = {name: offset.runs for name, offset in symmetry.offsets.items()}
    assert runs["m.bias"] == ((D, 0.0), (D, 1.0))
    assert runs["m1.bias"] == runs["m2.bias"] == ((D, 0.0), (D, 1.0), (D, 0.0))
    assert SymmetryGraph.from_json(symmetry.to_json()).offsets == symmetry.offsets


def test_a_planted_element_is_found() -> None:
    make, inputs = CASES["a transformer, RMS norm"]
    torch.manual_seed(0)
    model = spread(make()).double()
    wide = tuple(x.double() for x in inputs)
    symmetry, state = infer(trace(model, wide)), state_of(model)
    planted = random_transform(symmetry, state, torch.Generator().manual_seed(2), settled_names(symmetry))
    moved = copy.deepcopy(model)
    moved.load_state_dict(planted.apply(state))
    aligned = symgraph.align(model, moved, wide)
    far = sum(float((moved.state_dict()[name] - tensor).square().sum()) for name, tensor in state.items())
    near = sum(float((aligned.state[name] - tensor).square().sum()) for name, tensor in state.items())
    assert near < 1e-6 * far
