"""Batch norms that are written out, by stored statistics or by those of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, error
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.prove.audit import audit
from symgraph.symmetry.dimension import Family, dimension
from symgraph.tracing import trace

C = 4
X = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(1))
Norm = Callable[[Any, Tensor], Tensor]


def along(vector: Tensor) -> Tensor:
    return vector.reshape(1, -1, 1, 1)


def frozen(net: Any, x: Tensor) -> Tensor:
    """As in torchvision's FrozenBatchNorm2d."""
    scale = along(net.w) * (along(net.var) + 1e-5).rsqrt()
    return x * scale + (along(net.b) - along(net.mean) * scale)


def folded(net: Any, x: Tensor) -> Tensor:
    scale = net.w * torch.rsqrt(net.var + 1e-5)
    found: Tensor = x * scale[:, None, None] + (net.b - net.mean * scale)[:, None, None]
    return found


def standardised(net: Any, x: Tensor) -> Tensor:
    found: Tensor = along(net.w) * ((x - along(net.mean)) / torch.sqrt(along(net.var) + 1e-5)) + along(net.b)
    return found


def powered(net: Any, x: Tensor) -> Tensor:
    found: Tensor = (x - along(net.mean)) * (along(net.w) / (along(net.var) + 1e-5) ** 0.5) + along(net.b)
    return found


def by_the_batch(net: Any, x: Tensor) -> Tensor:
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    found: Tensor = (x - mean) * torch.rsqrt(var + 1e-5) * along(net.w) + along(net.b)
    return found


def net_of(norm: Norm, learned: bool) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    vectors = {name: torch.randn(C, generator=generator) for name in "wb"}
    statistics = {"mean": torch.randn(C, generator=generator), "var": torch.rand(C, generator=generator) + 0.5}
    stored = statistics if learned else vectors | statistics

    def forward(net: Any, x: Tensor) -> Tensor:
        found: Tensor = net.o(F.relu(norm(net, net.c(x))).mean((2, 3)))
        return found

    maps = {"c": nn.Conv2d(2, C, 1), "o": nn.Linear(C, 3)}
    return Net(
        forward, **maps, **(vectors if learned else {}), **{name: (t, True) for name, t in stored.items()}
    ).eval()


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("norm", [frozen, folded, standardised, powered])
def test_one_by_stored_statistics_is_the_call(norm: Norm, learned: bool) -> None:
    """Scales on either side, the bias in front with the mean and the one behind, and what statistics are."""
    model = net_of(norm, learned)
    graph = trace(model, (X,))
    (call,) = [node for node in graph.calls if node.target == "aten.batch_norm.default"]
    assert [graph.by_name[ref].target for ref in list(call.refs())[1:]] == ["w", "b", "mean", "var"]
    symmetry = infer(graph)
    assert error(model, (X,), symmetry) < 1e-9
    found = audit(symmetry, approximate=False)
    assert found.complete and found.inferred == 5 * C, str(found)
    assert dimension(symmetry).number == found.inferred
    assert dimension(symmetry).family(Family.STATISTICS) == 2 * C


def test_one_by_the_statistics_of_the_batch_sees_no_bias_in_front() -> None:
    model = net_of(by_the_batch, True)
    symmetry = infer(trace(model, (X,)))
    assert error(model, (X,), symmetry) < 1e-9
    assert [constant.source.piece.parameter for constant in symmetry.constants] == ["c.bias"]
    found = audit(symmetry, approximate=False)
    assert found.complete and found.inferred == 2 * C, str(found)


def unlike(net: Any, x: Tensor) -> Tensor:
    """The bias is scaled as well, where a batch norm's is not."""
    scale = along(net.w) * (along(net.var) + 1e-5).rsqrt()
    return (x + along(net.b) - along(net.mean)) * scale


def seen(net: Any, x: Tensor) -> Tensor:
    """The scaled value is read before its bias is added."""
    scale = along(net.w) * (along(net.var) + 1e-5).rsqrt()
    scaled = (x - along(net.mean)) * scale
    found: Tensor = scaled + along(net.b) + torch.tanh(scaled)
    return found


@pytest.mark.parametrize("norm", [unlike, seen])
def test_anything_else_is_computed_as_it_is_written(norm: Norm) -> None:
    model = net_of(norm, True)
    graph = trace(model, (X,))
    calls = [node for node in graph.calls if node.target == "aten.batch_norm.default"]
    # What is scaled alone is a batch norm without a bias.
    assert [node.args[2] for node in calls] == ([] if norm is unlike else [None])
    symmetry = infer(graph)
    assert error(model, (X,), symmetry) < 1e-9
    found = audit(symmetry, approximate=False)
    assert not found.unsound and found.complete == (norm is seen), str(found)
