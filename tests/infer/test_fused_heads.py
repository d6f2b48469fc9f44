"""Queries, keys and values of one projection: heads that hold them side by side, parts that take turns, any order."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from symgraph.inference.pipeline import infer
from symgraph.prove.audit import audit
from symgraph.prove.verify import verify
from symgraph.symmetry.terms import Concat, Leaf, Product, leaves
from symgraph.tracing import trace


class Interleaved(nn.Module):
    """Attention whose fused projection has axes (heads, query + key + value)."""

    def __init__(self, width: int = 6, heads: int = 2, size: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(3, width)
        self.fused = nn.Linear(width, 3 * heads * size)
        self.out = nn.Linear(heads * size, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        fused = self.fused(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query, key, value = fused.chunk(3, -1)
        mixed = scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


def test_interleaved_heads() -> None:
    symmetry = infer(trace(Interleaved(), (torch.randn(2, 5, 3),)))
    (axis,) = symmetry.terms["fused.bias"]
    assert isinstance(axis, Product)
    heads, inner = axis.factors
    assert isinstance(heads, Leaf) and isinstance(inner, Concat)
    query, key, value = leaves(inner)
    assert query.size == key.size == value.size == 4
    assert (query.space, not query.dual) == (key.space, key.dual) and query.space != value.space
    groups = [str(symmetry.spaces[x.space].group) for x in (heads, query, value)]
    assert groups == ["permutation", "invertible", "invertible"]
    assert all(symmetry.spaces[x.space].fibre == (heads.space,) for x in (query, value))


def test_interleaved_heads_hold_numerically() -> None:
    symmetry = infer(trace(Interleaved(), (torch.randn(2, 5, 3),)))
    verify(symmetry).raise_if_failed()
    biases = [c for c in symmetry.constants if c.source.piece.parameter == "fused.bias"]
    assert {c.source.piece.place: len(c.shares) for c in biases} == {
        ("fused.bias", 0, 4, 8): 0,
        ("fused.bias", 0, 8, 12): 1,
    }


class Fused(nn.Module):
    """Attention whose fused projection has heads, their inside and "three" in a given order: "hdt" is (h d three)."""

    def __init__(self, order: str, one_by_one: bool = False, turned: bool = False) -> None:
        super().__init__()
        self.order, self.one_by_one, self.turned = order, one_by_one, turned
        self.embed, self.fused, self.out = nn.Linear(5, 4, bias=False), nn.Linear(4, 24), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        sizes, places = {"h": 2, "d": 4, "t": 3}, {c: i + 2 for i, c in enumerate(self.order)}
        fused = self.fused(self.embed(x)).unflatten(-1, [sizes[c] for c in self.order])
        if self.one_by_one:
            rest = sorted(p - (p > places["t"]) for p in (places["h"], places["d"]))
            heads, inside = rest if places["h"] < places["d"] else rest[::-1]
            parts = [fused.select(places["t"], i).permute(0, heads, 1, inside) for i in range(3)]
        else:
            parts = list(fused.permute(places["t"], 0, places["h"], 1, places["d"]).unbind(0))
        if self.turned:
            angles = torch.outer(torch.arange(x.shape[1]), torch.tensor([1.0, 0.1]))
            parts[:2] = (rotated(part, angles.cos(), angles.sin()) for part in parts[:2])
        mixed = scaled_dot_product_attention(*parts)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


def rotated(x: Tensor, c: Tensor, s: Tensor) -> Tensor:
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2)


ORDERS = ["".join(order) for order in itertools.permutations("hdt")]


@pytest.mark.parametrize("order", ORDERS)
def test_fields_in_any_order(order: str) -> None:
    symmetry = infer(trace(Fused(order), (torch.randn(2, 4, 5),)))
    verify(symmetry).raise_if_failed()
    found = audit(symmetry)
    # Two queries and keys and two values of GL(4), the stream of GL(4), key biases, value biases.
    assert found.inferred == found.measured == 4 * 16 + 16 + 8 + 8


@pytest.mark.parametrize("order", ["hdt", "dht"])
def test_fields_picked_one_by_one(order: str) -> None:
    symmetry = infer(trace(Fused(order, one_by_one=True), (torch.randn(2, 4, 5),)))
    verify(symmetry).raise_if_failed()
    assert sorted(str(s.group) for s in symmetry.active if s.size == 4) == ["invertible"] * 3


def test_pairs_that_turn_behind_fields_that_take_turns() -> None:
    symmetry = infer(trace(Fused("hdt", turned=True), (torch.randn(2, 4, 5),)))
    verify(symmetry).raise_if_failed()
    assert sorted(str(s.group) for s in symmetry.active if s.size == 4) == ["invertible", "invertible", "rotary"]


def test_gates_and_units_that_take_turns() -> None:
    class Gated(nn.Module):
        def __init__(self, by_turns: bool) -> None:
            super().__init__()
            self.by_turns = by_turns
            self.read, self.write = nn.Linear(3, 10), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.read(x)
            gate, unit = (h[..., ::2], h[..., 1::2]) if self.by_turns else h.chunk(2, -1)
            result: Tensor = self.write(nn.functional.silu(gate) * unit)
            return result

    found = [infer(trace(Gated(by_turns), (torch.randn(4, 3),))) for by_turns in (True, False)]
    verify(found[0]).raise_if_failed()
    turns, plain = ([(s.name, s.size, s.group, s.scales, s.signs) for s in one.active] for one in found)
    assert turns == plain and [size for _, size, *_ in plain] == [5]


def test_spaces_without_a_label_are_hidden() -> None:
    class Maxout(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.write = nn.Linear(3, 8), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.write(self.read(x).unflatten(-1, (4, 2)).amax(-1))
            return result

    symmetry = infer(trace(Maxout(), (torch.randn(2, 3),)))
    assert [(s.name, s.size, str(s.group)) for s in symmetry.active] == [
        ("hidden", 4, "positive monomial"),
        ("read.hidden", 2, "permutation"),
    ]
    verify(symmetry).raise_if_failed()
