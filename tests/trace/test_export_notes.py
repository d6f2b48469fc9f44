"""What an export notes is cut; the graph is the one of a whole export."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from symgraph.ir import Graph
from symgraph.tracing import export, trace


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return helper(x @ self.weight.T)


class Modes(nn.Module):
    """Changes the gradient mode around calls, in both directions and one within the other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale = Inner(), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y: Tensor = self.inner(x)
            with torch.enable_grad():
                y = y * self.scale
        torch.set_grad_enabled(True)
        return y.sub(self.inner(x))


def helper(x: Tensor) -> Tensor:
    return torch.sin(x) + 1


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Graph:
    with monkeypatch.context() as patched:
        patched.setattr(export, "few_notes", nullcontext)
        return trace(Modes(), (torch.zeros(2, 3),))


def test_the_graph_is_that_of_a_whole_export(whole: Graph) -> None:
    before = torch.is_grad_enabled()
    assert trace(Modes(), (torch.zeros(2, 3),)) == whole
    assert torch.is_grad_enabled() == before


def test_a_call_has_the_innermost_line_of_a_forward(whole: Graph) -> None:
    [sine, *_] = [call for call in whole.calls if "sin" in call.target]
    [same, *_] = [call for call in trace(Modes(), (torch.zeros(2, 3),)).calls if "sin" in call.target]
    line = Inner.forward.__code__.co_firstlineno + 1
    assert same.where == sine.where
    assert f"test_export_notes.py:{line}" in same.where


def test_another_torch_may_have_other_names(monkeypatch: pytest.MonkeyPatch, whole: Graph) -> None:
    monkeypatch.setattr("symgraph.tracing.export_notes._RECORDED", "named_otherwise")
    assert trace(Modes(), (torch.zeros(2, 3),)) == whole
