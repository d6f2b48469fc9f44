"""Numbers that stand for entries go through operators that move entries, at no more than their own size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from symgraph.inference.entry_numbers import moved
from symgraph.tracing import trace

SIDE = 1 << 14


class Picks(nn.Module):
    """The weights of an expert for every token: at this size 128 GiB of them in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(4, SIDE, SIDE, device="meta"))

    def forward(self, which: Tensor) -> Tensor:
        return self.table[which]


def test_what_is_picked_of_large_tables_is_followed_without_their_size() -> None:
    graph = trace(Picks(), (torch.zeros(64, dtype=torch.int64, device="meta"),))
    (node,) = [n for n in graph.calls if n.target == "aten.index.Tensor"]
    table, which = node.refs()
    line = torch.arange(SIDE, dtype=torch.float64)
    marked = line.reshape(1, -1, 1).expand(graph.by_name[table].shape)
    found = moved(graph, (node,), {table: marked, which: torch.zeros(64, dtype=torch.int64)})
    assert found.shape == node.shape and found.stride(2) == 0
    assert torch.equal(found[5, :, 7], line)
