"""One trace serves two modules only where nothing but weights tells them apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symgraph.errors import CheckpointError
from symgraph.inference.sources import infer
from symgraph.match.align import align
from symgraph.tracing.same_code import same_code


class Net(nn.Module):
    """Settings of many kinds."""

    mask: Tensor
    order: Tensor

    def __init__(self, slope: float = 0.1) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.sizes, self.by_name, self.act = [3, (8, 2)], {"slope": slope}, torch.relu
        self.register_buffer("mask", torch.ones(8))
        self.register_buffer("order", torch.arange(8), persistent=False)
        self.literal = torch.tensor(2.0)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.by_name["slope"] * self.literal
        found: Tensor = self.last(self.act(self.norm(self.first(x)))[:, self.order] * self.mask) * scale
        return found


def _hooked(net: Net) -> None:
    net.first.register_forward_hook(lambda *_: None)


CHANGES: dict[str, Callable[[Net], object]] = {
    "a number": lambda net: net.by_name.update(slope=0.2),
    "a part of a list": lambda net: net.sizes.append(1),
    "a function": lambda net: setattr(net, "act", torch.tanh),
    "a method": lambda net: setattr(net, "forward", lambda x: x),
    "a setting of a part": lambda net: setattr(net.norm, "eps", 1e-3),
    "a class": lambda net: setattr(net, "last", nn.Bilinear(8, 1, 2)),
    "a size": lambda net: setattr(net, "last", nn.Linear(8, 3)),
    "a tie": lambda net: setattr(net.norm, "bias", net.norm.weight),
    "a precision": lambda net: net.last.half(),
    "an unstored buffer": lambda net: net.order.copy_(torch.arange(8).flip(0)),
    "a buffer that counts": lambda net: net.mask.zero_(),
    "a tensor beside": lambda net: setattr(net, "literal", torch.tensor(3.0)),
    "a hook": _hooked,
    "something unknown": lambda net: setattr(net, "more", object()),
}


def test_weights_and_statistics_may_differ() -> None:
    one, other = Net(), Net()
    other.norm.weight.data += 1.0
    other.norm(torch.randn(5, 8))
    assert same_code(one, other, ["mask", "order"])


@pytest.mark.parametrize("change", CHANGES)
def test_anything_else_is_seen(change: str) -> None:
    one, other = Net(), Net()
    CHANGES[change](other)
    assert not same_code(one, other, ["mask", "order"])
    assert not same_code(other, one, ["mask", "order"])


def test_the_second_model_is_traced_only_where_it_has_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    inferred: list[object] = []

    def counted(model: Any, **how: Any) -> Any:
        inferred.append(model)
        return infer(model, **how)

    monkeypatch.setattr("symgraph.match.one_basis.infer", counted)
    x = torch.randn(5, 3)
    assert align(Net().eval(), Net().eval(), x).module(x).shape == (5, 2)
    assert len(inferred) == 1
    other = Net().eval()
    CHANGES["something unknown"](other)
    align(Net().eval(), other, x)
    assert len(inferred) == 3
    with pytest.raises(CheckpointError, match="computes otherwise than Net"):
        align(Net().eval(), Net(0.2).eval(), x)
