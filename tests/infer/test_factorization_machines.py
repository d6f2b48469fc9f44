"""Products of all pairs of vectors, written as squares of sums: rotations of all vectors change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from function_nets import Net
from torch import Tensor, nn

import symgraph
from symgraph.inference.pipeline import run

Spelling = Callable[[Tensor], Tensor]
SPELLINGS: dict[str, Spelling] = {
    "torchfm": lambda v: 0.5 * (v.sum(1) ** 2 - (v**2).sum(1)).sum(1, keepdim=True),
    "deepctr": lambda v: 0.5 * torch.sum(v.sum(1, keepdim=True).pow(2) - (v * v).sum(1, keepdim=True), dim=2),
    "each by itself": lambda v: (v.sum(1).square().sum(-1) - v.square().sum((1, 2)))[:, None] / 2,
    "halves": lambda v: (0.5 * (v.sum(1) ** 2) - (v**2).sum(1) / 2).sum(1, keepdim=True),
    "negative": lambda v: (-((v**2).sum(1, keepdim=True)) + v.sum(1, keepdim=True) ** 2).sum(2),
    "fields last": lambda v: (v.mT.sum(2) ** 2 - (v.mT**2).sum(2)).sum(1, keepdim=True),
}
# What is summed here is seen in another way as well.
OTHERS: dict[str, Spelling] = {
    "a cube beside": lambda v: (v.sum(1) ** 3 - (v**2).sum(1)).sum(1, keepdim=True),
    "read twice": lambda v: (lambda d: d.sum(1, keepdim=True) + d.amax(1, keepdim=True))(v.sum(1) ** 2 - (v**2).sum(1)),
    "divided by": lambda v: (2.0 / (1.0 + (v**2).sum(1))).sum(1, keepdim=True),
    "weighted": lambda v: ((v.sum(1) ** 2 - (v**2).sum(1)) * torch.arange(1.0, 5.0)).sum(1, keepdim=True),
    "over the entries first": lambda v: (v.sum(2) ** 2 - (v**2).sum(2)).sum(1, keepdim=True),
}


def net(spelling: Spelling) -> nn.Module:
    torch.manual_seed(0)
    return Net(lambda s, ids: s.head(spelling(s.table(ids))), table=nn.Embedding(20, 4), head=nn.Linear(1, 6))


@pytest.mark.parametrize("name", SPELLINGS)
def test_vectors_rotate_together(name: str) -> None:
    model, ids = net(SPELLINGS[name]), torch.arange(60).reshape(20, 3) % 20
    symmetry = symgraph.infer(model, ids)
    assert [str(space.group) for space in symmetry.active] == ["orthogonal"]
    assert symgraph.verify(symmetry, model).passed
    moved = symgraph.sample(model.double(), ids, seed=1)
    assert torch.allclose(moved(ids), model(ids), rtol=1e-9)


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_more_is_claimed_where_more_is_seen(name: str) -> None:
    model, ids = net(OTHERS[name]), torch.arange(60).reshape(20, 3) % 20
    symmetry = symgraph.infer(model, ids)
    assert "orthogonal" not in {str(space.group) for space in symmetry.active}
    assert symgraph.verify(symmetry, model).passed


@pytest.mark.parametrize("name", [*SPELLINGS, *OTHERS])
def test_a_graph_taken_apart_computes_the_same(name: str) -> None:
    model, ids = net({**SPELLINGS, **OTHERS}[name]), torch.arange(60).reshape(20, 3) % 20
    graph = symgraph.trace(model, ids)
    apart = run(graph, until="sums").graph
    state = dict(model.double().state_dict())
    one, other = (symgraph.model((one, state)).module(ids) for one in (graph, apart))
    assert torch.allclose(one, other, rtol=1e-12)


def test_parts_of_complex_numbers_stay_together() -> None:
    model = Net(
        lambda s, x: s.head((s.first(x)[..., :4] ** 2 + s.first(x)[..., 4:] ** 2).sum(-1, keepdim=True)),
        first=nn.Linear(5, 8, bias=False),
        head=nn.Linear(1, 6),
    )
    graph = symgraph.trace(model, torch.randn(3, 5))
    assert run(graph, until="sums").graph is run(graph, until="offsets").graph
