"""Regions are known by what they compute: rotary products, norms and attention in many spellings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, error, spread
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from symgraph import infer
from symgraph.groups.lattice import SymmetryClass as C
from symgraph.inference.commutant import turns
from symgraph.inference.measured_laws import measured
from symgraph.prove.audit import audit
from symgraph.prove.verify import verify
from symgraph.tracing import trace
from symgraph.tracing.arguments import operator
from symgraph.tracing.einsum import product_of

POSITIONS, HEADS, INSIDE = 4, 2, 6
HALF = INSIDE // 2


def angles() -> Tensor:
    return torch.outer(torch.arange(POSITIONS).float(), 1 / (100 ** (torch.arange(0, INSIDE, 2).float() / INSIDE)))


def turned(x: Tensor) -> Tensor:
    return torch.cat([-x[..., HALF:], x[..., :HALF]], -1)


def pairs(x: Tensor, c: Tensor, n: Tensor) -> Tensor:
    y = x.reshape(*x.shape[:-1], -1, 2)
    return torch.stack([y[..., 0] * c - y[..., 1] * n, y[..., 1] * c + y[..., 0] * n], -1).flatten(-2)


def matrices(s: Any) -> Tensor:
    m = torch.zeros(POSITIONS, INSIDE, INSIDE)
    for i in range(HALF):
        m[:, i, i], m[:, i, i + HALF] = s.c[:, i], -s.n[:, i]
        m[:, i + HALF, i], m[:, i + HALF, i + HALF] = s.n[:, i], s.c[:, i]
    return m


def rotations(s: Any) -> Tensor:
    """A matrix for each pair at each position."""
    return torch.stack([torch.stack([s.c, -s.n], -1), torch.stack([s.n, s.c], -1)], -2)


def whole(x: Tensor) -> Tensor:
    return torch.cat([x, x], -1)


def reordered(x: Tensor) -> Tensor:
    """Neighbours taken apart: first members in front, second ones behind."""
    return x.reshape(*x.shape[:-1], -1, 2).transpose(-1, -2).reshape(x.shape)


def filled(s: Any, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[..., ::2] = x[..., ::2] * s.c - x[..., 1::2] * s.n
    y[..., 1::2] = x[..., 1::2] * s.c + x[..., ::2] * s.n
    return y


def mirrored(s: Any, x: Tensor) -> Tensor:
    a, b = x[..., :HALF], x[..., HALF:].flip(-1)
    return torch.cat([a * s.c - b * s.n, (b * s.c + a * s.n).flip(-1)], -1)


ROTARY: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "halves turned": lambda s, x: x * whole(s.c) + turned(x) * whole(s.n),
    "halves from whole buffers": lambda s, x: x * s.cc + turned(x) * s.nn,
    "halves apart": lambda s, x: torch.cat(
        [x[..., :HALF] * s.c - x[..., HALF:] * s.n, x[..., HALF:] * s.c + x[..., :HALF] * s.n], -1
    ),
    "pairs": lambda s, x: pairs(x, s.c, s.n),
    "complex": lambda s, x: torch.view_as_real(
        torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.complex(s.c, s.n)
    ).flatten(-2),
    "matrices": lambda s, x: torch.einsum("tij,bhtj->bhti", matrices(s).to(x), x),
    "matrices of pairs": lambda s, x: torch.einsum(
        "tpij,bhtpj->bhtpi", rotations(s), x.reshape(*x.shape[:-1], -1, 2)
    ).flatten(-2),
    "matrices of pairs, spread": lambda s, x: torch.einsum(
        "...ij,...j->...i", rotations(s)[None], x.reshape(*x.shape[:-1], -1, 2)
    ).flatten(-2),
    "rolled": lambda s, x: x * s.cc + torch.roll(x, HALF, -1) * torch.cat([-s.n, s.n], -1),
    "written into memory": filled,
    "pairs to halves": lambda s, x: reordered(x) * s.cc + turned(reordered(x)) * s.nn,
    "mirrored halves": mirrored,
    "the first four alone": lambda s, x: torch.cat([pairs(x[..., :4], s.c[:, :2], s.n[:, :2]), x[..., 4:]], -1),
    "the last four alone": lambda s, x: torch.cat([x[..., :2], pairs(x[..., 2:], s.c[:, :2], s.n[:, :2])], -1),
    "scaled by position": lambda s, x: pairs(x, s.c, s.n) * torch.linspace(0.5, 1, POSITIONS)[:, None],
}


def attending(turn: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Any:
        q, k, v = (f(x).view(2, POSITIONS, HEADS, INSIDE).transpose(1, 2) for f in (s.q, s.k, s.v))
        y = F.scaled_dot_product_attention(turn(s, q), turn(s, k), v)
        return s.o(y.transpose(1, 2).reshape(2, POSITIONS, 12))

    tables = {"c": angles().cos(), "n": angles().sin(), "cc": whole(angles().cos()), "nn": whole(angles().sin())}
    buffers = {k: (v, False) for k, v in tables.items()}
    linear = {k: nn.Linear(12, 12, bias=k in "vo") for k in "qkvo"}
    return spread(Net(forward, **linear, **buffers))


@pytest.mark.parametrize("spelling", ROTARY)
def test_rotary_products(spelling: str) -> None:
    torch.manual_seed(0)
    model, x = attending(ROTARY[spelling]), (torch.randn(2, POSITIONS, 12),)
    found = infer(trace(model, x))
    groups = [s.group for s in found.active if any(p.startswith("q.") for p in found.parameters_of[s.id])]
    assert C.ROTARY in groups
    assert error(model, x, found) < 1e-9


def test_an_axis_that_is_read_in_another_order_elsewhere_stays_as_it_is() -> None:
    ways = [ROTARY["halves turned"], ROTARY["pairs to halves"]] * 20
    model = attending(lambda s, x: ways.pop()(s, x))
    x = (torch.randn(2, POSITIONS, 12),)
    found = infer(trace(model, x))
    assert C.ROTARY not in {s.group for s in found.active}


WIDTH, SMALL = 8, torch.tensor(1e-6)


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def standardised(x: Tensor) -> Tensor:
    variance, middle = torch.var_mean(x, -1, keepdim=True)
    return (x - middle) / (variance + 1e-5).sqrt()


NORMS: dict[str, tuple[C, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "mean of squares less square of mean": (
        C.ORTHOGONAL_ONES,
        lambda x, g, b: (x - mean(x)) * torch.rsqrt(mean(x * x) - mean(x) ** 2 + 1e-5) * g + b,
    ),
    "variance and mean": (
        C.ORTHOGONAL_ONES,
        lambda x, g, b: standardised(x) * g + b,
    ),
    "deviation": (C.ORTHOGONAL_ONES, lambda x, g, b: g * (x - mean(x)) / (x.std(-1, keepdim=True) + 1e-6) + b),
    "gain and bias behind": (C.ORTHOGONAL_ONES, lambda x, g, b: F.layer_norm(x, (WIDTH,)) * g + b),
    "a power": (C.ORTHOGONAL, lambda x, g, b: x * (mean(x * x) + 1e-5) ** -0.5 * g + b),
    "a sum": (C.ORTHOGONAL, lambda x, g, b: g * x / ((x**2).sum(-1, keepdim=True) / WIDTH + 1e-5).sqrt() + b),
    "a maximum": (
        C.ORTHOGONAL,
        lambda x, g, b: x * torch.rsqrt(torch.maximum(mean(x * x), SMALL)) * g + b,
    ),
    "logarithms": (C.ORTHOGONAL, lambda x, g, b: x * torch.exp(-0.5 * torch.log(mean(x * x) + 1e-5)) * g + b),
    "length and gain plus one": (C.ORTHOGONAL, lambda x, g, b: F.normalize(x, dim=-1) * WIDTH**0.5 * (g + 1) + b),
    "shortened alone": (C.ORTHOGONAL, lambda x, g, b: x / x.norm(dim=-1, keepdim=True).clamp_min(1.0) * g + b),
    "largest entry": (C.SIGNED, lambda x, g, b: x / (x.abs().amax(-1, keepdim=True) + 1e-5) * g + b),
    "third powers": (C.SIGNED, lambda x, g, b: x / ((x.abs() ** 3).mean(-1, keepdim=True) + 1e-5) * g + b),
}


def normed(norm: Callable[[Tensor, Tensor, Tensor], Tensor]) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Any:
        x = s.i(x)
        x = x + s.d(F.gelu(s.u(norm(x, s.g, s.b))))
        return s.o(norm(x, s.h, s.c))

    linear = {"i": nn.Linear(9, WIDTH), "u": nn.Linear(WIDTH, 12), "d": nn.Linear(12, WIDTH), "o": nn.Linear(WIDTH, 9)}
    vectors = {k: torch.rand(WIDTH) + 0.5 for k in "ghbc"}
    return spread(Net(forward, **linear, **vectors))


@pytest.mark.parametrize("spelling", NORMS)
def test_norms(spelling: str) -> None:
    torch.manual_seed(0)
    wanted, norm = NORMS[spelling]
    model, x = normed(norm), (torch.randn(3, 4, 9),)
    found = infer(trace(model, x))
    assert [s.group for s in found.active if s.size == WIDTH] == [wanted]
    assert error(model, x, found) < 1e-9


def test_a_length_that_is_spread_over_a_batch_of_one_is_measured() -> None:
    torch.manual_seed(0)
    model = Net(
        lambda s, x: s.o((h := s.i(x)) / h.norm(dim=-1, keepdim=True).expand(h.shape)),
        i=nn.Linear(9, WIDTH),
        o=nn.Linear(WIDTH, 4),
    )
    found = infer(trace(spread(model), (torch.randn(1, 4, 9),)))
    assert [s.group for s in found.active if s.size == WIDTH] == [C.ORTHOGONAL]


def over(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Less its mean over several axes."""
    return x - x.mean(dims, keepdim=True)


