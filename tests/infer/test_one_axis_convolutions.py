"""Convolutions that leave an axis of positions alone: along one axis of two, or with a single tap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph import audit, infer
from symgraph.tracing import trace

HEADS, INSIDE, PLACES, WIDTH = 2, 3, 5, 4


def along(columns: bool, groups: int) -> nn.Module:
    """Values of heads convolved along their places (Nystroemformer), which stand first or last."""

    def forward(s: Any, x: Tensor) -> Tensor:
        heads = s.v(x).unflatten(-1, (HEADS, INSIDE)).transpose(1, 2)
        found = s.c(heads) if columns else s.c(heads.mT).mT
        out: Tensor = s.o(found.transpose(1, 2).flatten(2))
        return out

    kernel, padding = ((3, 1), (1, 0)) if columns else ((1, 3), (0, 1))
    conv = nn.Conv2d(HEADS, HEADS, kernel, padding=padding, groups=groups, bias=False)
    return spread(Net(forward, v=nn.Linear(WIDTH, HEADS * INSIDE), c=conv, o=nn.Linear(HEADS * INSIDE, 9)))


@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("groups", [1, HEADS])
def test_the_axis_that_is_left_alone_is_linear(columns: bool, groups: int) -> None:
    torch.manual_seed(0)
    model, inputs = along(columns, groups), (torch.randn(2, PLACES, WIDTH),)
    symmetry = infer(trace(model, inputs))
    assert [str(s.group) for s in symmetry.active if s.size == INSIDE] == ["invertible"]
    counted = audit(model, symmetry=symmetry)
    assert counted.complete, str(counted)
    assert error(model, inputs, symmetry) < 1e-9


@pytest.mark.parametrize("norm", [nn.LayerNorm, lambda n: nn.RMSNorm(n, eps=1e-6)], ids=["layer", "rms"])
def test_tokens_are_mixed_by_a_single_tap(norm: Any) -> None:
    """The channels that the convolution takes for places are those of a stream that may be rotated."""

    def forward(s: Any, x: Tensor) -> Tensor:
        x = s.i(x)
        x = x + s.w(s.u(s.n(x)).relu())
        out: Tensor = s.o(s.m(x))
        return out

    torch.manual_seed(0)
    mixing = {"u": nn.Conv1d(PLACES, 6, 1), "w": nn.Conv1d(6, PLACES, 1)}
    model = Net(forward, i=nn.Linear(7, WIDTH), n=norm(WIDTH), m=norm(WIDTH), o=nn.Linear(WIDTH, 3), **mixing)
    symmetry = infer(trace(spread(model), (torch.randn(2, PLACES, 7),)))
    assert any(s.size == WIDTH for s in symmetry.active)
    assert error(model, (torch.randn(2, PLACES, 7),), symmetry) < 1e-9
