"""Constants that stand at some positions each, as rows beside keys do, and together at all of them."""

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
from symgraph.tracing import state_of, trace

TOKENS, WIDTH, HEADS, INSIDE = 5, 8, 2, 4
DRAWN = torch.Generator().manual_seed(0)
Forward = Callable[[Any, Tensor], Tensor]


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, INSIDE)).transpose(1, 2)  # type: ignore[no-untyped-call, no-any-return]


def mixed(s: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out: Tensor = s.o(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))
    return out


def beside_heads(s: Any, x: Tensor) -> Tensor:
    """Three learned keys and values for each head, in front of those of the tokens."""
    k, v = (
        torch.cat([rows.expand(len(x), -1, -1, -1), heads(m(x))], 2) for rows, m in ((s.keys, s.k), (s.values, s.v))
    )
    return mixed(s, heads(s.q(x)), k, v)


def beside_all(s: Any, x: Tensor) -> Tensor:
    """The same before the cut into heads, behind those of the tokens."""
    k, v = (torch.cat([m(x), rows.repeat(len(x), 1, 1)], 1) for rows, m in ((s.keys, s.k), (s.values, s.v)))
    return mixed(s, heads(s.q(x)), heads(k), heads(v))


def one_for_each_head(s: Any, x: Tensor) -> Tensor:
    k, v = (
        torch.cat([heads(m(x)), rows[None, :, None].expand(len(x), -1, -1, -1)], 2)
        for rows, m in ((s.keys, s.k), (s.values, s.v))
    )
    return mixed(s, heads(s.q(x)), k, v)


def registers(s: Any, x: Tensor) -> Tensor:
    """Learned tokens in front of what a map makes of the others."""
    x = torch.cat([s.tokens.expand(len(x), -1, -1), s.embed(x)], 1)
    return mixed(s, heads(s.q(x)), heads(s.k(x)), heads(s.v(x)))[:, 2:]


def tables(*shape: int) -> dict[str, Any]:
    return {name: torch.randn(shape, generator=DRAWN) for name in ("keys", "values")}


CASES: dict[str, tuple[Forward, dict[str, Any], int]] = {
    "rows of heads": (beside_heads, tables(1, HEADS, 3, INSIDE), 16),
    "rows of all heads": (beside_all, tables(1, 2, HEADS * INSIDE), 16),
    "a row for each head": (one_for_each_head, tables(HEADS, INSIDE), 16),
    "tokens": (registers, {"tokens": torch.randn(1, 2, WIDTH, generator=DRAWN)}, 24),
}


def net(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    f, parts, _ = CASES[name]
    maps = {name: nn.Linear(WIDTH, HEADS * INSIDE) for name in "qkvo"}
    maps |= {"embed": nn.Linear(WIDTH, WIDTH)} if f is registers else {}
    return spread(Net(f, **maps, **copy.deepcopy(parts))), (torch.randn(2, TOKENS, WIDTH),)


@pytest.mark.parametrize("name", CASES)
def test_what_they_have_in_common_is_found(name: str) -> None:
    model, inputs = net(name)
    found = infer(trace(model, inputs))
    assert sum(constant.source.piece.size for constant in found.constants) == CASES[name][2]
    assert error(model, inputs, found) < 1e-9
    counted = audit(model, inputs, symmetry=found)
    assert counted.complete, str(counted)


@pytest.mark.parametrize("name", CASES)
def test_it_is_planted_found_and_settled(name: str) -> None:
    model, inputs = net(name)
    found = infer(trace(model, inputs))
    moved, state = copy.deepcopy(model), state_of(model)
    moved.load_state_dict(random_transform(found, state, torch.Generator().manual_seed(1)).apply(state))
    aligned = symgraph.align(model, moved, *inputs)
    for tensor in state:
        torch.testing.assert_close(aligned.state[tensor], state[tensor], rtol=0, atol=5e-3)
    once = canonicalise(found, {n: t.double() for n, t in state.items()}).state
    for tensor, again in canonicalise(found, once).state.items():
        torch.testing.assert_close(again, once[tensor], rtol=0, atol=1e-6)


def apart(s: Any, x: Tensor) -> Tensor:
    """Rows beside keys that are read by themselves as well."""
    seen: Tensor = (heads(x) * s.keys[:, :, :1].tanh()).sin().sum((1, 2, 3))
    return beside_heads(s, x) + seen[:, None, None]


def scaled(s: Any, x: Tensor) -> Tensor:
    """Learned keys that are twice as long."""
    k = torch.cat([2 * s.keys.expand(len(x), -1, -1, -1), heads(s.k(x))], 2)
    v = torch.cat([s.values.expand(len(x), -1, -1, -1), heads(s.v(x))], 2)
    return mixed(s, heads(s.q(x)), k, v)


@pytest.mark.parametrize(("f", "expected"), [(apart, 8), (scaled, 16)])
def test_what_else_is_seen_of_them_counts(f: Forward, expected: int) -> None:
    torch.manual_seed(0)
    maps = {name: nn.Linear(WIDTH, HEADS * INSIDE) for name in "qkvo"}
    model, inputs = spread(Net(f, **maps, **tables(1, HEADS, 3, INSIDE))), (torch.randn(2, TOKENS, WIDTH),)
    found = infer(trace(model, inputs))
    assert sum(constant.source.piece.size for constant in found.constants) == expected
    assert error(model, inputs, found) < 1e-9
    assert not audit(model, inputs, symmetry=found).unsound


def seen_by_a_product(s: Any, x: Tensor) -> Tensor:
    """A learned token, and positions, in a stream that maps with biases read, and a product that sees it all."""
    x = torch.cat([s.token.expand(len(x), -1, -1), s.embed(x)], 1) + s.places
    found: Tensor = s.o(torch.tanh(s.q(x)) @ (torch.tanh(s.k(x)).mT @ x))
    return found


def test_what_something_sees_is_nothing_to_others() -> None:
    torch.manual_seed(0)
    parts: dict[str, Any] = {"token": torch.randn(1, 1, WIDTH), "places": torch.randn(1, TOKENS + 1, WIDTH)}
    maps = {name: nn.Linear(WIDTH, WIDTH) for name in ("embed", "q", "k", "o")}
    model, inputs = spread(Net(seen_by_a_product, **maps, **parts)), (torch.randn(2, TOKENS, WIDTH),)
    found = infer(trace(model, inputs))
    assert found.constants and all(not share.path for constant in found.constants for share in constant.shares)
    assert error(model, inputs, found) < 1e-9
    assert not audit(model, inputs, symmetry=found).unsound
