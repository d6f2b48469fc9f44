"""The modulus of what one axis holds in parts, however it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph import audit, infer
from symgraph.tracing import trace

Length = Callable[[Tensor], Tensor]


def halves(y: Tensor) -> tuple[Tensor, ...]:
    return y.chunk(2, 1)


def by_selection(y: Tensor) -> Tensor:
    pairs = y.view(-1, 4, 2, y.shape[-1])
    return torch.sqrt(pairs[:, :, 0] * pairs[:, :, 0] + pairs[:, :, 1].square())


def squares(y: Tensor) -> Tensor:
    return y[:, :4] ** 2 + y[:, 4:] ** 2


def net(length: Length, channels: int = 8, parts: int = 2) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Tensor:
        out: Tensor = s.o(s.c(length(s.a(x))).relu().mean(-1))
        return out

    torch.manual_seed(0)
    read = nn.Conv1d(1, channels, 6, stride=3, bias=False)
    return spread(Net(forward, a=read, c=nn.Conv1d(channels // parts, 5, 3, padding=1), o=nn.Linear(5, 2)))


# Rotations of four pairs, and their scales, where the length is seen as it is.
LENGTHS: dict[str, tuple[Length, int]] = {
    "a root of squares": (lambda y: squares(y).sqrt(), 13),
    "hypot": (lambda y: torch.hypot(*halves(y)), 13),
    "modulus of a complex number": (lambda y: torch.complex(*halves(y)).abs(), 13),
    "in turns": (lambda y: (y[:, ::2] ** 2 + y[:, 1::2] ** 2) ** 0.5, 13),
    "a norm of a stack": (lambda y: torch.stack(halves(y), -1).norm(dim=-1), 13),
    "viewed as complex": (lambda y: torch.view_as_complex(torch.stack(halves(y), -1).contiguous()).abs(), 13),
    "a sum over an axis": (lambda y: y.view(-1, 4, 2, y.shape[-1]).pow(2).sum(2).sqrt(), 13),
    "by selection": (by_selection, 13),
    "its square": (squares, 13),
    "beside an epsilon": (lambda y: torch.sqrt(squares(y) + 1e-3), 9),
    "a logarithm": (lambda y: torch.log1p(squares(y)), 9),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_the_parts_turn_together(name: str) -> None:
    length, wanted = LENGTHS[name]
    model, inputs = net(length), (torch.randn(3, 1, 24),)
    symmetry = infer(trace(model, inputs))
    counted = audit(model, symmetry=symmetry)
    assert counted.inferred == counted.measured == wanted
    assert error(model, inputs, symmetry) < 1e-9


NOT: dict[str, Length] = {
    "weighted": lambda y: (y[:, :4] ** 2 + 2.0 * y[:, 4:] ** 2).sqrt(),
    "the larger one": lambda y: torch.maximum(y[:, :4].abs(), y[:, 4:].abs()),
    "cut off": lambda y: (y[:, :4] ** 2 + y[:, 4:].clamp(max=50.0) ** 2).sqrt(),
    "one turned around": lambda y: (y[:, :4] ** 2 + y[:, 4:].flip(1) ** 2).sqrt(),
}


@pytest.mark.parametrize("name", NOT)
def test_what_sees_more_than_the_length_does_not_turn(name: str) -> None:
    model, inputs = net(NOT[name]), (torch.randn(3, 1, 24),)
    symmetry = infer(trace(model, inputs))
    assert "orthogonal" not in {str(s.group) for s in symmetry.active}
    assert error(model, inputs, symmetry) < 1e-9


def test_parts_of_a_part_of_an_axis() -> None:
    """Two parts of four channels are a modulus, and two more channels are themselves."""
    model = net(lambda y: torch.cat([torch.hypot(y[:, :4], y[:, 4:8]), y[:, 8:].relu()], 1), 10, 2)
    model.c = nn.Conv1d(6, 5, 3, padding=1)
    inputs = (torch.randn(3, 1, 24),)
    symmetry = infer(trace(spread(model), inputs))
    assert sorted((s.size, str(s.group)) for s in symmetry.active if s.size < 5) == [
        (2, "orthogonal"),
        (2, "positive monomial"),
        (4, "positive monomial"),
    ]
    assert error(model, inputs, symmetry) < 1e-9


def test_a_call_of_several_results_is_no_map_of_rows() -> None:
    """A bag of embeddings returns where its bags begin as well."""
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(7, 6, mode="mean")
    model, inputs = spread(Net(lambda s, t: s.o(s.e(t)), e=bag, o=nn.Linear(6, 3))), (torch.randint(0, 7, (2, 5)),)
    symmetry = infer(trace(model, inputs))
    assert [(s.size, str(s.group)) for s in symmetry.active] == [(6, "invertible")]
    assert error(model, inputs, symmetry) < 1e-9
