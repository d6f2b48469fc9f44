"""Matrices that are read part by part: constants on their way through slices of one projection."""

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

Bias = Callable[[Any], list[Tensor]]
WIDTH, HEADS, TOKENS = 4, 2, 3


def attention(bias: Bias, *, norm: bool, order: str = "qkv", key: Tensor | tuple[Tensor, bool] | None = None) -> Net:
    """A block with one projection for queries, keys and values, whose bias is made of pieces."""

    def forward(s: Any, x: Tensor) -> Tensor:
        x = s.i(x)
        fused = F.linear(s.n(x), s.w, torch.cat(bias(s))).chunk(3, -1)
        parts = dict(zip(order, fused, strict=True))
        q, k, v = (parts[c].view(-1, TOKENS, HEADS, WIDTH // HEADS).transpose(1, 2) for c in "qkv")
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, TOKENS, WIDTH)
        out: Tensor = s.h(s.m(x + s.o(mixed)) if norm else s.o(mixed))
        return out

    layer = (lambda: nn.LayerNorm(WIDTH)) if norm else nn.Identity
    pieces = {"q": torch.randn(WIDTH), "v": torch.randn(WIDTH), **({} if key is None else {"k": key})}
    return Net(
        forward,
        i=nn.Linear(5, WIDTH),
        n=layer(),
        w=torch.randn(3 * WIDTH, WIDTH),
        o=nn.Linear(WIDTH, WIDTH),
        m=layer(),
        h=nn.Linear(WIDTH, 5),
        **pieces,
    )


BIASES: dict[str, Callable[[], Net]] = {
    "three parameters": lambda: attention(lambda s: [s.q, s.k, s.v], norm=False, key=torch.randn(WIDTH)),
    "a transient buffer of zeros": lambda: attention(
        lambda s: [s.q, s.k, s.v], norm=True, key=(torch.zeros(WIDTH), False)
    ),
    "the buffer first": lambda: attention(
        lambda s: [s.k, s.v, s.q], norm=False, order="kvq", key=(torch.zeros(WIDTH), False)
    ),
    "zeros last": lambda: attention(lambda s: [s.v, s.q, torch.zeros_like(s.v)], norm=True, order="vqk"),
}


@pytest.mark.parametrize("name", BIASES)
def test_constants_go_into_the_pieces_of_a_bias(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = spread(BIASES[name]()), (torch.randn(4, TOKENS, 5),)
    symmetry = infer(trace(model, inputs))
    counted = audit(model, symmetry=symmetry)
    assert counted.inferred == counted.measured
    assert error(model, inputs, symmetry) < 1e-9


def test_a_norm_before_a_projection_in_parts_has_no_mean() -> None:
    symmetry = infer(trace(BIASES["a transient buffer of zeros"](), (torch.randn(4, TOKENS, 5),)))
    assert "w" in {p.parameter for c in symmetry.centred if not c.written for p in c.pieces}
    moved = {c.source.piece.parameter: c for c in symmetry.constants}
    assert {s.port.piece.parameter for s in moved["n.bias"].shares} >= {"q", "v"}


def test_a_part_read_elsewhere_keeps_its_mean() -> None:
    """A matrix whose other half reads the stream itself may not be changed along the mean."""

    def forward(s: Any, x: Tensor) -> Tensor:
        x = s.i(x)
        return torch.cat([s.n(x) @ s.w[:, :3], x @ s.w[:, 3:]], -1)

    model = spread(Net(forward, i=nn.Linear(5, WIDTH), n=nn.LayerNorm(WIDTH), w=torch.randn(WIDTH, 6)))
    inputs = (torch.randn(9, 5),)
    symmetry = infer(trace(model, inputs))
    assert not symmetry.centred and not symmetry.leans
    assert error(model, inputs, symmetry) < 1e-9


def test_a_constant_goes_through_both_parts_of_a_matrix() -> None:
    """Rows that are read transposed, one part with a bias and one through a norm that ends the constant."""

    def forward(s: Any, x: Tensor) -> Tensor:
        x = s.i(x)
        ended = F.softmax(s.t(x) @ s.w[:, 3:], -2)
        out: Tensor = s.h(torch.cat([torch.tanh(x @ s.w[:, :3] + s.b), ended], -1))
        return out

    model = spread(
        Net(
            forward,
            i=nn.Linear(5, WIDTH),
            t=nn.Identity(),
            w=torch.randn(WIDTH, 6),
            b=torch.randn(3),
            h=nn.Linear(6, 4),
        )
    )
    inputs = (torch.randn(2, 6, 5),)
    symmetry = infer(trace(model, inputs))
    assert "i.bias" in {c.source.piece.parameter for c in symmetry.constants}
    counted = audit(model, symmetry=symmetry)
    assert counted.inferred == counted.measured
    assert error(model, inputs, symmetry) < 1e-9
