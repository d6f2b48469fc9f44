"""Operators that once had no rule: what they admit, and that it holds in the user's own module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph import infer
from symgraph.tracing import trace

AT = torch.tensor([0, 2, 1, 2])
SHAPE = (4, 5)


def between(f: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Net(lambda s, x: s.o(f(s.i(x))), i=nn.Linear(5, 6), o=nn.Linear(6, 3))


def of_two(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Net(lambda s, x: s.o(f(s.i(x), s.j(x))), i=nn.Linear(5, 6), j=nn.Linear(5, 6), o=nn.Linear(6, 3))


def over_positions(y: Tensor) -> Tensor:
    return y - y.mean((2, 3), keepdim=True)


def scattered(y: Tensor) -> Tensor:
    return torch.zeros(3, 6).to(y).scatter_add(0, AT[:, None].expand(-1, 6), y)


def padded(s: Any, x: Tensor) -> Any:
    y = F.pad(s.c(x).relu(), (0, 0, 0, 0, 2, 3))
    return s.o((y + s.d(y)).relu().mean((2, 3)))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[tuple[int, str]]]] = {
    "rows added": (
        between(lambda y: torch.zeros(3, 6).to(y).index_add(0, AT, y)),
        SHAPE,
        [(6, "invertible")],
    ),
    "rows scattered": (between(scattered), SHAPE, [(6, "invertible")]),
    "bilinear": (
        lambda: Net(
            lambda s, x: s.o(s.b(s.i(x), s.j(x))),
            i=nn.Linear(5, 6),
            j=nn.Linear(5, 4),
            b=nn.Bilinear(6, 4, 7),
            o=nn.Linear(7, 3),
        ),
        SHAPE,
        [(6, "invertible"), (4, "invertible"), (7, "invertible")],
    ),
    "distances": (
        lambda: Net(lambda s, x: torch.cdist(s.i(x), s.j(x)), i=nn.Linear(5, 6), j=nn.Linear(5, 6)),
        (3, *SHAPE),
        [(6, "orthogonal")],
    ),
    "frequencies": (
        between(lambda y: torch.fft.irfft(torch.fft.rfft(y, dim=1) * 0.5, n=6, dim=1)),
        (2, 6, 5),
        [(6, "invertible")],
    ),
    "a cube": (between(lambda y: y**3), SHAPE, [(6, "monomial")]),
    "a fourth power": (between(lambda y: y**4), SHAPE, [(6, "monomial")]),
    "a hypotenuse": (between(lambda y: torch.hypot(y, y.flip(0))), SHAPE, [(6, "positive monomial")]),
    "a hypotenuse beside a number": (between(lambda y: torch.hypot(y, torch.ones(()))), SHAPE, [(6, "permutation")]),
    "a length of two maps": (of_two(lambda a, b: (a**2 + b**2).sqrt()), SHAPE, [(6, "positive monomial")]),
    "a modulus": (of_two(lambda a, b: torch.complex(a, b).abs()), SHAPE, [(6, "positive monomial")]),
    "no units": (
        lambda: nn.Sequential(nn.Linear(5, 0), nn.ReLU(), nn.Linear(0, 3)),
        SHAPE,
        [(0, "positive monomial")],
    ),
    "no units, behind a curve": (
        lambda: nn.Sequential(nn.Linear(5, 0), nn.GELU(), nn.Linear(0, 3)),
        SHAPE,
        [(0, "permutation")],
    ),
    "a mean of one entry": (
        lambda: Net(
            lambda s, x: s.o(F.relu(over_positions(s.c(x))).flatten(1)), c=nn.Conv2d(3, 4, 1), o=nn.Linear(4, 3)
        ),
        (2, 3, 1, 1),
        [(4, "positive monomial")],
    ),
    "interpolation": (between(lambda y: y.lerp(y.flip(0), 0.3)), SHAPE, [(6, "invertible")]),
    "channels of zeros": (
        lambda: Net(padded, c=nn.Conv2d(3, 4, 1), d=nn.Conv2d(9, 9, 1), o=nn.Linear(9, 3)),
        (2, 3, 5, 5),
        [(4, "positive monomial"), (5, "positive monomial")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_has_a_rule(case: str) -> None:
    torch.manual_seed(0)
    make, shape, wanted = CASES[case]
    model, x = spread(make()), (torch.randn(shape),)
    found = infer(trace(model, x))
    assert not found.uncovered
    assert sorted((s.size, str(s.group)) for s in found.active) == sorted(wanted)
    assert error(model, x, found) < 1e-9


def test_an_empty_batch_is_no_error() -> None:
    net = between(lambda y: y - y.mean(-1, keepdim=True))()
    assert [str(s.group) for s in infer(trace(net, (torch.zeros(0, 5),))).active] == ["orthogonal fixing ones"]
