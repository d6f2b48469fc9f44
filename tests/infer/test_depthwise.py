"""Convolutions of each channel with several kernels, which make up for its scale and sign."""

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
from symgraph.tracing import trace

C, KERNELS = 4, 2
X = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
Body = Callable[[Any, Tensor], Tensor]


def net_of(body: Body, **more: Any) -> Net:
    def forward(net: Any, x: Tensor) -> Tensor:
        found: Tensor = net.o(body(net, x).mean((2, 3)))
        return found

    first, kernels = nn.Conv2d(3, C, 1), nn.Conv2d(C, KERNELS * C, 3, groups=C, padding=1)
    return Net(forward, c=first, d=kernels, o=nn.Linear(KERNELS * C, 3), **more)


def once(net: Any, x: Tensor) -> Tensor:
    found: Tensor = net.d(F.relu(net.c(x)))
    return found


# Each with the number of directions: four scales of channels in front, and eight behind or what else is there.
CASES: dict[str, tuple[Callable[[], Net], int]] = {
    "between functions that pass on scales": (lambda: net_of(lambda s, x: F.relu(once(s, x))), C + KERNELS * C),
    "in front of one that does not": (lambda: net_of(lambda s, x: F.gelu(once(s, x))), C),
    "twice": (lambda: net_of(lambda s, x: F.relu(once(s, x) + once(s, 2 * x))), C + KERNELS * C),
    "behind what is rigid as well": (
        lambda: net_of(lambda s, x: F.relu(once(s, x) + s.d(torch.tanh(s.c(x))))),
        KERNELS * C,
    ),
    "beside its input": (
        lambda: net_of(lambda s, x: F.relu(once(s, x)) * F.relu(s.c(x)).repeat_interleave(2, 1)),
        C + KERNELS * C,
    ),
    "in front of a norm of each channel's": (
        lambda: net_of(lambda s, x: F.relu(F.group_norm(once(s, x), C))),
        C + C,
    ),
    "in front of maps of each channel's": (
        lambda: net_of(lambda s, x: F.relu(F.conv2d(once(s, x), s.w, groups=C)), w=torch.randn(2 * C, KERNELS, 1, 1)),
        C + C * KERNELS**2 + KERNELS * C,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_kernels_make_up_for_scales(name: str) -> None:
    make, number = CASES[name]
    torch.manual_seed(0)
    model = spread(make())
    symmetry = infer(trace(model, (X,)))
    assert error(model, (X,), symmetry) < 1e-9
    found = audit(symmetry, approximate=False)
    assert found.complete and found.inferred == number, str(found)
    assert dimension(symmetry).number == number


OTHERS: dict[str, Body] = {
    "the kernels are read by themselves": lambda s, x: F.relu(once(s, x)) + s.d.weight.square().sum(),
    "the channels are read beside the result": lambda s, x: F.relu(once(s, x)) + F.relu(s.c(x)).repeat(1, 2, 1, 1),
    "weights over all results": lambda s, x: once(s, x).softmax(1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_something_else_sees_stays(name: str) -> None:
    torch.manual_seed(0)
    model = spread(net_of(OTHERS[name]))
    symmetry = infer(trace(model, (X,)))
    assert error(model, (X,), symmetry) < 1e-9
    assert not audit(symmetry, approximate=False).unsound


def test_parts_of_what_a_depthwise_convolution_makes_are_told_apart() -> None:
    """Queries, keys and values side by side in one convolution, as in Qwen3-Next: a part has as many groups."""

    def function(net: Any, x: Tensor) -> Tensor:
        side_by_side = torch.cat([net.query(x), net.key(x), net.value(x)], -1)
        seen = net.conv(side_by_side.transpose(1, 2))[..., :7].transpose(1, 2)
        made: Any = F.silu(seen)
        query, key, value = made.split([4, 4, 6], -1)
        unit = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        found: Tensor = net.head(F.scaled_dot_product_attention(*unit, value))
        return found

    parts = {"query": nn.Linear(5, 4), "key": nn.Linear(5, 4), "value": nn.Linear(5, 6), "head": nn.Linear(6, 3)}
    conv = nn.Conv1d(14, 14, 3, groups=14, padding=2, bias=False)
    model, example = spread(Net(function, conv=conv, **parts)), torch.randn(2, 7, 5)
    symmetry = infer(trace(model, (example,)))
    assert not symmetry.uncovered
    assert sorted(space.size for space in symmetry.active) == [4, 6]
    assert error(model, (example,), symmetry) < 1e-12
    assert audit(symmetry).complete