SEVERAL: dict[str, tuple[C, Callable[[Any, Tensor], Tensor]]] = {
    "positions of each channel": (C.POSITIVE_MONOMIAL, lambda s, x: over(s.i(x), (2, 3))),
    "positions, divided": (
        C.PERMUTATION,
        lambda s, x: over(y := s.i(x), (2, 3)) / (y.var((2, 3), keepdim=True) + 1e-5).sqrt(),
    ),
    "all that is no batch": (
        C.PERMUTATION,
        lambda s, x: over(y := s.i(x), (1, 2, 3)) * torch.rsqrt(y.var((1, 2, 3), keepdim=True) + 1e-5),
    ),
    "rows of a weight": (C.POSITIVE_MONOMIAL, lambda s, x: F.conv2d(x, over(s.w, (3,)), s.b)),
}


@pytest.mark.parametrize("spelling", SEVERAL)
def test_norms_over_several_axes_or_of_weights_miss_nothing(spelling: str) -> None:
    torch.manual_seed(0)
    wanted, norm = SEVERAL[spelling]
    parts = {"w": torch.randn(5, 3, 2, 2), "b": torch.randn(5)} if "weight" in spelling else {"i": nn.Conv2d(3, 5, 2)}
    model = Net(lambda s, x: s.o(F.relu(norm(s, x)).mean((-1, -2))), o=nn.Linear(5, 2), **parts).eval()
    x = (torch.randn(2, 3, 4, 4),)
    found = infer(trace(model, x))
    assert [s.group for s in found.active if s.size == 5] == [wanted]
    assert error(model, x, found) < 1e-9
    assert audit(found).complete


