"""Where a model reads few different vectors, an audit says that this may be all that is missing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from symgraph.inference.pipeline import infer
from symgraph.prove.audit import Audit, audit
from symgraph.tracing import trace

WIDTH = 4


class Normed(nn.Module):
    """Attention with one norm over all heads, of tokens (OLMo-2)."""

    def __init__(self, rows: int, indexed: bool = False) -> None:
        super().__init__()
        self.indexed = indexed
        self.table = nn.Embedding(rows, WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.q_norm, self.k_norm = nn.RMSNorm(WIDTH, eps=1e-5), nn.RMSNorm(WIDTH, eps=1e-5)
        self.out = nn.Linear(WIDTH, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table.weight[tokens] if self.indexed else self.table(tokens)
        parts = self.q_norm(self.q(x)), self.k_norm(self.k(x)), self.v(x)
        q, k, v = (y.unflatten(-1, (2, -1)).transpose(1, 2) for y in parts)
        found: Tensor = self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return found


def measured(rows: int, indexed: bool) -> Audit:
    torch.manual_seed(0)
    return audit(infer(trace(Normed(rows, indexed), (torch.randint(0, rows, (2, 5)),))), approximate=False)


@pytest.mark.parametrize("indexed", [False, True])
def test_few_tokens_leave_directions_free(indexed: bool) -> None:
    few, many = measured(5, indexed), measured(16, indexed)
    assert not few.complete and not few.unsound and many.complete
    assert many.few == ()
    (text,) = few.few
    assert text == "table.weight has 5 rows of 4 entries; measure with more of them"
    assert f"perhaps a limit of the measurement: {text}" in str(few)
