"""Numbers that stand for entries go through operators that move entries, at no more than their own size."""

from __future__ import annotations

from dataclasses import replace

import torch
from largest import largest
from torch import Tensor, nn

from symgraph.inference.entry_numbers import Numbers, moved, same_numbers, stands_anywhere
from symgraph.inference.pipeline import infer
from symgraph.inference.summed import gathered
from symgraph.inference.uses import Spot
from symgraph.symmetry.terms import Leaf
from symgraph.tracing import trace

SIDE = 1 << 14
LINE = torch.arange(SIDE, dtype=torch.float64)


class Picks(nn.Module):
    """The weights of an expert for every token: at this size 128 GiB of them in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(4, SIDE, SIDE, device="meta"))

    def forward(self, which: Tensor) -> Tensor:
        return self.table[which]


class Experts(nn.Module):
    """Units of which every token has the weights of an expert of its own to read them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.table = nn.Linear(8, 512), nn.Parameter(torch.empty(4, 1024, 512))
        self.down = nn.Linear(1024, 3)

    def forward(self, x: Tensor, which: Tensor) -> Tensor:
        weights = self.table[which]
        read: Tensor = torch.bmm(weights, torch.relu(self.up(x)).unsqueeze(-1)).squeeze(-1)
        result: Tensor = self.down(torch.relu(read))
        return result


def test_what_is_picked_of_large_tables_is_followed_without_their_size() -> None:
    graph = trace(Picks(), (torch.zeros(64, dtype=torch.int64, device="meta"),))
    (node,) = [n for n in graph.calls if n.target == "aten.index.Tensor"]
    table, which = node.refs()
    marked = LINE.reshape(1, -1, 1).expand(graph.by_name[table].shape)
    found = moved(graph, (node,), {table: marked, which: torch.zeros(64, dtype=torch.int64)})
    assert found.shape == node.shape and found.stride(2) == 0
    assert torch.equal(found[5, :, 7], LINE)


def test_numbers_that_stand_all_along_an_axis_are_looked_at_once() -> None:
    spread, down = LINE.expand(64, SIDE), LINE.reshape(-1, 1).expand(SIDE, 64)
    assert stands_anywhere(spread) and not stands_anywhere(torch.zeros(()).expand(64, SIDE))
    assert same_numbers(spread, spread.clone()) and not same_numbers(spread, spread + 1)
    assert not same_numbers(spread, down) and not same_numbers(down, down[:, :1])
    assert largest(lambda: (stands_anywhere(spread), same_numbers(spread, LINE.expand(64, SIDE)))) == SIDE


def test_constants_are_gathered_without_the_size_of_what_they_stand_in() -> None:
    spot = Spot((0, ()), Leaf(0, 0, False, SIDE), Numbers(LINE.expand(64, SIDE)))
    assert [s.factor for s in gathered([spot, spot])] == [2.0]
    again = replace(spot, numbers=Numbers(LINE.expand(64, SIDE).clone()))
    assert [s.factor for s in gathered([spot, again])] == [2.0]
    assert largest(lambda: gathered([spot, replace(spot, numbers=Numbers(LINE.expand(64, SIDE)))])) == SIDE


def test_inference_of_picked_experts_makes_nothing_of_the_size_of_what_all_tokens_pick() -> None:
    model, tokens = Experts().to("meta"), 40
    inputs = (torch.zeros(tokens, 8, device="meta"), torch.zeros(tokens, dtype=torch.int64, device="meta"))
    graph = trace(model, inputs)
    assert largest(lambda: infer(graph)) < tokens * model.table[0].numel()
