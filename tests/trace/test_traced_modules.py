"""Plain modules: names, structure and values of what is traced."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symgraph.ir import Graph, Kind
from symgraph.tracing import state_of, trace
from symgraph.tracing.interpreter import evaluate


def agree(model: nn.Module, *inputs: Tensor) -> Graph:
    """The graph of a model, after checking that it computes what the model computes."""
    graph = trace(model, inputs)
    found = evaluate(graph, state_of(model), inputs)
    model.eval()
    with torch.no_grad():
        wanted = model(*inputs)
    for a, b in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        torch.testing.assert_close(a, b.double() if b.is_floating_point() else b, rtol=1e-6, atol=1e-4)
    return graph


def targets(graph: Graph) -> list[str]:
    return [n.target for n in graph.calls]


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 4)
        self.drop = nn.Dropout(0.5)
        self.down = nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.drop(F.relu(self.up(x))).contiguous().float())
        return y


def test_golden_text() -> None:
    assert str(agree(MLP(), torch.randn(5, 3))) == (
        "graph MLP\n"
        "  %up.weight: float32[4, 3] = parameter up.weight\n"
        "  %up.bias: float32[4] = parameter up.bias\n"
        "  %down.weight: float32[2, 4] = parameter down.weight\n"
        "  %x: float32[5, 3] = input x\n"
        "  %linear: float32[5, 4] = aten.linear.default(%x, %up.weight, %up.bias)\n"
        "  %relu: float32[5, 4] = aten.relu.default(%linear)\n"
        "  %linear_1: float32[5, 2] = aten.linear.default(%relu, %down.weight)\n"
        "  return %linear_1"
    )


def test_places_are_the_users() -> None:
    first, relu, _ = trace(MLP(), (torch.randn(5, 3),)).calls
    assert (first.module, relu.module) == ("up", "")
    assert first.source.startswith("test_traced_modules.py:")


def test_the_training_flags_come_back() -> None:
    model = MLP()
    model.drop.eval()
    trace(model, (torch.randn(5, 3),))
    assert (model.training, model.up.training, model.drop.training) == (True, True, False)


def test_gradients_stay_as_they_were() -> None:
    model = MLP()
    model.up.weight.requires_grad_(False)
    trace(model, (torch.randn(5, 3),))
    assert [p.requires_grad for p in model.parameters()] == [False, True, True]
    assert all(p.grad is None for p in model.parameters())


class Split(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).split(3, dim=-1)
        y: Tensor = a * b.sigmoid()
        return y


def test_the_pieces_of_a_split_are_getitems() -> None:
    graph = agree(Split(), torch.randn(2, 4))
    assert targets(graph).count("getitem") == 2
    (split,) = (n for n in graph.calls if "split" in n.target)
    assert isinstance(split.result, tuple)
    assert [t.shape for t in split.result] == [(2, 3), (2, 3)]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Embedding(7, 4)
        self.write = nn.Linear(4, 7, bias=False)
        self.write.weight = self.read.weight
        self.unused = nn.Parameter(torch.randn(3))

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.write(self.read(tokens))
        return logits


def test_a_shared_parameter_has_one_node_and_a_dead_one_stays() -> None:
    model = Tied()
    graph = agree(model, torch.tensor([[1, 2, 3]]))
    assert graph.tied == {"write.weight": "read.weight"}
    assert set(graph.parameters) == {"read.weight", "unused"}
    assert graph.users["unused"] == ()
    assert len(graph.users["read.weight"]) == 2
    assert set(graph.state) | set(graph.tied) == set(model.state_dict())


class Constants(nn.Module):
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(4), persistent=False)
        self.attribute = torch.randn(4)
        self.big = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.tensor(0.5)
        return x * self.table + self.attribute + torch.tensor([float(i) for i in range(40)]).sum()


def test_constants_are_calls_when_small_and_buffers_otherwise() -> None:
    model = Constants()
    graph = agree(model, torch.randn(2, 4))
    buffers = [n.target for n in graph.nodes if n.kind is Kind.BUFFER]
    assert buffers[:2] == ["table", "attribute"]
    assert len(buffers) == 3
    assert graph.transient == set(buffers)
    assert state_of(model)[buffers[2]].shape == (40,)
    assert "aten.stack.default" in targets(graph)


class Regions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 3)

    def forward(self, x: Tensor, times: int = 1) -> Tensor:
        with torch.no_grad():
            x = self.lin(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            x = self.lin(x)
        torch._check(x.dim() == 2)  # type: ignore[no-untyped-call]
        for _ in range(times):
            x = x + 1
        return x


def test_regions_are_inlined_and_plain_arguments_are_fixed() -> None:
    x = torch.randn(2, 3)
    assert targets(trace(Regions(), (x, 2))) == ["aten.linear.default"] * 2 + ["aten.add.Tensor"] * 2
    assert [n.name for n in trace(Regions(), (x, 2)).inputs] == ["x"]
    agree(Regions(), x)


class Nested(nn.Module):
    def forward(self, x: Tensor) -> dict[str, object]:
        return {"b": x + 1, "a": (x, None, x * 2)}


def test_outputs_are_flat() -> None:
    graph = trace(Nested(), (torch.ones(2),))
    assert [o.tolist() for o in evaluate(graph, {}, (torch.ones(2),))] == [[2, 2], [1, 1], [2, 2]]


class Casts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        half = x.to(torch.bfloat16).type_as(x)
        return half + torch.arange(3).to(x.dtype) + F.softmax(x, -1, dtype=torch.float32)


def test_casts_between_floats_vanish_and_others_stay() -> None:
    graph = trace(Casts(), (torch.randn(2, 3),))
    assert [n for n in targets(graph) if "to" in n.split(".")[1]] == ["aten.to.dtype"]
    softmax = next(n for n in graph.calls if "softmax" in n.target)
    assert repr(softmax.args[-1]) == "float32"


@pytest.mark.parametrize("model", [nn.BatchNorm2d(3), nn.GroupNorm(3, 3), nn.LSTM(4, 5), nn.MultiheadAttention(4, 2)])
def test_modules_of_torch(model: nn.Module) -> None:
    x = torch.randn(2, 3, 4, 4) if "Norm" in type(model).__name__ else torch.randn(6, 2, 4)
    inputs = (x, x, x) if isinstance(model, nn.MultiheadAttention) else (x,)
    graph = trace(model, inputs)
    assert set(graph.state) == set(model.state_dict())
    with torch.no_grad():
        wanted = model.eval()(*inputs)
    first = wanted if isinstance(wanted, Tensor) else wanted[0]
    torch.testing.assert_close(evaluate(graph, state_of(model), inputs)[0], first.double(), rtol=1e-6, atol=1e-5)


class Shadow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.x


def test_a_parameter_called_like_an_input() -> None:
    graph = agree(Shadow(), torch.randn(2, 3))
    assert [(n.name, n.target) for n in graph.nodes[:2]] == [("x", "x"), ("x_input", "x")]


class Mapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.vmap(torch.tanh)(F.linear(x, self.weight))
        return found


def test_calls_under_vmap_become_calls_on_the_batch() -> None:
    graph = agree(Mapped(), torch.randn(5, 3))
    assert "aten.tanh.default" in targets(graph)
    assert graph.by_name[graph.outputs[0]].shape == (5, 4)


class Cached(nn.Module):
    """Keys behind a cache that holds nothing yet, as generating models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        key = torch.cat([torch.zeros(2, 0, 3), self.key(x)], dim=-2)
        return torch.cat([key, torch.tensor([]), x], dim=1)


