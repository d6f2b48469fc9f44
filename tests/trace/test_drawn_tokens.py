"""Whole numbers are drawn as rows of the table that they index, however they are picked from an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net
from torch import Tensor, nn

from symgraph.tracing import trace
from symgraph.tracing.sampling import random_inputs

ROWS = 19
PICKS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "one of several codebooks": ((2, 3, 4), lambda ids: ids[:, 1]),
    "the only one": ((2, 4), lambda ids: ids.reshape(-1, 1, 4)[:, 0]),
    "turned": ((4, 2), lambda ids: ids.t()),
    "another axis first": ((2, 3, 4), lambda ids: ids.permute(1, 0, 2)),
    "flattened": ((2, 4), lambda ids: ids.flatten()),
}


@pytest.mark.parametrize("name", PICKS)
def test_tokens_range_over_the_table(name: str) -> None:
    shape, pick = PICKS[name]
    net = Net(lambda s, ids: s.table(pick(ids)), table=nn.Embedding(ROWS, 3))
    graph = trace(net, (torch.zeros(shape, dtype=torch.long),))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_inputs(graph, generator)[0] for _ in range(20)])
    assert drawn.shape[1:] == shape
    assert int(drawn.min()) == 0 and int(drawn.max()) == ROWS - 1


LOOKED_UP: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "by an index": lambda s, ids: s.table[ids],
    "along another axis": lambda s, ids: s.wide[:, ids],
    "selected": lambda s, ids: torch.index_select(s.table, 0, ids.flatten()),
    "selected along another axis": lambda s, ids: torch.index_select(s.wide, 1, ids.flatten()),
}


@pytest.mark.parametrize("name", LOOKED_UP)
def test_tokens_range_over_a_table_that_is_indexed(name: str) -> None:
    net = Net(LOOKED_UP[name], table=torch.randn(ROWS, 3), wide=torch.randn(3, ROWS))
    graph = trace(net, (torch.zeros(2, 4, dtype=torch.long),))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_inputs(graph, generator)[0] for _ in range(20)])
    assert int(drawn.min()) == 0 and int(drawn.max()) == ROWS - 1


def test_a_mask_that_picks_is_no_row() -> None:
    net = Net(lambda s, seen: s.table[seen.long()] * seen[..., None], table=torch.randn(ROWS, 3))
    graph = trace(net, (torch.ones(2, 4, dtype=torch.bool),))
    drawn = random_inputs(graph, torch.Generator().manual_seed(0))[0]
    assert drawn.dtype is torch.bool
