"""What is normalised head by head has a length, and a rotation, for each head."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn
from torch.nn import functional as F

import symgraph
from symgraph import audit, infer
from symgraph.orbit.alignment import Alignment
from symgraph.prove.verify import random_transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace

TOKENS, HEADS, INSIDE = 4, 2, 3
Heads = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


def attention(f: Heads, **parts: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Queries, keys and values of each head, and a map that reads all heads."""

    def forward(s: Any, x: Tensor) -> Tensor:
        q, k, v = (m(x).view(2, TOKENS, -1, INSIDE).transpose(1, 2) for m in (s.q, s.k, s.v))
        out: Tensor = s.o(f(s, q, k, v).transpose(1, 2).flatten(2))
        return out

    torch.manual_seed(0)
    maps = {name: nn.Linear(5, HEADS * INSIDE) for name in "qkv"} | {"o": nn.Linear(HEADS * INSIDE, 7)}
    return spread(Net(forward, **(maps | parts))), (torch.randn(2, TOKENS, 5),)


def weights(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).softmax(-1)


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def cosines(s: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Swin-V2: queries and keys of length one, times a temperature of each head."""
    out: Tensor = ((unit(q) @ unit(k).transpose(-1, -2)) * s.t.exp()).softmax(-1) @ v
    return out


def one_key(s: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return weights(unit(q), unit(k)) @ v


def normal_means(s: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What attention makes of values is normalised: it is linear in them."""
    return unit(weights(q, k) @ v)


def normal_difference(s: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of two ways to attend the difference (DiffLlama)."""
    return unit((weights(q, k) - 0.3 * weights(k, q)) @ v)


def shared_gain(s: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One gain for the norms of all heads, which the map behind them takes."""
    return F.rms_norm(weights(q, k) @ v, (INSIDE,), s.g, 1e-5)


ONE = {"k": nn.Linear(5, INSIDE), "v": nn.Linear(5, INSIDE)}
CASES: dict[str, tuple[Heads, dict[str, Any], list[tuple[str, int]]]] = {
    "cosines": (cosines, {"t": torch.randn(HEADS, 1, 1)}, [("k.weight", HEADS), ("q.weight", HEADS)]),
    "one key": (one_key, ONE, [("k.weight", 1), ("q.weight", HEADS)]),
    "normal means": (normal_means, {}, [("v.weight", HEADS)]),
    "normal difference": (normal_difference, {}, [("v.weight", HEADS)]),
    "shared gain": (shared_gain, {"g": torch.rand(INSIDE) + 0.5}, []),
}


@pytest.mark.parametrize("name", CASES)
def test_each_head_has_its_own(name: str) -> None:
    f, parts, expected = CASES[name]
    model, inputs = attention(f, **copy.deepcopy(parts))
    found = infer(trace(model, inputs))
    assert sorted((radial.tensors[0], radial.parts) for radial in found.radial) == expected
    assert SymmetryGraph.from_json(found.to_json()).radial == found.radial
    assert error(model, inputs, found) < 1e-9
    counted = audit(model, inputs, symmetry=found)
    assert counted.complete, str(counted)


def seen_elsewhere(s: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return weights(unit(q), unit(k)) @ v + q


def all_heads_at_once(s: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One length over all heads is one factor."""
    return weights(q, k) @ unit(v.transpose(1, 2).flatten(2)).view(2, TOKENS, HEADS, INSIDE).transpose(1, 2)


@pytest.mark.parametrize(
    ("f", "expected"), [(seen_elsewhere, [("k.weight", HEADS)]), (all_heads_at_once, [("v.weight", 1)])]
)
def test_heads_that_are_seen_together_have_no_more(f: Heads, expected: list[tuple[str, int]]) -> None:
    model, inputs = attention(f)
    found = infer(trace(model, inputs))
    assert [(radial.tensors[0], radial.parts) for radial in found.radial] == expected
    assert error(model, inputs, found) < 1e-9


def test_lengths_of_heads_are_planted_found_and_written(tmp_path: Any) -> None:
    model, inputs = attention(*CASES["cosines"][:1], **copy.deepcopy(CASES["cosines"][1]))
    found = infer(trace(model, inputs))
    moved, state = copy.deepcopy(model), state_of(model)
    moved.load_state_dict(random_transform(found, state, torch.Generator().manual_seed(1)).apply(state))
    aligned = symgraph.align(model, moved, *inputs)
    for name, tensor in state.items():
        torch.testing.assert_close(aligned.state[name], tensor, rtol=0, atol=1e-3)
    aligned.alignment.save(tmp_path / "alignment")
    again = Alignment.load(tmp_path / "alignment", found)
    for name, tensor in again.apply(state_of(moved)).items():
        torch.testing.assert_close(tensor, aligned.state[name], rtol=0, atol=1e-6)


def one_norm(s: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One norm over all heads, with a gain for each entry (BitNet)."""
    y = (weights(q, k) @ v).transpose(1, 2).flatten(2)
    return normed(s, y).view(2, TOKENS, HEADS, INSIDE).transpose(1, 2)


def normed(s: Any, y: Tensor) -> Tensor:
    if "b" in dict(s.named_parameters()):
        return F.layer_norm(y, (HEADS * INSIDE,), s.g, s.b, 1e-5)
    return F.rms_norm(y, (HEADS * INSIDE,), s.g, 1e-5)


def added(s: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What the norm makes is added to something else, so that its gain stays."""
    return one_norm(s, q, k, v) + v.tanh()


GAIN = torch.rand(HEADS * INSIDE) + 0.5
OVER_ALL: dict[str, tuple[Heads, dict[str, Any], str]] = {
    "one gain": (one_norm, {"g": GAIN}, "orthogonal"),
    "gain and bias": (one_norm, {"g": GAIN, "b": torch.randn(HEADS * INSIDE)}, "orthogonal fixing ones"),
    "one key": (one_norm, {"g": GAIN, **ONE}, "orthogonal"),
}


@pytest.mark.parametrize("name", OVER_ALL)
def test_a_gain_over_all_heads_goes_into_what_reads_them(name: str) -> None:
    f, parts, expected = OVER_ALL[name]
    model, inputs = attention(f, **copy.deepcopy(parts))
    found = infer(trace(model, inputs))
    (gain,) = found.gains
    assert gain.parameter == "g" and len(gain.frames) == 2
    assert SymmetryGraph.from_json(found.to_json()).gains == found.gains
    of_values = [s for s in found.active if "v.weight" in found.parameters_of[s.id] and s.is_matrix]
    assert [str(s.group) for s in of_values] == [expected]
    assert error(model, inputs, found) < 1e-9
    if "b" in parts:
        # Where a norm centres the canonical form leaves constants of equal entries as they are.
        return
    counted = audit(model, inputs, symmetry=found)
    assert counted.complete, str(counted)
    moved, state = copy.deepcopy(model), state_of(model)
    moved.load_state_dict(random_transform(found, state, torch.Generator().manual_seed(1)).apply(state))
    back = symgraph.align(model, moved, *inputs).state
    for tensor in state:
        torch.testing.assert_close(back[tensor], state[tensor], rtol=0, atol=5e-3)


def test_a_gain_over_all_heads_stays_where_something_else_sees_what_it_makes() -> None:
    model, inputs = attention(added, g=GAIN.clone())
    found = infer(trace(model, inputs))
    assert not found.gains
    assert error(model, inputs, found) < 1e-9


def test_a_gain_over_all_heads_stays_where_each_head_is_read_by_itself() -> None:
    """A map that all heads share has no weight for a head to take its gain into."""
    model, inputs = attention(lambda s, q, k, v: s.p(one_norm(s, q, k, v)), g=GAIN.clone(), p=nn.Linear(INSIDE, INSIDE))
    found = infer(trace(model, inputs))
    assert not found.gains
    assert error(model, inputs, found) < 1e-9


@pytest.mark.parametrize("with_gain", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_means_of_all_heads_are_seen_behind_attention(fused: bool, with_gain: bool) -> None:
    """Each head has weights of its own, so that what is the same in all of them does not stay so."""

    def f(s: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(q, k, v) if fused else weights(q, k) @ v
        gain = (s.g,) if with_gain else ()
        y = F.layer_norm(y.transpose(1, 2).flatten(2), (HEADS * INSIDE,), *gain)
        return y.view(2, TOKENS, HEADS, INSIDE).transpose(1, 2)

    model, inputs = attention(f, g=GAIN.clone())
    found = infer(trace(model, inputs))
    assert not any(piece.parameter == "v.weight" for centred in found.centred for piece in centred.pieces)
    assert error(model, inputs, found) < 1e-9
