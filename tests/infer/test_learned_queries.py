"""Queries that are parameters: a matrix that reads a norm, scores that a softmax reads, means of what was normed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn

import symgraph

Scores = Callable[[Tensor, Tensor], Tensor]


def matrix_first(q: Tensor, x: Tensor) -> Tensor:
    return q @ x.transpose(-1, -2)


SCORES: dict[str, Scores] = {
    "the matrix first": matrix_first,
    "the matrix last": lambda q, x: (x @ q.T).transpose(-1, -2),
    "an Einstein sum": lambda q, x: torch.einsum("td,bnd->btn", q, x),
}


def pooled(scores: Scores, weights: Callable[[Tensor], Tensor], bias: bool = True) -> nn.Module:
    """Learned queries that look at what a norm makes, and a map of the mean of what they find."""

    def forward(s: Any, x: Tensor) -> Tensor:
        normed: Tensor = s.n(x)
        found: Tensor = s.o((weights(scores(s.q, normed)) @ normed).mean(1))
        return found

    torch.manual_seed(0)
    return spread(Net(forward, n=nn.LayerNorm(6), q=torch.randn(3, 6), o=nn.Linear(6, 4, bias=bias)))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", SCORES)
def test_queries_and_what_reads_the_mean_lean(name: str, bias: bool) -> None:
    """One direction of each query, and of each row of the map behind, is that in which nothing varies."""
    model, inputs = pooled(SCORES[name], lambda y: (0.4 * y).softmax(-1), bias), (torch.randn(5, 7, 6),)
    symmetry = symgraph.infer(model, inputs)
    counted = symgraph.audit(model, symmetry=symmetry)
    assert counted.complete, str(counted)
    assert symmetry.dimension().number == counted.measured
    assert error(model, inputs, symmetry) < 1e-9


def test_weights_that_do_not_sum_to_one_leave_the_plane() -> None:
    model, inputs = pooled(matrix_first, torch.relu), (torch.randn(5, 7, 6),)
    symmetry = symgraph.infer(model, inputs)
    counted = symgraph.audit(model, symmetry=symmetry)
    assert not counted.unsound and counted.inferred <= counted.measured
    assert error(model, inputs, symmetry) < 1e-9


def test_what_is_added_to_a_mean_of_normed_values_leaves_their_plane() -> None:
    """Queries that are added behind attention, as in MViT: a constant goes through both, and the plane does not."""

    def forward(s: Any, x: Tensor) -> Tensor:
        queries, keys, values = s.q(s.a(x)), s.b(x), s.n(s.c(x))
        found: Tensor = s.o((queries @ keys.transpose(-1, -2)).softmax(-1) @ values + queries)
        return found

    torch.manual_seed(0)
    maps = {name: nn.Linear(5, 6) for name in "abc"}
    model = spread(Net(forward, **maps, q=nn.LayerNorm(6), n=nn.LayerNorm(6), o=nn.Linear(6, 4)))
    inputs = (torch.randn(3, 7, 5),)
    symmetry = symgraph.infer(model, inputs)
    assert not symgraph.audit(model, symmetry=symmetry).unsound
    assert error(model, inputs, symmetry) < 1e-9
