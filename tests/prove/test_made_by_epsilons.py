"""What a symmetry is as long as a norm has an epsilon alone is told apart from what is missing."""

from __future__ import annotations

from typing import Any

import torch
from function_nets import Net, spread
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.prove.audit import Audit, audit
from symgraph.tracing import trace

ROWS, WIDTH = 23, 4


class Normed(nn.Module):
    """A table that nothing but a norm reads (RWKV), or another one is added to."""

    def __init__(self, kinds: bool) -> None:
        super().__init__()
        self.table, self.kind = nn.Embedding(ROWS, WIDTH), nn.Linear(5, WIDTH) if kinds else None
        self.norm, self.out = nn.LayerNorm(WIDTH, eps=1e-5), nn.Linear(WIDTH, 6)

    def forward(self, tokens: Tensor, kinds: Tensor) -> Tensor:
        x = self.table(tokens)
        logits: Tensor = self.out(self.norm(x if self.kind is None else x + self.kind(kinds)))
        return logits


def measured(kinds: bool) -> Audit:
    torch.manual_seed(0)
    inputs = torch.randint(0, ROWS, (2, 5)), torch.randn(2, 5, 5)
    return audit(infer(trace(Normed(kinds), inputs)), approximate=False)


def test_a_table_makes_up_for_what_is_behind_its_norm_within_a_ball() -> None:
    """Any affine map of the plane of mean zero, of which rotations alone are symmetries without an epsilon."""
    normed = measured(kinds=False)
    assert normed.complete, str(normed)
    plane = WIDTH - 1
    assert sum(shortfall.number for shortfall in normed.made) == plane * (plane + 1) - plane * (plane - 1) // 2
    assert "only an epsilon makes: " in str(normed)


def test_vectors_that_are_given_leave_no_such_freedom() -> None:
    added = measured(kinds=True)
    assert added.complete and not added.made, str(added)


def test_a_mask_that_closes_every_position_does_not_end_an_audit() -> None:
    """The mean over the positions that are not closed is divided by no less than an epsilon: without one by zero."""

    def pooled(s: Any, x: Tensor, mask: Tensor) -> Tensor:
        weights = mask.float().unsqueeze(-1)
        mean: Tensor = (s.a(x) * weights).sum(1) / weights.sum(1).clamp(min=1e-6)
        return s.o(mean)  # type: ignore[no-any-return]

    net = spread(Net(pooled, a=nn.Linear(5, 4), o=nn.Linear(4, 6)))
    inputs = torch.randn(3, 4, 5), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    counted = audit(infer(trace(net, inputs)))
    assert counted.complete, str(counted)
