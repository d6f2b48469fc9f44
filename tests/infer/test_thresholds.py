"""Inputs that are compared with numbers far from all that is drawn: what holds on one side alone is no symmetry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph import infer, verify
from symgraph.tracing import trace

X = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))


def scores(s: Any, x: Tensor) -> Tensor:
    found: Tensor = s.q(x) @ s.k(x).transpose(1, 2)
    return found


def switched_off(s: Any, x: Tensor, f: Tensor) -> Tensor:
    """Weights that sum to one, or to nothing: a constant in the values counts as often."""
    return s.o((scores(s, x).softmax(-1) * (f < 100)) @ s.v(x))  # type: ignore[no-any-return]


def one_for_each_example(s: Any, x: Tensor, f: Tensor) -> Tensor:
    return s.o((scores(s, x).softmax(-1) * (f.expand(2) * 0.01 < 1)[:, None, None]) @ s.v(x))  # type: ignore[no-any-return]


def other_weights(s: Any, x: Tensor, f: Tensor) -> Tensor:
    here = scores(s, x)
    return s.o(torch.where(f < 100, here.softmax(-1), here.sigmoid()) @ s.v(x))  # type: ignore[no-any-return]


def length_of_some(s: Any, x: Tensor, f: Tensor) -> Tensor:
    h = s.v(x)
    return s.o(h / (h.norm(dim=-1, keepdim=True) * (f > 100) + 1.0))  # type: ignore[no-any-return]


def centred_if(s: Any, x: Tensor, f: Tensor) -> Tensor:
    h = s.v(x)
    return s.o(h - h.mean(-1, keepdim=True) * (f < 100))  # type: ignore[no-any-return]


def clipped(s: Any, x: Tensor, f: Tensor) -> Tensor:
    h = s.v(x)
    return s.o(h - h.mean(-1, keepdim=True) * (1.0 - (f - 99.0).clamp(0.0, 1.0)))  # type: ignore[no-any-return]


def rounded_off(s: Any, x: Tensor, f: Tensor) -> Tensor:
    h = s.v(x)
    return s.o(h / (h.norm(dim=-1, keepdim=True) * (f / 400.0).abs().floor() + 1.0))  # type: ignore[no-any-return]


def saturated(s: Any, x: Tensor, f: Tensor) -> Tensor:
    """Nothing is drawn at which this is not zero."""
    h = s.v(x)
    return s.o(h / (h.norm(dim=-1, keepdim=True) * torch.exp(-((f - 900.0) ** 2)) + 1.0))  # type: ignore[no-any-return]


def at_one_number(s: Any, x: Tensor, f: Tensor) -> Tensor:
    return s.o((scores(s, x).softmax(-1) * (f != 900)) @ s.v(x))  # type: ignore[no-any-return]


FUNCTIONS = [
    *(switched_off, rounded_off, saturated, at_one_number, one_for_each_example, other_weights, length_of_some),
    *(centred_if, clipped),
]


@pytest.mark.parametrize("f", FUNCTIONS)
@pytest.mark.parametrize("whole", [False, True])
def test_both_sides_of_a_threshold_count(f: Callable[..., Tensor], whole: bool) -> None:
    torch.manual_seed(0)
    maps = {name: nn.Linear(6, 6) for name in "qkv"} | {"o": nn.Linear(6, 3)}
    net = spread(Net(f, **maps))
    below, above = (torch.tensor(3), torch.tensor(900)) if whole else (torch.tensor(0.7), torch.tensor(900.0))
    found = infer(trace(net, (X, below)))
    assert found.active
    assert error(net, (X, below), found) < 1e-9
    assert error(net, (X, above), found) < 1e-9


def test_verification_crosses_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where inference does not look at them, verification finds what it took for a symmetry."""
    monkeypatch.setattr("symgraph.inference.region_tables.further_tables", lambda graph, names, worlds: ())
    torch.manual_seed(0)
    net = spread(Net(length_of_some, q=nn.Linear(1, 1), k=nn.Linear(1, 1), v=nn.Linear(6, 6), o=nn.Linear(6, 3)))
    graph = trace(net, (X, torch.tensor(0.7)))
    assert not verify(net, (X, torch.tensor(0.7)), symmetry=infer(graph)).passed


def routed(s: Any, x: Tensor, y: Tensor) -> Tensor:
    weights, chosen = s.r(x).topk(2, -1)
    found = (s.e[chosen] @ y[:, None, :, None]).squeeze(-1) * weights.softmax(-1)[..., None]
    return found.sum(1)  # type: ignore[no-any-return]


def rounded(s: Any, x: Tensor, y: Tensor) -> Tensor:
    weights, chosen = (4 * s.r(x)).to(torch.int8).to(x.dtype).topk(2, -1)
    return ((s.e[chosen] @ y[:, None, :, None]).squeeze(-1) * weights[..., None]).sum(1)  # type: ignore[no-any-return]


def test_a_router_of_few_bits_has_ties() -> None:
    torch.manual_seed(0)
    net = spread(Net(rounded, r=nn.Linear(6, 4), e=nn.Parameter(torch.randn(4, 3, 6))))
    x, y = torch.randn(5, 6), torch.randn(5, 6)
    found = infer(trace(net, (x, y)))
    assert not found.active
    assert error(net, (x, y), found) < 1e-9


@pytest.mark.parametrize(("bias", "size"), [(False, 1), (True, 4)])
def test_experts_are_chosen_by_place_where_a_row_of_the_input_is_zero(bias: bool, size: int) -> None:
    torch.manual_seed(0)
    net = spread(Net(routed, r=nn.Linear(6, 4, bias=bias), e=nn.Parameter(torch.randn(4, 3, 6))))
    x, y = torch.randn(5, 6), torch.randn(5, 6)
    found = infer(trace(net, (x, y)))
    assert max((space.size for space in found.active), default=1) == size
    assert error(net, (torch.zeros(5, 6), y), found) < 1e-9
