"""Inner products that are written as products and sums: what is done to one side can be undone in the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph import audit, infer
from symgraph.tracing import trace

Forward = Callable[[Any, Tensor], Tensor]


def two_vectors(s: Any, x: Tensor) -> Tensor:
    """A number that is the inner product of two parameters (the lambda of a DIFF transformer)."""
    out: Tensor = (s.a * s.b).sum(-1).exp() * x.sin()
    return out


def scores(s: Any, x: Tensor) -> Tensor:
    """Each query with each key, spread over each other."""
    q, k = s.q(x)[:, :, None], s.k(x)[:, None]
    out: Tensor = (q * k).sum(-1).softmax(-1) @ x
    return out


def by_heads(s: Any, x: Tensor) -> Tensor:
    """How well each head of what a map makes fits a vector of its own (GAT)."""
    fit = (s.q(x).unflatten(-1, (2, 4)) * s.a.view(2, 4)).sum(-1, keepdim=True)
    out: Tensor = fit.tanh()
    return out


def nearest(s: Any, x: Tensor) -> Tensor:
    """The entry of a codebook that lies nearest to what a map makes, read by another map (VQ-VAE)."""
    z = s.q(x)
    apart = z.pow(2).sum(-1, keepdim=True) + (s.codes**2).sum(1) - 2 * z @ s.codes.T
    out: Tensor = s.o((-apart).softmax(-1) @ s.codes)
    return out


CASES: dict[str, tuple[Forward, dict[str, Any], list[tuple[str, int]]]] = {
    "two vectors": (two_vectors, {"a": torch.randn(4), "b": torch.randn(4)}, [("invertible", 4)]),
    "scores": (scores, {"q": nn.Linear(5, 3), "k": nn.Linear(5, 3)}, [("invertible", 3)]),
    "by heads": (by_heads, {"q": nn.Linear(3, 8), "a": torch.randn(8)}, [("invertible", 4)]),
}


def test_distances_written_out_see_lengths_and_products() -> None:
    torch.manual_seed(0)
    parts = {"q": nn.Linear(3, 4, bias=False), "codes": torch.randn(7, 4), "o": nn.Linear(4, 5, bias=False)}
    model, inputs = spread(Net(nearest, **parts)), (torch.randn(3, 6, 3),)
    found = infer(trace(model, inputs))
    # The entries of the codebook may be put into another order besides.
    assert [(str(space.group), space.size) for space in found.active] == [("permutation", 7), ("orthogonal", 4)]
    assert error(model, inputs, found) < 1e-9


@pytest.mark.parametrize("name", CASES)
def test_both_sides_have_one_space(name: str) -> None:
    torch.manual_seed(0)
    f, parts, expected = CASES[name]
    model, inputs = spread(Net(f, **parts)), (torch.randn(3, 4, 3 if name == "by heads" else 5),)
    found = infer(trace(model, inputs))
    assert [(str(space.group), space.size) for space in found.active if space.is_matrix] == expected
    assert error(model, inputs, found) < 1e-9
    counted = audit(model, inputs, symmetry=found)
    assert counted.complete, str(counted)


def test_scales_of_other_axes_pass() -> None:
    """Each channel is weighted by a mask of its own: its scale comes out as it went in."""
    torch.manual_seed(0)
    parts = {"c": nn.Conv1d(3, 4, 1), "m": nn.Conv1d(3, 4, 1), "o": nn.Linear(4, 3)}
    model = spread(Net(lambda s, x: s.o((s.c(x) * s.m(x)).sum(-1).relu()), **parts))
    inputs = (torch.randn(6, 3, 5),)
    found = infer(trace(model, inputs))
    assert [str(space.group) for space in found.active if space.size == 4] == ["monomial"]
    assert audit(model, inputs, symmetry=found).complete
    assert error(model, inputs, found) < 1e-9