def test_factors_of_rows_go_through_a_product_with_one_matrix() -> None:
    torch.manual_seed(0)
    parts = {"w": torch.randn(6, 5), "b": torch.randn(6, 2), "a": torch.randn(2, 5), "c": torch.randn(6)}
    model = Net(lambda s, x: s.o(F.relu(F.linear(x, s.w + s.b @ s.a, s.c))), o=nn.Linear(6, 2), **parts).eval()
    x = (torch.randn(4, 5),)
    found = infer(trace(model, x))
    assert [s.group for s in found.active if s.size == 6] == [C.POSITIVE_MONOMIAL]
    assert error(model, x, found) < 1e-9


CUT = torch.zeros(4, 4).triu(1)


def weights(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda q, k, v: f(q @ k.transpose(-2, -1)) @ v


ATTENTION: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], bool, bool]] = {
    "softmax": (weights(lambda s: s.softmax(-1)), True, True),
    "exponentials": (weights(lambda s: s.exp() / s.exp().sum(-1, keepdim=True)), True, True),
    "divided at the end": (lambda q, k, v: (lambda e: (e @ v) / e.sum(-1, keepdim=True))((q @ k.mT).exp()), True, True),
    "masks and views": (weights(lambda s: (s.view(1, 2, 2, 4, 4) + CUT).view(2, 2, 4, 4).softmax(-1)), True, True),
    "filled": (weights(lambda s: s.masked_fill(torch.ones(4, 4).triu(1) > 0, -1e9).softmax(-1)), True, True),
    "not a number cleared": (weights(lambda s: torch.where(s.softmax(-1).isnan(), 0.0, s.softmax(-1))), True, True),
    "transposed": (lambda q, k, v: (k @ q.mT).softmax(-2).mT @ v, True, True),
    "einsum": (
        lambda q, k, v: torch.einsum("bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1), v),
        True,
        True,
    ),
    "capped": (weights(lambda s: s.tanh().softmax(-1)), False, True),
    "sigmoid": (weights(lambda s: s.sigmoid()), False, False),
    "one more key": (weights(lambda s: s.exp() / (1 + s.exp().sum(-1, keepdim=True))), False, False),
}


@pytest.mark.parametrize("spelling", ATTENTION)
def test_attention(spelling: str) -> None:
    torch.manual_seed(0)
    attend, unseen, passed_on = ATTENTION[spelling]

    def forward(s: Any, x: Tensor) -> Any:
        q, k, v = (f(x).view(2, 4, 2, 3).transpose(1, 2) for f in (s.q, s.k, s.v))
        return s.o(attend(q, k, v).transpose(1, 2).reshape(2, 4, 6))

    model = spread(Net(forward, **{k: nn.Linear(6, 6) for k in "qkvo"}))
    x = (torch.randn(2, 4, 6),)
    found = infer(trace(model, x))
    assert error(model, x, found) < 1e-9
    text = str(found)
    assert ("k.bias" in text) == unseen, text
    assert ("v.bias" in text) == passed_on, text


def cleared(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0.0)


def added(scores: Tensor, mask: Tensor) -> Tensor:
    return (scores + mask).softmax(-1).nan_to_num(0.0)


def clamped(scores: Tensor, mask: Tensor) -> Tensor:
    found = scores.exp() * mask
    return found / found.sum(-1, keepdim=True).clamp_min(1e-6)


OPEN = torch.ones(2, 1, 4, 4, dtype=torch.bool)
MASKED = {
    "cleared": (cleared, OPEN),
    "minus infinity added": (added, torch.zeros(2, 1, 4, 4)),
    "clamped": (clamped, OPEN),
}


@pytest.mark.parametrize("spelling", MASKED)
def test_a_row_of_a_mask_that_may_be_closed_passes_nothing_on(spelling: str) -> None:
    torch.manual_seed(0)
    weigh, mask = MASKED[spelling]

    def forward(s: Any, x: Tensor, m: Tensor) -> Any:
        q, k, v = (f(x).view(2, 4, 2, 3).transpose(1, 2) for f in (s.q, s.k, s.v))
        return s.o((weigh(q @ k.mT, m) @ v).transpose(1, 2).reshape(2, 4, 6))

    model = spread(Net(forward, **{k: nn.Linear(6, 6) for k in "qkvo"}))
    closed = mask.clone()
    closed[0, 0, 1] = -torch.inf if mask.is_floating_point() else 0
    found = infer(trace(model, (torch.randn(2, 4, 6), mask)))
    assert error(model, (torch.randn(2, 4, 6), closed), found) < 1e-9
    assert not any("v.bias" in str(constant) for constant in found.constants)


def test_a_norm_that_an_input_switches_off_is_none() -> None:
    def forward(s: Any, x: Tensor, on: Tensor) -> Any:
        y = s.i(x)
        return s.o(torch.where(on, y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5), y.tanh()))

    torch.manual_seed(0)
    model, x = spread(Net(forward, i=nn.Linear(5, 8), o=nn.Linear(8, 3))), torch.randn(4, 5)
    for on in (True, False):
        found = infer(trace(model, (x, torch.tensor(on))))
        assert [s.group for s in found.active] == [C.PERMUTATION]
        assert error(model, (x, torch.tensor(not on)), found) < 1e-9


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**20))
def test_planted_turns_are_found(count: int, still: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = 2 * count + still
    order = torch.randperm(size, generator=generator).tolist()
    family = torch.zeros(5, size, size, dtype=torch.float64)
    planted = set()
    for k in range(count):
        i, j = order[2 * k], order[2 * k + 1]
        a, b = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        family[:, i, i], family[:, j, j], family[:, i, j], family[:, j, i] = a, a, -b, b
        planted.add(frozenset((i, j)))
    for i in order[2 * count :]:
        family[:, i, i] = 1.0
    found = turns(family)
    assert found is not None
    assert {frozenset(p) for p in found.pairs} == planted
    assert set(found.still) == set(order[2 * count :])


def test_what_is_no_turn_is_none() -> None:
    family = torch.randn(5, 4, 4, dtype=torch.float64)
    assert turns(family) is None
    stretched = torch.diag_embed(torch.rand(5, 4, dtype=torch.float64))
    assert turns(stretched) is None


def test_a_law_that_fails_beside_a_number_does_not_hold() -> None:
    def f(x: Tensor) -> Tensor:
        return torch.where(x.norm(dim=-1, keepdim=True) > 30.0, x.sin(), x)

    assert C.ORTHOGONAL not in measured(f, (12, 5), 1, (30.0,)).bound


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("bqhd,bkhd->bhqk", [(2, 4, 3, 5), (2, 6, 3, 5)]),
        ("bpm,hmd->bphd", [(2, 4, 7), (3, 7, 5)]),
        ("bphd,hdm->bpm", [(2, 4, 3, 5), (3, 5, 7)]),
        ("t, f -> t f", [(4,), (5,)]),
        ("...i,oi->...o", [(2, 3, 4), (5, 4)]),
        ("bij,bij->b", [(2, 3, 4), (2, 3, 4)]),
        ("bkd,bqk->bqd", [(2, 3, 4), (2, 5, 3)]),
        ("...ij,...j->...i", [(1, 4, 2, 3), (5, 2, 4, 3)]),
        ("b...d,...d->b...", [(5, 2, 4, 3), (1, 3)]),
        ("bhid,jhd->bhij", [(2, 1, 4, 5), (3, 6, 5)]),
        ("...i->...", [(2, 3, 4)]),
        ("bij->ji", [(2, 3, 4)]),
        ("bij,kj->i", [(2, 3, 4), (5, 4)]),
        ("bij,kl->", [(2, 3, 4), (5, 4)]),
    ],
)
def test_an_einstein_sum_is_a_product(equation: str, shapes: list[tuple[int, ...]]) -> None:
    values = [torch.randn(s, dtype=torch.float64) for s in shapes]
    expected = torch.einsum(equation, *values)
    steps = product_of(equation, shapes)
    assert steps is not None
    for step in steps:
        op: Any = operator(step.target)
        values.append(op(*(values[i] for i in step.operands), *step.args))
        assert tuple(values[-1].shape) == step.shape
    assert torch.allclose(values[-1], expected)


class MaskedBetween(nn.Module):
    """A stream that is multiplied by a mask before and after attention: what lies between is no linear region."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4, bias=False) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = torch.tanh(self.v(x)) * mask
        scores = (self.q(x) @ self.k(x).transpose(-1, -2)).softmax(-1)
        found: Tensor = (x + scores @ self.v(x)) * mask
        return found


def test_a_region_with_attention_in_it_is_not_run() -> None:
    symmetry = infer(trace(MaskedBetween(), (torch.randn(2, 5, 4), torch.ones(2, 5, 1))))
    verify(symmetry).raise_if_failed()
    assert {str(s.group) for s in symmetry.active} >= {"invertible"}