def test_empty_parts_of_concatenations_vanish() -> None:
    model, x = Cached(), torch.randn(2, 4, 3)
    graph = trace(model, (x,))
    assert [n.target for n in graph.calls] == ["aten.linear.default", "aten.cat.default"]
    assert list(graph.state) == ["key.weight", "key.bias"]
    (found,) = evaluate(graph, state_of(model), (x,))
    assert torch.allclose(found, model(x).double(), atol=1e-6)


class Remembering(nn.Module):
    """What is made in the first call and kept for the next: a buffer, an attribute, entries of containers."""

    distances: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.rand(3))
        self.register_buffer("distances", None, persistent=False)
        self.last: Tensor | None = None
        self.biases: dict[str, dict[int, Tensor]] = {"by length": {}}
        self.calls: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(x)
        if len(x) not in self.biases["by length"]:
            self.biases["by length"][len(x)] = self.slopes * 2
        if self.distances is None:
            self.register_buffer("distances", torch.arange(len(x)).float()[:, None], persistent=False)
        self.last = x * 2
        assert self.distances is not None
        y: Tensor = x + self.slopes * self.distances + self.biases["by length"][len(x)]
        return y


def test_what_a_module_keeps_of_a_call_is_not_that_of_the_trace() -> None:
    model = Remembering()
    graph = trace(model, (torch.ones(4, 3),))
    assert model.distances is None and model.last is None
    assert model.biases == {"by length": {}} and not model.calls
    x = torch.rand(4, 3)
    (found,) = evaluate(graph, state_of(model), (x,))
    torch.testing.assert_close(found.float(), model(x).detach())


class Transposed(nn.Module):
    """Linear maps spelled with a transposed matrix, and products that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x @ self.a.T
        return torch.addmm(self.b, x[0], self.a.t()) + torch.mm(x[0], self.a.transpose(0, 1)) + y @ (self.a @ self.a.mT)


def test_products_with_a_transposed_matrix_are_linear_maps() -> None:
    model, x = Transposed(), torch.randn(2, 5, 3)
    graph = trace(model, (x,))
    assert [n.target for n in graph.calls].count("aten.linear.default") == 4
    (found,) = evaluate(graph, state_of(model), (x,))
    assert torch.allclose(found, model(x).double(), atol=1e-5)
