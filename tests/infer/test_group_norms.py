"""Group norms of several groups: what each of them does not see of a bias in front, and the same of rows."""

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
from symgraph.symmetry.dimension import Family, dimension
from symgraph.tracing import trace


def pooled(net: Any, x: Tensor) -> Tensor:
    found: Tensor = net.o(F.relu(net.g(net.c(x))).mean((2, 3)))
    return found


def added(net: Any, x: Tensor) -> Tensor:
    """Two biases in front of one norm."""
    found: Tensor = net.o(F.relu(net.g(net.c(x) + net.d(torch.tanh(x)))).mean((2, 3)))
    return found


def scaled(net: Any, x: Tensor) -> Tensor:
    """A bias that a number and a mean over windows pass on."""
    found: Tensor = net.o(F.relu(net.g(F.avg_pool2d(0.5 * net.c(x), 2))).mean((2, 3)))
    return found


def rows(net: Any, x: Tensor) -> Tensor:
    found: Tensor = net.o(torch.tanh(net.g(net.c(x))))
    return found


def images(body: Callable[[Any, Tensor], Tensor], groups: int, channels: int) -> Net:
    maps = {"c": nn.Conv2d(3, channels, 3), "d": nn.Conv2d(3, channels, 3), "o": nn.Linear(channels, 3)}
    used = maps if body is added else {name: maps[name] for name in "co"}
    return Net(body, g=nn.GroupNorm(groups, channels), **used)


X = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(2))
# Each with the means of biases that are not seen: one for each group.
CASES: dict[str, tuple[Callable[[], Net], Tensor, int]] = {
    "two groups of two": (lambda: images(pooled, 2, 4), X, 2),
    "three groups of two": (lambda: images(pooled, 3, 6), X, 3),
    "two groups of three": (lambda: images(pooled, 2, 6), X, 2),
    "of two biases": (lambda: images(added, 3, 6), X, 6),
    "behind a number and windows": (lambda: images(scaled, 3, 6), X, 3),
    "of rows": (
        lambda: Net(rows, c=nn.Linear(4, 6), g=nn.GroupNorm(2, 6), o=nn.Linear(6, 3)),
        torch.randn(5, 4, generator=torch.Generator().manual_seed(3)),
        10,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_group_has_a_mean_that_is_not_seen(name: str) -> None:
    make, x, means = CASES[name]
    torch.manual_seed(0)
    model = spread(make())
    symmetry = infer(trace(model, (x,)))
    assert error(model, (x,), symmetry) < 1e-9
    assert dimension(symmetry).family(Family.WRITTEN) == means
    found = audit(symmetry, approximate=False)
    assert found.complete, str(found)
    assert dimension(symmetry).number == found.inferred


def seen(net: Any, x: Tensor) -> Tensor:
    value = net.c(x)
    found: Tensor = net.o((F.relu(net.g(value)) + torch.tanh(value)).mean((2, 3)))
    return found


def padded(net: Any, x: Tensor) -> Tensor:
    """The bias is not the same at all positions of what the norm reads."""
    found: Tensor = net.o(F.relu(net.g(F.pad(net.c(x), (1, 1)))).mean((2, 3)))
    return found


@pytest.mark.parametrize("body", [seen, padded])
def test_a_bias_that_something_sees_stays(body: Callable[[Any, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = spread(images(body, 3, 6))
    symmetry = infer(trace(model, (X,)))
    assert error(model, (X,), symmetry) < 1e-9
    assert not symmetry.centred
    assert not audit(symmetry, approximate=False).unsound
