"""Norms over several pieces of one stream side by side, as where Swin merges its patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn
from torch.nn import functional as F

from symgraph import audit, infer
from symgraph.tracing import trace

Merge = Callable[[Tensor], Tensor]
WIDTH = 4


def merging(merge: Merge, norm: Callable[[int], nn.Module], parts: int, *, bias: bool = False) -> nn.Module:
    """A stream with one block, of which several tokens are put side by side, normed and mapped."""

    def forward(s: Any, x: Tensor) -> Tensor:
        x = s.i(x)
        x = x + s.d(F.gelu(s.u(s.n(x))))
        out: Tensor = s.r(s.m(merge(x)))
        return out

    norms = {"n": norm(WIDTH), "m": norm(parts * WIDTH)}
    readers = {"i": nn.Linear(7, WIDTH), "u": nn.Linear(WIDTH, 5), "r": nn.Linear(parts * WIDTH, 3, bias=bias)}
    return spread(Net(forward, d=nn.Linear(5, WIDTH), **norms, **readers))


MERGES: dict[str, tuple[Merge, int]] = {
    "two neighbours": (lambda x: torch.cat([x[:, 0::2], x[:, 1::2]], -1), 2),
    "by a view": (lambda x: x.reshape(x.shape[0], 2, 2 * WIDTH), 2),
    "by a stack": (lambda x: torch.stack([x[:, 2:], x[:, :2]], 2).flatten(2), 2),
    "patches of a picture": (
        lambda x: x.view(-1, 1, 2, 1, 2, WIDTH).permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2),
        4,
    ),
    "four in another order": (lambda x: torch.cat([x[:, 1:2], x[:, :1], x[:, 3:], x[:, 2:3]], 2), 4),
}


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("norm", [nn.LayerNorm, lambda n: nn.RMSNorm(n, eps=1e-6)], ids=["layer", "rms"])
def test_a_norm_over_pieces_of_one_stream(name: str, norm: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(0)
    merge, parts = MERGES[name]
    model, inputs = merging(merge, norm, parts), (torch.randn(3, 4, 7),)
    symmetry = infer(trace(model, inputs))
    wanted = "orthogonal fixing ones" if norm is nn.LayerNorm else "orthogonal"
    assert [str(s.group) for s in symmetry.active if s.size == WIDTH] == [wanted]
    counted = audit(model, symmetry=symmetry)
    assert counted.inferred == counted.measured
    assert error(model, inputs, symmetry) < 1e-9


def test_the_gain_of_such_a_norm_is_taken_out_by_parts() -> None:
    torch.manual_seed(0)
    merge, parts = MERGES["two neighbours"]
    model, inputs = merging(merge, nn.LayerNorm, parts, bias=True), (torch.randn(3, 4, 7),)
    symmetry = infer(trace(model, inputs))
    sites = symmetry.gain_sites["m.weight"]
    assert sorted({s.start for s in sites}) == [0, WIDTH]
    assert error(model, inputs, symmetry) < 1e-9


@pytest.mark.parametrize("sides", [(0, 3), (3, 0), (2, 4)], ids=["behind", "before", "on both sides"])
@pytest.mark.parametrize("norm", [nn.LayerNorm, lambda n: nn.RMSNorm(n, eps=1e-6)], ids=["layer", "rms"])
def test_the_parts_may_stand_apart(sides: tuple[int, int], norm: Callable[[int], nn.Module]) -> None:
    """Zeros around a stream are one part, whose gains stand on both sides of those of the stream."""
    torch.manual_seed(0)
    width = WIDTH + sum(sides)
    readers = {"i": nn.Linear(7, WIDTH), "n": norm(width), "r": nn.Linear(width, 3)}
    model = spread(Net(lambda s, x: s.r(s.n(F.pad(s.i(x), sides))), **readers))
    inputs = (torch.randn(3, 4, 7),)
    symmetry = infer(trace(model, inputs))
    assert sorted(symmetry.frame(s.frame).space >= 0 for s in symmetry.gain_sites["n.weight"]) == [True, True]
    assert error(model, inputs, symmetry) < 1e-9
