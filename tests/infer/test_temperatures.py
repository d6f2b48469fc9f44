"""A learned number for each head that multiplies its scores trades a factor with the map that makes its queries."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn

import symgraph
from symgraph import audit, infer
from symgraph.orbit.canonical import canonicalise
from symgraph.prove.verify import random_transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace

TOKENS, WIDTH, HEADS, INSIDE = 4, 8, 4, 2
Forward = Callable[[Any, Tensor], Tensor]


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, INSIDE)).transpose(1, 2)  # type: ignore[no-untyped-call, no-any-return]


def mixed(s: Any, weights: Tensor, v: Tensor) -> Tensor:
    out: Tensor = s.o((weights @ v).transpose(1, 2).flatten(2))
    return out


def plain(s: Any, x: Tensor) -> Tensor:
    scores = heads(s.q(x)) @ heads(s.k(x)).mT * INSIDE**-0.5
    return mixed(s, (scores * s.t[:, None, None]).softmax(-1), heads(s.v(x)))


def masked(s: Any, x: Tensor) -> Tensor:
    """A mask is added behind it."""
    scores = (heads(s.q(x)) @ heads(s.k(x)).mT) * s.t.view(HEADS, 1, 1)
    return mixed(s, (scores + torch.full((TOKENS, TOKENS), -1e9).triu(1)).softmax(-1), heads(s.v(x)))


def grouped(s: Any, x: Tensor) -> Tensor:
    """Two heads share a key."""
    k, v = (heads(m(x)).repeat_interleave(2, 1) for m in (s.k, s.v))
    return mixed(s, (heads(s.q(x)) @ k.mT * s.t[:, None, None]).softmax(-1), v)


def net(f: Forward) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    keys = HEADS * INSIDE // (2 if f is grouped else 1)
    maps = {name: nn.Linear(WIDTH, keys if name in "kv" else HEADS * INSIDE) for name in "qkvo"}
    return spread(Net(f, **maps, t=torch.rand(HEADS) + 0.5)), (torch.randn(2, TOKENS, WIDTH),)


@pytest.mark.parametrize("f", [plain, masked, grouped])
def test_each_head_has_a_factor(f: Forward) -> None:
    model, inputs = net(f)
    found = infer(trace(model, inputs))
    (radial,) = found.radial
    assert (radial.tensors, radial.powers, radial.parts) == (("t", "q.weight", "q.bias"), (-1, 1, 1), HEADS)
    assert SymmetryGraph.from_json(found.to_json()).radial == found.radial
    assert error(model, inputs, found) < 1e-9
    counted = audit(model, inputs, symmetry=found)
    assert counted.complete, str(counted)
    assert found.dimension().number == counted.inferred


def test_the_canonical_form_makes_them_one() -> None:
    model, inputs = net(plain)
    found, state = infer(trace(model, inputs)), {n: t.double() for n, t in state_of(model).items()}
    # A number that multiplies the scores is as if it had been learned with them.
    as_read = found.raised(canonicalise(found, state).state)["t"]
    assert torch.allclose(as_read, torch.ones(HEADS, dtype=torch.float64), atol=1e-9)
    moved = copy.deepcopy(model)
    moved.load_state_dict(random_transform(found, state, torch.Generator().manual_seed(1)).apply(state))
    aligned = symgraph.align(model, moved, *inputs)
    for tensor in state:
        torch.testing.assert_close(aligned.state[tensor].double(), state[tensor], rtol=0, atol=5e-3)


def seen(s: Any, x: Tensor) -> Tensor:
    """Queries are read elsewhere as well."""
    return plain(s, x) + torch.sin(s.q(x))


def gated(s: Any, x: Tensor) -> Tensor:
    """What a head makes is multiplied: values and their readers have that factor already."""
    y = (heads(s.q(x)) @ heads(s.k(x)).mT).softmax(-1) @ heads(s.v(x)) * s.t[:, None, None]
    out: Tensor = s.o(y.transpose(1, 2).flatten(2))
    return out


@pytest.mark.parametrize("f", [seen, gated])
def test_there_is_none_where_something_else_sees_it_or_has_it(f: Forward) -> None:
    model, inputs = net(f)
    found = infer(trace(model, inputs))
    assert not found.radial
    assert error(model, inputs, found) < 1e-9
    assert found.dimension().number == audit(model, inputs, symmetry=found).inferred
