"""Constants on their way through what is learned: numbers and gains that multiply, one matrix for a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.prove.audit import audit
from symgraph.tracing import trace

D, H = 4, 5
X = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))


def blocks(net: Any, x: Tensor) -> Tensor:
    """Two residual branches behind each other, each times what is learned."""
    x = net.i(x)
    x = x + net.a * net.d(F.gelu(net.u(x)))
    x = x + net.e(F.gelu(net.w(x))) * net.b
    found: Tensor = net.o(x)
    return found


def branches(net: Any, x: Tensor) -> Tensor:
    """Two residual branches beside each other."""
    x = net.i(x)
    x = x + net.a * net.d(F.gelu(net.u(x))) + net.b * net.e(F.gelu(net.w(x)))
    found: Tensor = net.o(F.gelu(x))
    return found


def beside(a: Tensor, b: Tensor) -> dict[str, Any]:
    maps = {"i": nn.Linear(6, D), "u": nn.Linear(D, H), "d": nn.Linear(H, D), "w": nn.Linear(D, H)}
    return {**maps, "e": nn.Linear(H, D), "o": nn.Linear(D, 6), "a": a, "b": b}


def convolved(net: Any, x: Tensor) -> Tensor:
    x = net.i(x)
    x = x + net.a * net.d(F.gelu(net.u(x)))
    found: Tensor = net.o(x.mean((2, 3)))
    return found


def convolutions() -> Net:
    i, u, d = nn.Conv2d(4, 3, 1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
    return Net(convolved, i=i, u=u, d=d, o=nn.Linear(3, 5), a=torch.tensor(0.3))


def recurrent(net: Any, x: Tensor) -> Tensor:
    found: Tensor = net.o(net.r(net.i(x))[0])
    return found


def one_after_the_other(net: Any, x: Tensor) -> Tensor:
    """Two gains behind a norm, so that what reads them reads from its plane."""
    found: Tensor = net.o(net.a * (net.b * F.layer_norm(net.i(x), (D,))))
    return found


def batched(net: Any, x: Tensor) -> Tensor:
    found: Tensor = net.o(F.gelu(torch.bmm(net.i(x), net.w.expand(len(x), D, H)) + net.b))
    return found


def headed(gain: Callable[[Any], Tensor], turned: bool = False) -> Callable[[Any, Tensor], Tensor]:
    """Attention with a gain for each head behind it."""

    def forward(net: Any, x: Tensor) -> Tensor:
        queries, keys, values = (part(x).view(2, 3, 2, 2).transpose(1, 2) for part in (net.q, net.k, net.v))
        mixed = F.scaled_dot_product_attention(queries, keys, values.flip(1) if turned else values)
        found: Tensor = net.o((mixed * gain(net)[:, None, None]).transpose(1, 2).flatten(2))
        return found

    return forward


def heads(forward: Callable[[Any, Tensor], Tensor]) -> Net:
    maps = {name: nn.Linear(6, 4) for name in "qkv"}
    return Net(forward, **maps, o=nn.Linear(4, 6), g=torch.rand(2))


WAVES = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
STEPS = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(4))
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "numbers": (lambda: Net(blocks, **beside(torch.tensor(0.3), torch.tensor([[0.4]]))), X),
    "gains along the stream": (lambda: Net(blocks, **beside(torch.rand(D), torch.rand(1, D))), X),
    "numbers of branches that meet": (lambda: Net(branches, **beside(torch.tensor(0.3), torch.tensor(0.4))), X),
    "gains of branches that meet": (lambda: Net(branches, **beside(torch.rand(D), torch.rand(D))), X),
    "two gains of one norm": (
        lambda: Net(one_after_the_other, i=nn.Linear(6, D), o=nn.Linear(D, 6), a=torch.rand(D), b=torch.rand(D)),
        X,
    ),
    "a number behind a convolution": (convolutions, WAVES),
    "a recurrent network between maps": (
        lambda: Net(recurrent, i=nn.Linear(6, D), r=nn.GRU(D, H, batch_first=True), o=nn.Linear(H, 6)),
        STEPS,
    ),
    "a gain for each head": (lambda: heads(headed(lambda net: net.g)), STEPS),
    "a gain for each head beside one": (lambda: heads(headed(lambda net: 1 + net.g)), STEPS),
    "an exponential for each head": (lambda: heads(headed(lambda net: net.g.exp())), STEPS),
    "one matrix for a batch": (
        lambda: Net(batched, i=nn.Linear(6, D), w=torch.rand(D, H), b=torch.rand(H), o=nn.Linear(H, 6)),
        STEPS,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_missing(name: str) -> None:
    make, x = CASES[name]
    torch.manual_seed(0)
    model = spread(make())
    symmetry = infer(trace(model, (x,)))
    found = audit(symmetry, approximate=False)
    assert found.complete, str(found)
    assert error(model, (x,), symmetry) < 1e-9


def test_a_bias_goes_on_through_a_number() -> None:
    make, x = CASES["numbers"]
    (moved,) = [c for c in infer(trace(make(), (x,))).constants if c.source.piece.parameter == "e.bias"]
    (share,) = moved.shares
    assert share.port.piece.parameter == "o.bias" and share.factor == -1.0
    number, matrix = share.path
    assert (number.reader.parameter, number.is_number, matrix.reader.parameter) == ("b", True, "o.weight")


def test_heads_in_another_order_keep_the_function() -> None:
    """Whatever becomes of a constant there: entry by entry another gain multiplies it."""
    net = spread(heads(headed(lambda net: net.g, turned=True)))
    assert error(net, (STEPS,)) < 1e-9
    assert not audit(infer(trace(net, (STEPS,))), approximate=False).unsound


def test_what_is_seen_behind_a_gain_stays() -> None:
    """Before a nonlinearity nothing takes what a gain makes of a constant."""
    net = Net(lambda s, x: s.o(F.gelu(s.g * s.i(x))), i=nn.Linear(6, D), g=torch.rand(D), o=nn.Linear(D, 6))
    symmetry = infer(trace(net, (X,)))
    assert not symmetry.constants
    assert audit(symmetry, approximate=False).complete
