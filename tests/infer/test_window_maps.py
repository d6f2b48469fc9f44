"""Convolutions without padding: constants and means of norms go into them, whatever their windows share."""

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
from symgraph.symmetry.dimension import dimension
from symgraph.tracing import state_of, trace

X = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
Norm = Callable[[], nn.Module]


class Channels(nn.Module):
    """A layer norm over the channels of an image."""

    def __init__(self, gain: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4) + 0.5) if gain else None
        self.bias = nn.Parameter(torch.randn(4)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), (4,), self.weight, self.bias).permute(0, 3, 1, 2)


def net(norm: nn.Module, **more: Any) -> Net:
    def forward(net: Any, x: Tensor) -> Tensor:
        found: Tensor = net.o(F.gelu(net.c(net.n(F.gelu(net.i(x))))).mean((2, 3)))
        return found

    return Net(forward, i=nn.Conv2d(2, 4, 3, padding=1), n=norm, c=nn.Conv2d(4, 5, **more), o=nn.Linear(5, 6))


# Each with its directions: four gains, four biases that move on, and a mean for each kernel entry of each output.
CASES: dict[str, tuple[Norm, dict[str, Any], int]] = {
    "side by side": (Channels, {"kernel_size": 2, "stride": 2}, 4 + 4 + 4 * 5),
    "overlapping": (Channels, {"kernel_size": 3, "stride": 2}, 4 + 4 + 9 * 5),
    "unlike sides": (Channels, {"kernel_size": (2, 4), "stride": (2, 4)}, 4 + 4 + 8 * 5),
    "without gain": (lambda: Channels(gain=False), {"kernel_size": 2, "stride": 2}, 4 + 4 * 5),
    "without gain and bias": (lambda: Channels(False, False), {"kernel_size": 2, "stride": 2}, 4 * 5),
    "with gaps": (Channels, {"kernel_size": 2, "dilation": 2}, 4 + 4 + 4 * 5),
    "with gaps along one axis": (Channels, {"kernel_size": 3, "dilation": (1, 2), "padding": "valid"}, 4 + 4 + 9 * 5),
    "one tap without a bias": (Channels, {"kernel_size": 1, "bias": False}, 4 + 4),
    "padded": (Channels, {"kernel_size": 2, "stride": 2, "padding": 1}, 4 + 4),
    # Here gains and biases are for each channel and position: one constant of the bias is found, and more is not seen.
    "all as one": (lambda: nn.LayerNorm((4, 8, 8)), {"kernel_size": 2, "stride": 2}, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_norm_leaves_unseen(name: str) -> None:
    norm, more, directions = CASES[name]
    module = spread(net(norm(), **more))
    found = infer(trace(module, (X,)))
    assert dimension(found).number == directions
    assert error(module, (X,), found) < 1e-9
    counted = audit(found, state_of(module), approximate=False)
    assert not counted.unsound
    assert counted.complete == (name != "all as one"), str(counted)
