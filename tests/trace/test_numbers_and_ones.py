"""What is made of numbers alone is a number, and a factor of ones is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net
from torch import Tensor, nn

from symgraph import audit, infer
from symgraph.tracing import state_of, trace
from symgraph.tracing.interpreter import evaluate

CASES: dict[str, tuple[Callable[..., Any], dict[str, int]]] = {
    "a mask of ones": (
        lambda net, x: x * torch.ones(2, dtype=torch.long)[:, None].to(x.dtype),
        {"aten.mul.Tensor": 0, "aten.ones.default": 0},
    ),
    "ones on the left": (lambda net, x: torch.ones(1, 3).expand(2, 3) * x, {"aten.mul.Tensor": 0}),
    "divided by ones": (lambda net, x: x / torch.full((2, 1), 1.0), {"aten.div.Tensor": 0}),
    "ones over something": (lambda net, x: torch.ones(2, 3) / (x**2 + 1), {"aten.div.Tensor": 1}),
    "ones that make it larger": (lambda net, x: x * torch.ones(4, 1, 1), {"aten.mul.Tensor": 1}),
    "positions times ones": (
        lambda net, x: torch.arange(3) * torch.ones(3) + x,
        {"aten.mul.Tensor": 1},
    ),
    "not all of them ones": (
        lambda net, x: x * torch.cat([torch.ones(1, 3), torch.full((1, 3), 2.0)]),
        {"aten.mul.Tensor": 1},
    ),
    "zero added": (lambda net, x: x + 0.0, {"aten.add.Tensor": 0}),
    "zero taken off": (lambda net, x: (x - 0) * 2.0, {"aten.sub.Tensor": 0, "aten.mul.Tensor": 1}),
    "times one": (lambda net, x: 1.0 * x, {"aten.mul.Tensor": 0}),
    "divided by one": (lambda net, x: x / 1, {"aten.div.Tensor": 0}),
    "one added": (lambda net, x: x + 1.0, {"aten.add.Tensor": 1}),
    "positions that become floats": (lambda net, x: (torch.arange(3) + 0.0) / 2 + x, {"aten.add.Tensor": 2}),
    "a pad by nothing": (lambda net, x: torch.nn.functional.pad(x, (0, 0, 0, 0)), {"aten.pad.default": 0}),
    "a pad by one": (lambda net, x: torch.nn.functional.pad(x, (0, 1)), {"aten.pad.default": 1}),
    "the root of a width": (
        lambda net, x: x / torch.sqrt(torch.tensor(3, dtype=torch.float) * 2),
        {"aten.sqrt.default": 0, "aten.full.default": 0, "aten.div.Tensor": 1},
    ),
    "a number without a logarithm": (lambda net, x: x + torch.tensor(-1.0).exp().neg().log(), {"aten.log.default": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_numbers_and_ones_have_one_form(name: str) -> None:
    function, counts = CASES[name]
    net, inputs = Net(function), (torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),)
    graph = trace(net, inputs)
    targets = [node.target for node in graph.calls]
    assert {target: targets.count(target) for target in counts} == counts
    (found,) = evaluate(graph, state_of(net), inputs)
    torch.testing.assert_close(found, net(*inputs).double(), equal_nan=True)


class Masked(nn.Module):
    """Attention as DeBERTa writes it: embeddings times a mask that is ones, keys divided by the root of a width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(7, 5), nn.LayerNorm(5, eps=1e-7)
        self.q, self.k, self.v = (nn.Linear(5, 2) for _ in range(3))
        self.out = nn.Linear(2, 9)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[:2], dtype=torch.long)
        x = self.norm(self.embed(x)) * mask.unsqueeze(2).to(torch.float32)
        scale = torch.sqrt(torch.tensor(2, dtype=torch.float))
        weights = torch.bmm(self.q(x), self.k(x).mT / scale).softmax(-1)
        out: Tensor = self.out(torch.bmm(weights, self.v(x)))
        return out


def test_a_mask_of_ones_and_a_root_hide_nothing() -> None:
    torch.manual_seed(0)
    model = Masked()
    counted = audit(model, symmetry=infer(trace(model, (torch.randn(2, 5, 7),))))
    assert counted.complete, str(counted)
