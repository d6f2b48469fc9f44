"""What is read of parameters that are stored in another form has the symmetries of parameters of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph import audit, infer
from symgraph.errors import UsageError
from symgraph.inference.read_forms import as_read
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.notation import law
from symgraph.tracing import state_of, trace
from symgraph.tracing.interpreter import evaluate

D = 6
X = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(1))
Forward = Callable[[Any, Tensor], Any]
Parts = Callable[[], dict[str, Any]]


def relu(first: Callable[[Any], Tensor], second: Callable[[Any], Tensor]) -> Forward:
    return lambda s, x: s.o(F.relu(s.i(x) @ first(s)) @ second(s))


def rows(gain: Callable[[Any], Tensor], bias: Callable[[Any], Tensor], scale: Callable[[Any], Tensor]) -> Forward:
    """A gain and a bias of a norm, and a scale of the branch behind it."""

    def forward(s: Any, x: Tensor) -> Tensor:
        h = s.i(x)
        h = h + s.d(F.gelu(s.u(F.layer_norm(h, (D,), gain(s), bias(s))))) * scale(s)
        return s.o(F.layer_norm(h, (D,)))  # type: ignore[no-any-return]

    return forward


def stack(count: int = 2) -> Parts:
    return lambda: {"w": torch.randn(count, D, D)}


def table(*shape: int) -> Parts:
    maps = {"u": (D, 7), "d": (7, D)}
    return lambda: {"t": torch.rand(*shape) + 0.5, **{name: nn.Linear(*sizes) for name, sizes in maps.items()}}


def gains() -> dict[str, Any]:
    pieces = {"a": torch.rand(2) + 0.5, "b": torch.rand(4) + 0.5, "c": torch.randn(D), "e": torch.rand(D) + 0.5}
    return pieces | {"u": nn.Linear(D, 7), "d": nn.Linear(7, D)}


def buffers() -> dict[str, Any]:
    return {"w": (torch.randn(2, D, D), True)}


CASES: dict[str, tuple[Forward, Parts]] = {
    "layers": (relu(lambda s: s.w[0], lambda s: s.w[1]), stack()),
    "counted from the end": (relu(lambda s: s.w[-1], lambda s: s.w[-2]), stack()),
    "unbound": (relu(lambda s: s.w.unbind(0)[0], lambda s: s.w.unbind(0)[1]), stack()),
    "in chunks": (relu(lambda s: s.w.chunk(2, 1)[0], lambda s: s.w.chunk(2, 1)[1]), lambda: {"w": torch.randn(D, 12)}),
    "halves of rows": (relu(lambda s: s.w[:D].T, lambda s: s.w[D:].T), lambda: {"w": torch.randn(12, D)}),
    "an axis in the middle": (relu(lambda s: s.w[:, 0], lambda s: s.w[:, 1]), lambda: {"w": torch.randn(D, 2, D)}),
    "three rows of one table": (rows(lambda s: s.t[0], lambda s: s.t[1], lambda s: s.t[2]), table(3, D)),
    "a row that nothing reads": (rows(lambda s: s.t[0], lambda s: s.t[1], lambda s: s.t[3]), table(5, D)),
    "a layer that nothing reads": (relu(lambda s: s.w[0], lambda s: s.w[2]), stack(3)),
    "one of those unbound": (relu(lambda s: s.w.unbind(0)[0], lambda s: s.w.unbind(0)[1]), stack(3)),
    "columns": (rows(lambda s: s.t[:, 0], lambda s: s.t[:, 1], lambda s: s.t[:, 2]), table(D, 3)),
    "a number beside a row": (rows(lambda s: s.t[0] + 1, lambda s: s.t[1], lambda s: s.t[2]), table(3, D)),
    "a logarithm beside rows": (rows(lambda s: s.t[0].exp(), lambda s: s.t[1], lambda s: s.t[2]), table(3, D)),
    "a stored buffer": (relu(lambda s: s.w[0], lambda s: s.w[1]), buffers),
    "gains in pieces": (rows(lambda s: torch.cat([s.a, s.b]), lambda s: s.c, lambda s: s.e), gains),
}


def made(forward: Forward, parts: Parts, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return spread(Net(forward, i=nn.Linear(8, D), o=nn.Linear(D, 9), **parts()), seed)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_missing(name: str) -> None:
    model = made(*CASES[name])
    found = infer(trace(model, (X,)))
    assert found.forms and SymmetryGraph.from_json(found.to_json()).forms == found.forms
    assert max(error(model, (X,), found, seed) for seed in range(3)) < 1e-9
    counted = audit(found, state_of(model), approximate=False)
    assert counted.complete, str(counted)


@pytest.mark.parametrize("name", CASES)
def test_the_graph_of_what_is_read_computes_the_same(name: str) -> None:
    model = made(*CASES[name])
    found, state = infer(trace(model, (X,))), state_of(model)
    read = as_read(found)
    assert not read.forms and read.graph.parameters.keys() <= read.terms.keys()
    (before,), (after,) = evaluate(found.graph, state, (X,)), evaluate(read.graph, found.reading.of(state), (X,))
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    back = found.reading.back(found.reading.of(state))
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


SHARED: dict[str, tuple[Forward, Parts]] = {
    "slices that overlap": (relu(lambda s: s.w[0:2].sum(0), lambda s: s.w[1:3].sum(0)), stack(3)),
    "rows that overlap": (relu(lambda s: s.w[:D].T, lambda s: s.w[3:].T), lambda: {"w": torch.randn(9, D)}),
    "one part for both": (relu(lambda s: s.w[0], lambda s: s.w[0] * s.w[1].sum()), stack()),
    "one part turned around": (relu(lambda s: s.w[0], lambda s: s.w[0].T + s.w[1]), stack()),
    "one part backwards": (relu(lambda s: s.w[0].flip(0), lambda s: s.w[1]), stack()),
    "all of it as well": (lambda s, x: relu(lambda s: s.w[0], lambda s: s.w[1])(s, x) * s.w.sum(), stack()),
    "a part that is an output": (lambda s, x: (relu(lambda s: s.w[0], lambda s: s.w[1])(s, x), s.w[0]), stack()),
    "a slice that nothing reads": (
        relu(lambda s: s.w[:D].T, lambda s: s.w[D : 2 * D].T),
        lambda: {"w": torch.randn(15, D)},
    ),
    "in steps": (relu(lambda s: s.w[::2].T, lambda s: s.w[1::2].T), lambda: {"w": torch.randn(12, D)}),
    "in two ways": (relu(lambda s: s.w[0], lambda s: s.w[:, 1]), stack(D)),
    "a gain that is its bias": (rows(lambda s: s.t[0], lambda s: s.t[0], lambda s: s.t[1]), table(2, D)),
    "chosen by the input": (relu(lambda s: s.w[0], lambda s: s.w[(s.i.bias[0] > 0).long()]), stack()),
}


@pytest.mark.parametrize("name", SHARED)
def test_what_is_shared_keeps_the_function(name: str) -> None:
    forward, parts = SHARED[name]
    first = (lambda s, x: forward(s, x)[0]) if name == "a part that is an output" else forward
    model = made(forward, parts)
    found = infer(trace(model, (X,)))
    assert max(error(made(first, parts), (X,), found, seed) for seed in range(3)) < 1e-9
    counted = audit(found, state_of(model), approximate=False)
    assert not counted.unsound, str(counted)


def test_slices_that_are_not_all_there_is_stay_one_tensor() -> None:
    """Longer inputs may have longer ones."""
    assert not infer(trace(made(*SHARED["a slice that nothing reads"]), (X,))).forms


def test_rows_that_a_longer_input_would_read_move_as_those_that_are_read() -> None:
    def steps(s: Any, x: Tensor) -> Tensor:
        h = s.i(x[:, 0])
        for position in range(x.shape[1]):
            h = F.relu(s.d(F.gelu(s.u(h))) * s.t[position])
        return s.o(h)  # type: ignore[no-any-return]

    model = made(steps, table(9, D))
    found, longer = infer(trace(model, (X,))), torch.randn(2, 9, 8)
    assert not found.forms and error(model, (longer,), found) < 1e-9


class Further(nn.Module):
    """A stack of maps of which one is read where there is a second input alone."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o, self.w = nn.Linear(8, D), nn.Linear(D, 9), nn.Parameter(torch.randn(3, D, D))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = F.relu(self.i(x) @ self.w[0])
        if y is not None:
            h = h + F.relu(self.i(y) @ self.w[2])
        return self.o(h @ self.w[1])  # type: ignore[no-any-return]


def test_a_row_that_another_input_would_read_moves_as_those_that_are_read() -> None:
    found = infer(trace(Further().eval(), (X,)))
    assert not found.forms and error(Further().eval(), (X, torch.randn(2, 7, 8)), found) < 1e-9


def test_what_is_read_is_said() -> None:
    found = infer(trace(made(*CASES["layers"]), (X,)))
    said = law(found, "w")
    assert said.formula.startswith("w[0]: W -> ") and "; w[1]: W -> " in said.formula
    assert "the parts of w along axis 0 are read by themselves" in said.remarks
    (hidden,) = (space for space in found.active if space.group == "positive monomial")
    assert "w" in found.parameters_of[hidden.id] and {"w[0]", "w[1]"} <= {*found.read_on[hidden.id]}
    assert "w[0]" in found.explain(hidden.name)


def test_parts_of_which_some_are_missing_are_refused() -> None:
    found = infer(trace(made(*CASES["gains in pieces"]), (X,)))
    with pytest.raises(UsageError, match="`b` is missing beside `a`"):
        found.shifted({"a": torch.rand(2)})
