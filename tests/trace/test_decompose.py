"""Operators that no rule covers, taken apart by torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from symgraph.ir import Graph, Kind, Node, Ref, Tensor
from symgraph.tracing import state_of, trace
from symgraph.tracing.decompose import decompose, expand
from symgraph.tracing.interpreter import evaluate

X = Tensor((4, 6), "float32")


def call(target: str, *args: object) -> Node:
    return Node("y", Kind.CALL, target, (Ref("x"), *args), module="block.act", source="model.py:7")


def test_the_parts_stand_for_the_original() -> None:
    parts = decompose(call("aten.glu.default"), {"x": X})
    assert parts is not None
    assert [n.target for n in parts] == [
        "aten.slice.Tensor",
        "aten.slice.Tensor",
        "aten.sigmoid.default",
        "aten.mul.Tensor",
    ]
    assert [n.name for n in parts] == ["y.slice", "y.slice_1", "y.sigmoid", "y"]
    assert {(n.module, n.source) for n in parts} == {("block.act", "model.py:7")}
    assert parts[-1].result == Tensor((4, 3), "float32")


@pytest.mark.parametrize("target", ["aten.sigmoid.default", "aten.no_such_operator.default", "getitem", "pattern:norm"])
def test_what_torch_does_not_take_apart(target: str) -> None:
    assert decompose(call(target), {"x": X}) is None


def test_operands_whose_shapes_do_not_fit() -> None:
    assert decompose(call("aten.glu.default"), {"x": Tensor((4, 5), "float32")}) is None


class Body(nn.Module):
    def __init__(self, f: Callable[..., object]) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 6)
        self.cell = nn.GRUCell(6, 6)
        self.f = f

    def forward(self, x: torch.Tensor) -> object:
        y = self.lin(x)
        return self.f(y, self.cell)


def several(y: torch.Tensor, cell: nn.Module) -> object:
    s, m = torch.std_mean(y, 1)
    return F.glu(y), s * m, torch.einsum("ij,kj->ik", y, y), torch.addcmul(y, y, y), F.mish(y)


def in_place(y: torch.Tensor, cell: nn.Module) -> object:
    return cell(y, y)


UNCOVERED = ("glu", "std_mean", "einsum", "addcmul", "mish", "softplus", "gru_cell")


def covered(node: Node, graph: Graph) -> bool:
    return node.target == "getitem" or (
        node.target.split(".")[1] not in UNCOVERED and not node.target.startswith("prims")
    )


def keeps(graph: Graph, expanded: Graph, model: nn.Module, x: torch.Tensor) -> None:
    before, after = (evaluate(g, state_of(model), (x,)) for g in (graph, expanded))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("f", [several, in_place])
def test_expansion_leaves_covered_calls_and_the_same_function(f: Callable[..., object]) -> None:
    model, x = Body(f), torch.randn(4, 6)
    graph = trace(model, (x,))
    assert any(not covered(n, graph) for n in graph.calls)
    expanded = expand(graph, lambda n, g: covered(n, g) and "std_mean.dim" not in n.target)
    left = {n.target for n in expanded.calls if not covered(n, graph)}
    assert left <= {"aten.std_mean.dim"}
    assert expanded.outputs == graph.outputs
    assert len({n.name for n in expanded.nodes}) == len(expanded.nodes)
    keeps(graph, expanded, model, x)


def test_expansion_goes_through_several_results() -> None:
    def bounds(y: torch.Tensor, cell: nn.Module) -> object:
        low, high = torch.aminmax(y, dim=1)
        return high - low, low

    model, x = Body(bounds), torch.randn(4, 6)
    graph = trace(model, (x,))
    expanded = expand(graph, lambda n, g: n.target != "aten.aminmax.default")
    assert "getitem" not in {n.target for n in expanded.calls}
    assert expanded.outputs == graph.outputs
    keeps(graph, expanded, model, x)


def test_expansion_ends_in_one_of_several_results() -> None:
    """A weight norm is one of the two results of a kernel that has parts of its own."""
    model, x = Body(lambda y, cell: torch._weight_norm(y, y[:, :1], 0)), torch.randn(4, 6)
    graph = trace(model, (x,))
    assert "aten._weight_norm.default" in {n.target for n in graph.calls}
    expanded = expand(graph, lambda n, g: "weight_norm" not in n.target)
    assert not any("weight_norm" in n.target or n.target == "getitem" for n in expanded.calls)
    keeps(graph, expanded, model, x)


def test_a_graph_that_is_covered_stays_the_same_object() -> None:
    graph = trace(nn.Linear(2, 2), (torch.randn(1, 2),))
    assert expand(graph, lambda n, g: True) is graph


def test_nothing_is_replaced_by_parts_that_are_not_covered() -> None:
    model, x = Body(several), torch.randn(4, 6)
    graph = trace(model, (x,))
    assert expand(graph, lambda n, g: False) == graph
