"""The interpreter computes in one dtype throughout, and says what it misses."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symgraph.errors import UsageError
from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.ir import Tensor as Meta
from symgraph.tracing import state_of, trace
from symgraph.tracing.interpreter import Interpreter, evaluate


class LowPrecision(nn.Module):
    """Computes in float32 whatever it is given, as norms and rotary tables do."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(4))
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        angle = torch.arange(4, dtype=torch.float32)[None] / 7 + torch.zeros(1, dtype=torch.float32)
        y = F.linear(x, self.weight).to(torch.float32)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * (angle.cos() + self.scale.float())
        return torch.softmax(y, -1, dtype=torch.float32).to(dtype)


def by_hand(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    angle = torch.arange(4, dtype=torch.float64)[None] / 7
    y = F.linear(x, weight)
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * (angle.cos() + scale)
    return torch.softmax(y, -1)


def test_casts_are_lifted() -> None:
    model, x = LowPrecision(), torch.randn(3, 4)
    (found,) = evaluate(trace(model, (x,)), state_of(model), (x,))
    wanted = by_hand(x.double(), model.weight.double(), model.scale.double())
    assert (found - wanted).abs().max() < 1e-15
    assert (model(x).double() - wanted).abs().max() > 1e-9


class Quotient(nn.Module):
    def forward(self, n: Tensor) -> Tensor:
        return (n / 3).exp() + torch.full((2,), 0.1) + torch.ones(2) / torch.arange(1, 3)


def test_integers_become_floats_of_the_dtype() -> None:
    n = torch.tensor([1, 2])
    (found,) = evaluate(trace(Quotient(), (n,)), {}, (n,))
    wanted = (n.double() / 3).exp() + 0.1 + 1 / torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert (found - wanted).abs().max() < 1e-15


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        turn = torch.polar(torch.ones(2), torch.arange(2.0))
        return torch.view_as_real(torch.view_as_complex(x) * turn)


def test_complex_values_stay_complex() -> None:
    x = torch.randn(3, 2, 2)
    (found,) = evaluate(trace(Turned(), (x,)), {}, (x,))
    turn = torch.polar(torch.ones(2, dtype=torch.float64), torch.arange(2, dtype=torch.float64))
    torch.testing.assert_close(torch.view_as_complex(found), torch.view_as_complex(x.double()) * turn)


def test_other_dtypes() -> None:
    model, x = nn.Linear(4, 2), torch.randn(3, 4)
    graph = trace(model, (x,))
    for dtype in (torch.float32, torch.bfloat16):
        assert evaluate(graph, state_of(model), (x,), dtype)[0].dtype == dtype


def test_derivatives() -> None:
    model, x = LowPrecision(), torch.randn(3, 4)
    run = Interpreter(trace(model, (x,)))
    weight, scale = model.weight.detach().double(), model.scale.double()

    def f(w: Tensor) -> Tensor:
        return run.run({"weight": w, "scale": scale}, (x,))[0]

    found = torch.func.jacrev(f)(weight)
    wanted = torch.func.jacrev(lambda w: by_hand(x.double(), w, scale))(weight)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.func.jacfwd(f)(weight), wanted, rtol=1e-12, atol=1e-12)
    batch = torch.stack([weight, 2 * weight])
    torch.testing.assert_close(torch.func.vmap(f)(batch)[1], f(2 * weight))


def test_kept_values() -> None:
    last = nn.Linear(3, 2)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), last), torch.randn(5, 4)
    graph = trace(model, (x,))
    outputs, kept = Interpreter(graph).run(state_of(model), {"input": x}, keep=("relu", "0.weight"))
    assert set(kept) == {"relu", "0.weight"}
    torch.testing.assert_close(kept["relu"] @ last.weight.T.double() + last.bias.double(), outputs[0])


def test_values_are_freed_after_their_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 4)
    run = Interpreter(trace(nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Tanh()), (x,)))
    alive: list[weakref.ref[Tensor]] = []
    call = run._call

    def watched(step: object, env: object) -> object:
        value = call(step, env)  # type: ignore[arg-type]
        if len(alive) == 2:
            assert alive[0]() is None
        alive.append(weakref.ref(value))
        return value

    monkeypatch.setattr(run, "_call", watched)
    run.run({}, (x,))
    assert len(alive) == 3


def test_a_state_that_lies_in_another_order_is_run() -> None:
    """What an element has moved may be a transposed view, and `kron` takes none."""

    class Kronecker(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(3, 2))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, torch.kron(self.one, self.other))

    model, x = Kronecker(), torch.randn(5, 6)
    state = dict(state_of(model))
    state["one"] = state["one"].T.contiguous().T
    (found,) = evaluate(trace(model, (x,)), state, (x,))
    assert not state["one"].is_contiguous()
    torch.testing.assert_close(found, model(x).double(), rtol=1e-5, atol=1e-5)


def test_missing_state_and_inputs() -> None:
    model, x = nn.Linear(4, 2), torch.randn(3, 4)
    run = Interpreter(trace(model, (x,)))
    with pytest.raises(UsageError, match="parameter `bias` is missing"):
        run.run({"weight": model.weight}, (x,))
    with pytest.raises(UsageError, match="0 inputs given"):
        run.run(state_of(model), ())
    with pytest.raises(UsageError, match="input `input` is missing"):
        run.run(state_of(model), {"x": x})


def test_a_shape_that_does_not_fit_names_the_place() -> None:
    model, x = nn.Sequential(nn.Linear(4, 2)), torch.randn(3, 4)
    state = {"0.weight": torch.zeros(2, 5), "0.bias": torch.zeros(2)}
    with pytest.raises(UsageError, match=r"0 \(aten.linear"):
        evaluate(trace(model, (x,)), state, (x,))


def test_an_operator_that_torch_does_not_have() -> None:
    meta = Meta((2,), "float32")
    nodes = (Node("x", Kind.INPUT, "x", result=meta), Node("y", Kind.CALL, "mine.op.default", (Ref("x"),), (), meta))
    with pytest.raises(UsageError, match=r"no operator `mine\.op\.default`"):
        Interpreter(Graph(nodes, ("y",)))
