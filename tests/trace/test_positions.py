"""Positions that are known before the model runs: a table read from end to end is itself, with weights or without."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from symgraph.ir import Graph
from symgraph.tracing import state_of, trace, trace_config
from symgraph.tracing.interpreter import evaluate
from symgraph.tracing.meta import numbers, weightless
from symgraph.tracing.positions import is_run


class Table(nn.Module):
    """Rows of a table, picked by a buffer."""

    def __init__(self, rows: Tensor, *, stored: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3)
        self.register_buffer("rows", rows, persistent=stored)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.table(self.rows)
        return found


def targets(graph: Graph) -> list[str]:
    return [n.target for n in graph.calls]


@given(st.integers(1, 3))
def test_a_table_read_from_end_to_end_is_itself(batch: int) -> None:
    model = Table(torch.arange(4).expand(batch, 4))
    x = torch.randn(batch, 4, 3)
    graph = trace(model, (x,))
    assert "aten.embedding.default" not in targets(graph)
    assert "rows" not in graph.state
    (found,) = evaluate(graph, state_of(model), (x,))
    assert torch.allclose(found, model(x).double(), atol=1e-6)


@pytest.mark.parametrize("rows", [[3, 2, 1, 0], [0, 1, 2], [1, 2, 3], [0, 0, 0, 0]])
def test_other_rows_are_picked_as_before(rows: list[int]) -> None:
    model = Table(torch.tensor(rows))
    x = torch.randn(len(rows), 3)
    graph = trace(model, (x,))
    assert "aten.embedding.default" in targets(graph)
    (found,) = evaluate(graph, state_of(model), (x,))
    assert torch.allclose(found, model(x).double(), atol=1e-6)


def test_rows_that_a_checkpoint_stores_are_data() -> None:
    graph = trace(Table(torch.arange(4), stored=True), (torch.randn(4, 3),))
    assert "aten.embedding.default" in targets(graph) and "rows" in graph.state


def test_a_model_without_weights_knows_its_positions() -> None:
    config = CLIPVisionConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=4,
        patch_size=2,
        architectures=["CLIPVisionModel"],
    )
    light, full = trace_config(config), trace(CLIPVisionModel(config))
    assert str(light) == str(full)
    assert "aten.embedding.default" not in targets(light)


def test_integers_follow_writes_and_views() -> None:
    with weightless():
        ids = torch.arange(6)
        plain, turned = ids.view(2, 3).t() + 1, torch.arange(6)
        turned[2:4].fill_(0)
        copied = torch.zeros(3, dtype=torch.long)
        copied += 2
        drawn = torch.arange(3) + torch.empty(3, dtype=torch.long, device="meta")
    assert all(t.is_meta for t in (ids, plain, turned, copied))
    known = numbers(plain)
    assert known is not None and known.tolist() == [[1, 4], [2, 5], [3, 6]]
    assert numbers(turned) is None
    assert numbers(drawn) is None
    summed = numbers(copied)
    assert summed is not None and summed.tolist() == [2, 2, 2]


@given(st.lists(st.integers(-3, 6), min_size=1, max_size=5))
def test_runs(numbers: list[int]) -> None:
    assert is_run(torch.tensor(numbers)) == all(b == a + 1 for a, b in pairwise(numbers))
