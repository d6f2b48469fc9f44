"""Attention without a softmax: a constant in the values comes out of several products as it went in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph.inference.pipeline import infer, run
from symgraph.prove.audit import audit
from symgraph.tracing import trace

X = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(2))
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def positive(x: Tensor) -> Tensor:
    return F.elu(x) + 1


def summed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = positive(q), positive(k)
    return q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(-2).unsqueeze(-1))


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = positive(q), positive(k)
    norm = 1 / torch.einsum("bhnd,bhd->bhn", q, k.sum(-2))
    return torch.einsum("bhnd,bhde,bhn->bhne", q, torch.einsum("bhnd,bhne->bhde", k, v), norm)


def two_softmaxes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Shen et al., arXiv 1812.01243."""
    return q.softmax(-1) @ (k.softmax(-2).transpose(-2, -1) @ v)


def with_an_epsilon(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = positive(q), positive(k)
    return q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(-2).unsqueeze(-1) + 1e-2)


def not_normalised(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return positive(q) @ (positive(k).transpose(-2, -1) @ v)


def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Beside the number that closes a mask everything else is lost, which is no law."""
    closed = torch.full((q.shape[-2], q.shape[-2]), torch.finfo(torch.float32).min).triu(1)
    return (q @ k.transpose(-2, -1) * 0.5 + closed) @ v


def compared(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What comes out is no number, and nothing can be taken from it."""
    return torch.where(two_softmaxes(q, k, v) > 0, v, q)


def net(attend: Attend, fused: bool = False) -> Net:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.i(x)
        parts = net.qkv(x).chunk(3, -1) if fused else (net.q(x), net.k(x), net.v(x))
        q, k, v = (y.unflatten(-1, (2, 3)).transpose(1, 2) for y in parts)
        found: Tensor = net.o(attend(q, k, v).transpose(1, 2).flatten(2))
        return found

    maps = {"qkv": nn.Linear(4, 18)} if fused else {n: nn.Linear(4, 6) for n in "qkv"}
    return Net(forward, i=nn.Linear(5, 4, bias=False), o=nn.Linear(6, 7), **maps)


@pytest.mark.parametrize("attend", [summed, by_einsum, two_softmaxes], ids=lambda f: f.__name__)
@pytest.mark.parametrize("fused", [False, True])
def test_nothing_is_missing(attend: Attend, fused: bool) -> None:
    torch.manual_seed(0)
    model = spread(net(attend, fused))
    symmetry = infer(trace(model, (X,)))
    found = audit(symmetry, approximate=False)
    assert found.complete, str(found)
    assert error(model, (X,), symmetry) < 1e-9


@pytest.mark.parametrize("attend", [with_an_epsilon, not_normalised, masked, compared], ids=lambda f: f.__name__)
def test_what_does_not_come_out_is_seen(attend: Attend) -> None:
    graph = trace(net(attend), (X,))
    assert not run(graph, until="measure").relays
    assert not [c for c in infer(graph).constants if c.source.piece.parameter == "v.bias"]
