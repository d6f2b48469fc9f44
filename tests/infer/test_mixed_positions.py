"""A map over heads, in front of the softmax or behind it, trades a factor for each head with its queries or values."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn

import symgraph
from symgraph import audit, infer
from symgraph.orbit.canonical import canonicalise
from symgraph.prove.verify import random_transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace

TOKENS, WIDTH, HEADS, INSIDE = 5, 6, 3, 2
Forward = Callable[[Any, Tensor], Tensor]
Mix = Callable[[Any, Tensor], Tensor]


def apart(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, INSIDE)).transpose(1, 2)  # type: ignore[no-untyped-call, no-any-return]


def attention(before: Mix, behind: Mix, mask: bool = False) -> Forward:
    def forward(s: Any, x: Tensor) -> Tensor:
        q, k, v = map(apart, s.qkv(x).chunk(3, -1))
        scores = q @ k.mT * INSIDE**-0.5
        scores = scores + torch.full((TOKENS, TOKENS), -9.0).triu(1) if mask else scores
        weights = behind(s, before(s, scores).softmax(-1))
        return s.o((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    return forward


def same(s: Any, x: Tensor) -> Tensor:
    return x


def by(name: str) -> Mix:
    return lambda s, x: getattr(s, name)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convolved(s: Any, x: Tensor) -> Tensor:
    return s.conv(x)  # type: ignore[no-any-return]


def summed(s: Any, x: Tensor) -> Tensor:
    return torch.einsum("bhij,hg->bgij", x, s.table)


def renormed(s: Any, x: Tensor) -> Tensor:
    return by("norm")(s, summed(s, x))


# How heads are mixed, and how many maps trade factors.
MIXED: dict[str, tuple[Forward, int]] = {
    "scores": (attention(by("a"), same), 1),
    "weights": (attention(same, by("b")), 1),
    "both": (attention(by("a"), by("b")), 2),
    "by convolutions": (attention(convolved, by("b")), 2),
    "by a sum": (attention(same, summed), 1),
    "and normalised": (attention(same, renormed), 1),
}


def net(forward: Forward) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    maps = {"qkv": nn.Linear(WIDTH, 3 * HEADS * INSIDE), "o": nn.Linear(HEADS * INSIDE, WIDTH)}
    mixes = {"a": nn.Linear(HEADS, HEADS), "b": nn.Linear(HEADS, HEADS), "norm": nn.LayerNorm(HEADS)}
    mixes |= {"channels": nn.BatchNorm2d(HEADS)}
    further = {"conv": nn.Conv2d(HEADS, HEADS, 1), "table": torch.randn(HEADS, HEADS)}
    return spread(Net(forward, **maps, **mixes, **further)), (torch.randn(2, TOKENS, WIDTH),)


@pytest.mark.parametrize("name", MIXED)
def test_each_head_has_a_factor(name: str) -> None:
    forward, count = MIXED[name]
    model, inputs = net(forward)
    found = infer(trace(model, inputs))
    assert [radial.parts for radial in found.radial] == [HEADS] * count
    assert all("qkv.weight" in radial.tensors for radial in found.radial)
    assert SymmetryGraph.from_json(found.to_json()).radial == found.radial
    assert error(model, inputs, found) < 1e-9
    counted = audit(model, inputs, symmetry=found, approximate=False)
    assert not counted.unsound and found.dimension().number == counted.inferred
    assert not any(missing.kind == "scale" for missing in counted.missing), str(counted)


def test_the_canonical_form_is_that_of_all_factors() -> None:
    model, inputs = net(MIXED["both"][0])
    found, state = infer(trace(model, inputs)), {n: t.double() for n, t in state_of(model).items()}
    moved = random_transform(found, state, torch.Generator().manual_seed(1)).apply(state)
    one, other = (canonicalise(found, each).state for each in (state, moved))
    for form in (one, other):
        torch.testing.assert_close(form["a.weight"].square().mean(0), torch.ones(HEADS, dtype=torch.float64))
        torch.testing.assert_close(form["b.weight"].square().mean(1), torch.ones(HEADS, dtype=torch.float64))
    again = canonicalise(found, one).state
    assert max(float((again[n] - t).abs().max()) for n, t in one.items()) < 1e-6
    twin = copy.deepcopy(model)
    twin.load_state_dict(moved)
    aligned = symgraph.align(model, twin, *inputs)
    for tensor in state:
        torch.testing.assert_close(aligned.state[tensor].double(), state[tensor], rtol=0, atol=5e-3)


def seen(s: Any, x: Tensor) -> Tensor:
    """Queries are read elsewhere as well."""
    return attention(by("a"), same)(s, x) + torch.sin(s.qkv(x)[..., :WIDTH])


def twice(s: Any, x: Tensor) -> Tensor:
    """One map mixes what two layers compare."""
    return attention(by("a"), same)(s, attention(by("a"), same)(s, x))


def of_sums(s: Any, x: Tensor) -> Tensor:
    """The map reads each head with all heads before it."""
    return by("a")(s, x.cumsum(1))


def of_the_next(s: Any, x: Tensor) -> Tensor:
    """The map reads each head where another one was."""
    return by("a")(s, x.roll(1, 1))


def beside_itself(s: Any, x: Tensor) -> Tensor:
    """What is mixed is read besides."""
    return x + by("a")(s, x)


def values_seen(s: Any, x: Tensor) -> Tensor:
    """Values are read elsewhere as well, behind a number that multiplies both."""
    q, k, v = map(apart, s.qkv(x).chunk(3, -1))
    v = 2.0 * v
    mixed = by("b")(s, (q @ k.mT).softmax(-1)) @ v + v.sin()
    return s.o(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def rows_put(s: Any, x: Tensor) -> Tensor:
    """Rows of one value among those of another: linear in both together, in none alone."""
    made, put = (apart(part)[..., 0] for part in s.qkv(x).chunk(3, -1)[:2])
    return s.a(made.index_copy(2, torch.tensor([1, 3]), put[..., :2]).mT)  # type: ignore[no-any-return]


def in_groups(s: Any, x: Tensor) -> Tensor:
    """As many positions as channels, and a gain of the channels."""
    q, k, v = (apart(part)[:, :, :HEADS] for part in s.qkv(x).chunk(3, -1))
    return s.o((s.channels((q @ k.mT).softmax(-1)) @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


UNFIT = [
    attention(by("a"), same, mask=True),
    twice,
    attention(of_sums, same),
    attention(of_the_next, same),
    attention(beside_itself, same),
    attention(same, beside_itself),
    values_seen,
    rows_put,
]


@pytest.mark.parametrize("forward", UNFIT)
def test_there_is_none_where_something_else_sees_it(forward: Forward) -> None:
    model, inputs = net(forward)
    found = infer(trace(model, inputs))
    assert not found.radial
    assert error(model, inputs, found) < 1e-9


def test_where_queries_are_seen_keys_take_the_factor() -> None:
    model, inputs = net(seen)
    (radial,) = infer(trace(model, inputs)).radial
    assert radial.pieces[-1].start == HEADS * INSIDE and error(model, inputs) < 1e-9


def test_a_gain_is_of_the_axis_that_its_rule_says() -> None:
    model, inputs = net(in_groups)
    found = infer(trace(model, inputs))
    assert [radial.tensors[:2] for radial in found.radial] == [("channels.weight", "channels.bias")]
    assert error(model, inputs, found) < 1e-9
