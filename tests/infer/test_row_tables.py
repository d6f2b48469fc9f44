"""Tables of biases on attention scores: a constant for each head is not seen, however the scores are masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph import audit, infer
from symgraph.tracing import state_of, trace

HEADS, TOKENS, INSIDE = 2, 5, 3
X = torch.randn(2, TOKENS, 5, generator=torch.Generator().manual_seed(1))
LATER = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
Weights = Callable[[Tensor], Tensor]


def filled(number: float) -> Weights:
    return lambda scores: scores.masked_fill(LATER, number).softmax(-1)


def chosen(number: float) -> Weights:
    return lambda scores: torch.where(~LATER, scores, number).softmax(-1)


def seen_where_closed(scores: Tensor) -> Tensor:
    """What is closed has a logarithm, beside which the other scores are told."""
    return scores.masked_fill(LATER, -1e9).log_softmax(-1) / 1e9


CASES: dict[str, tuple[Weights, int]] = {
    "open": (lambda scores: scores.softmax(-1), HEADS),
    "filled": (filled(-1e30), HEADS),
    "filled with minus infinity": (filled(-torch.inf), HEADS),
    "chosen": (chosen(-1e30), HEADS),
    "chosen by one number": (lambda scores: torch.where(torch.ones(()) > 0, scores, -1e30).softmax(-1), HEADS),
    "filled with a number that is seen": (filled(-3.0), 0),
    "seen where closed": (seen_where_closed, 0),
}


def model(weights: Weights) -> nn.Module:
    """Attention with a bias for each distance, times a number."""

    def forward(s: Any, x: Tensor) -> Tensor:
        q, k, v = (m(x).view(2, TOKENS, HEADS, INSIDE).transpose(1, 2) for m in (s.q, s.k, s.v))
        places = torch.arange(TOKENS)
        bias = s.table((places[:, None] - places).abs()).permute(2, 0, 1) * 1.5
        found: Tensor = s.o((weights(q @ k.mT + bias) @ v).transpose(1, 2).flatten(2))
        return found

    torch.manual_seed(0)
    maps = {name: nn.Linear(5, HEADS * INSIDE, bias=False) for name in "qkv"}
    return spread(Net(forward, **maps, o=nn.Linear(HEADS * INSIDE, 7), table=nn.Embedding(TOKENS, HEADS)))


@pytest.mark.parametrize("name", CASES)
def test_a_constant_of_each_head_is_not_seen(name: str) -> None:
    weights, wanted = CASES[name]
    net = model(weights)
    found = infer(trace(net, (X,)))
    blind = [c for c in found.centred if [piece.parameter for piece in c.pieces] == ["table.weight"]]
    assert len(blind) == (wanted > 0)
    assert error(net, (X,), found) < 1e-9
    counted = audit(found, state_of(net), approximate=False)
    assert not counted.unsound
    if wanted:
        assert counted.complete, str(counted)
