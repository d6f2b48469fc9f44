"""A mask that no checkpoint stores is what the model's code makes of it: whether its rows are open is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from symgraph import audit, infer
from symgraph.tracing import state_of, trace

X = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))
CAUSAL = torch.full((4, 4), -torch.inf).triu(1)
CLOSED = CAUSAL.index_fill(0, torch.tensor([1]), -torch.inf)


def attention(s: Any, x: Tensor) -> Tensor:
    q, k, v = (m(x).view(2, 4, 2, 3).transpose(1, 2) for m in (s.q, s.k, s.v))
    found: Tensor = s.o(scaled_dot_product_attention(q, k, v, s.mask).transpose(1, 2).flatten(2))
    return found


@pytest.mark.parametrize(
    ("mask", "stored", "moves"), [(CAUSAL, False, True), (CAUSAL, True, False), (CLOSED, False, False)]
)
def test_value_biases_move_behind_masks_that_are_known_to_be_open(mask: Tensor, stored: bool, moves: bool) -> None:
    torch.manual_seed(0)
    maps = {name: nn.Linear(5, 6) for name in "qkv"} | {"o": nn.Linear(6, 7)}
    net = spread(Net(attention, **maps, mask=(mask, stored)))
    found = infer(trace(net, (X,)))
    assert ("v.bias" in {constant.source.piece.parameter for constant in found.constants}) is moves
    assert error(net, (X,), found) < 1e-9
    if moves:
        counted = audit(found, state_of(net))
        assert counted.complete, str(counted)
