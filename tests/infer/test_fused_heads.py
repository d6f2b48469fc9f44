"""Heads that hold query, key and value side by side: a product over a concatenation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from symgraph.inference.pipeline import infer
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
