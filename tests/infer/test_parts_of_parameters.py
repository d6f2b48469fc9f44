"""One parameter that holds several maps, read part by part: each part has axes of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, error, spread
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import symgraph
from symgraph import infer
from symgraph.prove.audit import audit
from symgraph.prove.verify import random_transform, settled_names
from symgraph.symmetry.families import nested
from symgraph.symmetry.forms import Form
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace

D, HEADS, INSIDE = 6, 2, 3
WIDE = HEADS * INSIDE
X = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(3))
ENDS = {"i": nn.Linear(8, D), "o": nn.Linear(D, 9)}
Maps = Callable[[Any, Tensor], tuple[Tensor, ...]]


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.reshape(*t.shape[:2], HEADS, INSIDE).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def net(maps: Maps, *shape: int, gains: bool = False, **parts: Tensor) -> nn.Module:
    """A block of attention whose weights are made by `maps` of a parameter of this shape, and a gated layer."""

    def forward(self: Any, x: Tensor) -> Any:
        norms = [lambda h, g=g: F.rms_norm(h, (D,), g) for g in ((self.g, self.h) if gains else (None, None))]
        h = self.i(x)
        h = h + self.p(attention(*maps(self, norms[0](h))))
        h = h + self.d(F.gelu(self.u(norms[1](h))))
        return self.o(h)

    learned = {"g": torch.rand(D), "h": torch.rand(D)} if gains else {}
    ends = {"i": nn.Linear(8, D), "o": nn.Linear(D, 9), "u": nn.Linear(D, 7), "d": nn.Linear(7, D)}
    return Net(forward, **ends, **learned, **parts, p=nn.Linear(WIDE, D), w=torch.randn(*shape) / 2)


def side_by_side(s: Any, h: Tensor) -> tuple[Tensor, ...]:
    made = F.linear(h, s.w.flatten(end_dim=1))
    return made.view(*h.shape[:2], 3 * HEADS, INSIDE).chunk(3, dim=-2)


def heads_side_by_side(s: Any, h: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.flatten(-2) for part in side_by_side(s, h))


CASES: dict[str, Callable[[], nn.Module]] = {
    "by number": lambda: net(lambda s, h: tuple(F.linear(h, s.w[n]) for n in range(3)), 3, WIDE, D),
    "unbind": lambda: net(lambda s, h: tuple(F.linear(h, w) for w in s.w.unbind(0)), 3, WIDE, D),
    "from the other side": lambda: net(lambda s, h: tuple(h @ s.w[n] for n in range(3)), 3, D, WIDE),
    "the axis in the middle": lambda: net(lambda s, h: tuple(F.linear(h, s.w[:, n]) for n in range(3)), WIDE, 3, D),
    "heads and their inside": lambda: net(
        lambda s, h: tuple(torch.einsum("btd,hed->bthe", h, s.w[n]).flatten(2) for n in range(3)), 3, HEADS, INSIDE, D
    ),
    "flattened": lambda: net(lambda s, h: F.linear(h, s.w.flatten(0, 1)).chunk(3, -1), 3, WIDE, D),
    "flattened, and heads of all": lambda: net(heads_side_by_side, 3, WIDE, D),
    "one einsum": lambda: net(lambda s, h: torch.einsum("btd,ked->kbte", h, s.w).unbind(0), 3, WIDE, D),
    "behind a gain": lambda: net(lambda s, h: tuple(F.linear(h, s.w[n]) for n in range(3)), 3, WIDE, D, gains=True),
    "keys and values": lambda: net(
        lambda s, h: (F.linear(h, s.q), F.linear(h, s.w[0]), F.linear(h, s.w[1])), 2, WIDE, D, q=torch.rand(WIDE, D)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_missing(name: str) -> None:
    torch.manual_seed(0)
    model = spread(CASES[name]())
    symmetry = infer(trace(model, (X,)))
    assert error(model, (X,), symmetry) < 1e-9
    found = audit(symmetry, {key: tensor.double() for key, tensor in state_of(model).items()}, approximate=False)
    assert found.complete, str(found)
    assert symmetry.forms and SymmetryGraph.from_json(symmetry.to_json()).forms == symmetry.forms


def parts(s: Any, h: Tensor) -> tuple[Tensor, ...]:
    return tuple(F.linear(h, s.w[n]) for n in range(3))


SHARED: dict[str, Maps] = {
    "one part for two": lambda s, h: (F.linear(h, s.w[0]), F.linear(h, s.w[1]), F.linear(h, s.w[1])),
    "all of it as well": lambda s, h: tuple(q * s.w.sum() for q in parts(s, h)),
    "runs that overlap": lambda s, h: tuple(torch.einsum("btd,ked->bte", h, s.w[n : n + 2]) for n in (0, 1, 0)),
    "another axis as well": lambda s, h: tuple(q * s.w[:, 0].sum() for q in parts(s, h)),
    "a part turned around": lambda s, h: (F.linear(h, s.w[0]), F.linear(h, s.w[1]), h @ s.w[2] @ s.w[1]),
    "a function of a part": lambda s, h: tuple(F.linear(h, s.w[n].tanh()) for n in range(3)),
    "parts that are added": lambda s, h: tuple(F.linear(h, s.w[n] + s.w[2]) for n in range(3)),
    "a part that another one multiplies": lambda s, h: tuple(F.linear(h, s.w[n] * s.w[0]) for n in range(3)),
    "a part behind a part": lambda s, h: (
        parts(s, h)[0],
        parts(s, h)[1],
        F.linear(F.gelu(F.linear(h, s.w[2])), s.w[2]),
    ),
    "chosen by the input": lambda s, h: (*parts(s, h)[:2], F.linear(h, s.w[(h[0, 0, 0] > 0).long()])),
    "flattened and not": lambda s, h: (*F.linear(h, s.w.flatten(0, 1)).chunk(3, -1)[:2], F.linear(h, s.w[2])),
    "flattened in two ways": lambda s, h: (
        *F.linear(h, s.w.flatten(0, 1)).chunk(3, -1)[:2],
        F.linear(h, s.w.flatten(1)[0].unflatten(0, (WIDE, D))),
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_what_reads_parts_in_other_ways_keeps_the_function(name: str) -> None:
    torch.manual_seed(1)
    model = spread(net(SHARED[name], 3, WIDE, D))
    assert error(model, (X,)) < 1e-9


def layer_by_layer(s: Any, x: Tensor) -> Tensor:
    """Layers whose weights are stacked, and so are their biases."""
    h = s.i(x)
    for n in range(3):
        h = F.relu(F.linear(h, s.w[n], s.b[n]))
    return s.o(h)  # type: ignore[no-any-return]


def heads_of_their_own(s: Any, x: Tensor) -> Tensor:
    """Attention by one weight and one bias, both with axes for heads, and an output weight with heads as well."""
    h = s.i(x)
    q, k, v = (torch.einsum("btd,hed->bhte", h, s.w[n]) + s.b[n].unsqueeze(1) for n in range(3))
    return s.o(torch.einsum("bhte,hed->btd", F.scaled_dot_product_attention(q, k, v), s.p))  # type: ignore[no-any-return]


WITH_BIASES: dict[str, Callable[[], nn.Module]] = {
    "layers": lambda: Net(layer_by_layer, w=torch.randn(3, D, D), b=torch.randn(3, D), **ENDS),
    "heads": lambda: Net(
        heads_of_their_own,
        w=torch.randn(3, HEADS, INSIDE, D),
        b=torch.randn(3, HEADS, INSIDE),
        p=torch.randn(HEADS, INSIDE, D),
        **ENDS,
    ),
}


@pytest.mark.parametrize("name", WITH_BIASES)
def test_constants_pass_through_parts(name: str) -> None:
    torch.manual_seed(0)
    model = spread(WITH_BIASES[name]())
    symmetry = infer(trace(model, (X,)))
    assert error(model, (X,), symmetry) < 1e-9
    assert {"w[0]", "b[0]"} & {*nested(symmetry.constants, str)}


SHAPE = (2, 3, 4)


@given(st.sampled_from(["together", "apart", "flat"]), st.integers(0, 2), st.data())
def test_what_is_read_and_what_is_stored(kind: str, axis: int, data: st.DataObject) -> None:
    whole, size = torch.arange(24.0).reshape(SHAPE), SHAPE[axis]
    at = data.draw(st.integers(1, size - 1))
    if kind == "flat":
        form = Form(("w",), ("v",), axis, SHAPE[axis : data.draw(st.integers(axis + 1, 3))])
    elif kind == "apart":
        form = Form(("w",), ("v", "u"), axis, (at, size - at))
    else:
        form = Form(("w", "v"), ("u",), axis, (at, size - at))
    stored = torch.split(whole, list(form.sizes), axis) if kind == "together" else (whole,)
    shapes = [tuple(tensor.shape) for tensor in stored]
    read = form.of(stored)
    assert form.fits(shapes) and [tuple(tensor.shape) for tensor in read] == form.shapes(shapes[0])
    assert sum(tensor.numel() for tensor in read) == 24
    for back, tensor in zip(form.back(read), stored, strict=True):
        assert torch.equal(back, tensor)
    kept = {dim: form.axis_read(dim, 0) for dim in range(3)}
    assert all(place is None or shapes[0][dim] == read[0].shape[place] for dim, place in kept.items())


@pytest.mark.parametrize("name", ["by number", "behind a gain", "flattened", "rows", "a gain and a bias in one table"])
def test_a_planted_element_is_found(name: str) -> None:
    torch.manual_seed(0)
    model = spread((CASES | ROWS)[name]()).double()
    x = X.double()
    symmetry, state = infer(trace(model, (x,))), {key: tensor.detach() for key, tensor in state_of(model).items()}
    planted = random_transform(symmetry, state, torch.Generator().manual_seed(2), settled_names(symmetry))
    moved = copy.deepcopy(model)
    moved.load_state_dict(planted.apply(state))
    aligned = symgraph.align(model, moved, x)
    far = sum(float((tensor.detach() - state[key]).square().sum()) for key, tensor in moved.state_dict().items())
    near = sum(float((aligned.state[key] - tensor).square().sum()) for key, tensor in state.items())
    assert near < 1e-6 * far


# -- rows --------------------------------------------------------------------------------------------------------------

Parts = Callable[[Any, int], tuple[Tensor, Tensor, Tensor]]


def two_layers(of: Parts, **parts: Tensor) -> nn.Module:
    """Two layers, each with a gain and a bias of its norm and a scale of its branch that are parts of parameters."""

    def forward(self: Any, x: Tensor) -> Any:
        h = self.i(x)
        for number, (up, down) in enumerate(((self.u, self.d), (self.v, self.e))):
            gain, bias, scale = of(self, number)
            h = h + down(F.gelu(up(F.layer_norm(h, (D,), gain, bias)))) * scale
        return self.o(F.layer_norm(h, (D,)))

    ends = {"i": nn.Linear(8, D), "o": nn.Linear(D, 9)}
    maps = {"u": nn.Linear(D, 7), "d": nn.Linear(7, D), "v": nn.Linear(D, 5), "e": nn.Linear(5, D)}
    return Net(forward, **ends, **maps, **parts)


def tables(*shape: int) -> dict[str, Tensor]:
    return {name: torch.rand(*shape) for name in "abc"}


def rows(s: Any, n: int) -> tuple[Tensor, Tensor, Tensor]:
    return s.a[n], s.b[n], s.c[n]


ROWS: dict[str, Callable[[], nn.Module]] = {
    "rows": lambda: two_layers(rows, **tables(2, D)),
    "rows of a flattened table": lambda: two_layers(
        lambda s, n: tuple(t.flatten()[n * D : (n + 1) * D] for t in (s.a, s.b, s.c)), **tables(2, D)
    ),
    "halves of a vector": lambda: two_layers(
        lambda s, n: tuple(t[n * D : (n + 1) * D] for t in (s.a, s.b, s.c)), **tables(2 * D)
    ),
    "a gain and a bias in one table": lambda: two_layers(
        lambda s, n: (s.a[2 * n] + 1, s.a[2 * n + 1], s.c[n]), a=torch.rand(4, D), c=torch.rand(2, D)
    ),
    "rows with numbers": lambda: two_layers(lambda s, n: (s.a[n] + 1, s.b[n] + n, s.c[n] - 2), **tables(2, D)),
}


@pytest.mark.parametrize("name", ROWS)
def test_nothing_is_missing_of_rows(name: str) -> None:
    torch.manual_seed(0)
    model = spread(ROWS[name]())
    symmetry = infer(trace(model, (X,)))
    assert error(model, (X,), symmetry) < 1e-9
    found = audit(symmetry, {key: tensor.double() for key, tensor in state_of(model).items()}, approximate=False)
    assert found.complete, str(found)
    assert SymmetryGraph.from_json(symmetry.to_json()).constants == symmetry.constants


SHARED_ROWS: dict[str, Parts] = {
    "one row for both": lambda s, n: (s.a[0], s.b[n], s.c[n]),
    "a gain and a bias in one table, twice": lambda s, n: (s.a[0], s.a[1], s.c[n]),
    "a gain, a bias and a scale in one table": lambda s, n: (s.a[0] + n, s.a[1], s.b[n] * s.a[1]),
    "a gain that is a bias": lambda s, n: (s.a[n], s.a[1 - n], s.c[n]),
    "rows that are multiplied": lambda s, n: (s.a[n] * s.a[0], s.b[n], s.c[n]),
    "rows that are added": lambda s, n: (s.a[n], s.b[n] + s.b[1], s.c[n]),
    "a row and all of it": lambda s, n: (s.a[n], s.b[n] * s.b.sum(), s.c[n]),
    "runs that overlap": lambda s, n: (s.a.flatten()[n : n + D], s.b.flatten()[2 * n : 2 * n + D], s.c[n]),
    "a row in reversed order": lambda s, n: (s.a[n].flip(0) if n else s.a[n], s.b[n], s.c[n]),
}


@pytest.mark.parametrize("name", SHARED_ROWS)
def test_rows_that_are_read_in_other_ways_keep_the_function(name: str) -> None:
    torch.manual_seed(1)
    model = spread(two_layers(SHARED_ROWS[name], **tables(2, D)))
    assert error(model, (X,)) < 1e-9


def test_a_plane_keeps_a_bias_of_which_a_part_alone_has_moved_on() -> None:
    """One map reads what has all of a bias, another one what has its first half."""

    def forward(s: Any, x: Tensor) -> Any:
        h = s.i(x)
        half = s.v(F.layer_norm(h, (D,), None, s.b[:D]))
        return half + s.o(F.gelu(F.layer_norm(torch.cat([h, h.tanh()], -1), (2 * D,), None, s.b)))

    maps = {"i": nn.Linear(8, D), "v": nn.Linear(D, 9), "o": nn.Linear(2 * D, 9)}
    assert error(spread(Net(forward, **maps, b=torch.rand(2 * D))), (X,)) < 1e-9
