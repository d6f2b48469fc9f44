"""Networks of a few lines around one operator, and what should be found in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.prove.verify import verify
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace

Case = tuple[Callable[..., Any], dict[str, Any], tuple[Any, ...], str]


class Net(nn.Module):
    """A function of inputs that reads its parts by name."""

    def __init__(self, f: Callable[..., Any], parts: dict[str, Any]) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.f = f

    def forward(self, *inputs: Tensor) -> Any:
        return self.f(self, *inputs)


def weight(*shape: int) -> nn.Parameter:
    """A parameter without a module of its own."""
    return nn.Parameter(torch.randn(shape))


def solved(case: Case, verified: bool = True) -> SymmetryGraph:
    """The symmetry of a net at random weights, verified."""
    f, parts, inputs, _ = case
    torch.manual_seed(0)
    net = Net(f, {k: v() if callable(v) and not isinstance(v, nn.Module) else v for k, v in parts.items()}).eval()
    tensors = tuple(torch.randn(x) if isinstance(x, tuple) else x for x in inputs)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    symmetry = infer(trace(net, tensors))
    if verified:
        verify(symmetry, state_of(net), tensors, samples=1).raise_if_failed()
    return symmetry


def groups(symmetry: SymmetryGraph) -> str:
    """The names and groups of the spaces that are not rigid."""
    return ", ".join(f"{s.name}: {s.group}" for s in symmetry.active)
