"""Norms that centre queries and keys head by head: the mean of what is written into each head is not seen."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.orbit.canonical import canonicalise
from symgraph.prove.audit import audit
from symgraph.prove.verify import verify
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import random_state

WIDTH, HEADS, INSIDE, PLACES = 6, 2, 4, 9


class Fused(nn.Module):
    """Queries, keys and values from one matrix, their parts laid out in either order, queries and keys normed.

    With `cut` two parts of each head go different ways behind the norm, as one that is turned and the rest.
    """

    def __init__(self, heads_first: bool, cut: bool) -> None:
        super().__init__()
        self.heads_first, self.cut = heads_first, cut
        self.qkv, self.o = nn.Linear(WIDTH, 3 * HEADS * INSIDE), nn.Linear(HEADS * INSIDE, 9, bias=False)
        self.q_norm, self.k_norm = nn.LayerNorm(INSIDE), nn.LayerNorm(INSIDE)

    def forward(self, x: Tensor) -> Tensor:
        if self.heads_first:
            q, k, v = self.qkv(x).unflatten(-1, (HEADS, 3, INSIDE)).unbind(-2)
        else:
            q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, INSIDE)).unbind(-3)
        q, k = self.bent(self.q_norm(q)), self.bent(self.k_norm(k))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        found: Tensor = self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))
        return found

    def bent(self, x: Tensor) -> Tensor:
        return torch.cat((x[..., :2].sin(), x[..., 2:].tanh()), -1) if self.cut else x.tanh()


@cache
def fused(heads_first: bool, cut: bool) -> SymmetryGraph:
    torch.manual_seed(0)
    return infer(trace(Fused(heads_first, cut), (torch.randn(2, PLACES, WIDTH),)))


orders = pytest.mark.parametrize("heads_first", [True, False], ids=["heads first", "parts first"])
cuts = pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])


@orders
@cuts
def test_means_of_every_head_are_found(heads_first: bool, cut: bool) -> None:
    found = fused(heads_first, cut)
    counted = audit(found, approximate=False)
    assert counted.complete, str(counted)
    assert verify(found).together < 1e-9
    assert found.dimension().number == counted.inferred


@orders
@cuts
def test_the_canonical_form_takes_them_out(heads_first: bool, cut: bool) -> None:
    found = fused(heads_first, cut)
    state = random_state(found.graph, torch.Generator().manual_seed(1))
    after = canonicalise(found, state).state
    weight = after["qkv.weight"]
    parts = (
        weight.reshape(HEADS, 3, INSIDE, WIDTH).transpose(0, 1) if heads_first else weight.reshape(3, HEADS, INSIDE, -1)
    )
    assert torch.allclose(parts[:2].mean(2), torch.zeros(2, HEADS, WIDTH, dtype=torch.float64), atol=1e-12)
    run = Interpreter(found.graph, dtype=torch.float64)
    inputs = [torch.randn(2, PLACES, WIDTH, dtype=torch.float64)]
    with torch.no_grad():
        before, now = (run.run(s, inputs)[0] for s in (state, after))
    assert torch.allclose(before, now, rtol=0, atol=1e-10)
