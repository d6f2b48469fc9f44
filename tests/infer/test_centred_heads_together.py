"""One norm over all heads centres them together: one mean of what is written is not seen, not one for each head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph import audit, infer
from symgraph.orbit.canonical import canonicalise
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace

WIDTH, HEADS, INSIDE, PLACES = 5, 2, 3, 7


def normed(per_head: bool) -> nn.Module:
    """Queries and keys normed before they are cut into heads (ESM C), or behind that."""

    def forward(s: Any, x: Tensor) -> Tensor:
        q, k, v = (part(x) for part in (s.q, s.k, s.v))
        q, k = (y if per_head else norm(y) for y, norm in ((q, s.qn), (k, s.kn)))
        q, k, v = (y.unflatten(-1, (HEADS, INSIDE)).transpose(1, 2) for y in (q, k, v))
        q, k = (norm(y) if per_head else y for y, norm in ((q, s.qn), (k, s.kn)))
        found = nn.functional.scaled_dot_product_attention(q.tanh(), k.tanh(), v)
        out: Tensor = s.o(found.transpose(1, 2).flatten(2))
        return out

    inner = HEADS * INSIDE
    norms = {name: nn.LayerNorm(INSIDE if per_head else inner) for name in ("qn", "kn")}
    maps = {name: nn.Linear(WIDTH, inner) for name in ("q", "k", "v")}
    return spread(Net(forward, o=nn.Linear(inner, 9), **norms, **maps))


def inferred(model: nn.Module) -> SymmetryGraph:
    return infer(trace(model, (torch.randn(2, PLACES, WIDTH),)))


@pytest.mark.parametrize("per_head", [True, False])
def test_every_mean_is_found_once(per_head: bool) -> None:
    torch.manual_seed(0)
    model = normed(per_head)
    found = inferred(model)
    counted = audit(model, symmetry=found)
    assert counted.complete, str(counted)
    assert found.dimension().number == counted.inferred
    assert error(model, (torch.randn(2, PLACES, WIDTH),), found) < 1e-9
    assert SymmetryGraph.from_json(found.to_json()).to_json() == found.to_json()


def test_the_canonical_form_takes_the_common_mean_out() -> None:
    torch.manual_seed(0)
    model = normed(per_head=False)
    found = inferred(model)
    state = {name: value.detach().double() for name, value in state_of(model).items()}
    after = canonicalise(found, state).state
    for name in ("q", "k"):
        assert float(after[f"{name}.weight"].mean(0).abs().max()) < 1e-12
        heads = torch.unflatten(after[f"{name}.weight"], 0, (HEADS, INSIDE))
        assert float(heads.mean(1).abs().max()) > 1e-3
