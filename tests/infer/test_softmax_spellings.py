"""Softmax in any spelling: what it does not see of what writes it, and what readers of its weights make up for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph import audit
from symgraph.inference.measured_laws import measured

READ, UNITS, WRITTEN = 7, 5, 9
# What a map writes into softmax has a mean that nothing sees, for each entry that it reads and in its bias.
UNSEEN = READ + 1
Function = Callable[[Tensor], Tensor]


def over_sum(e: Tensor, dim: int = -1) -> Tensor:
    return e / e.sum(dim, keepdim=True)


Reader = Callable[[Any, Tensor], Tensor]


def net(function: Reader) -> nn.Module:
    torch.manual_seed(0)
    maps = {"a": (READ, UNITS), "d": (READ, UNITS), "b": (UNITS, WRITTEN), "k": (WRITTEN, 11)}
    of_heads = {"g": (READ, 6), "h": (6, WRITTEN), "e": (4 * UNITS, WRITTEN), "c": (3, WRITTEN)}
    return spread(Net(function, **{name: nn.Linear(*sizes) for name, sizes in (maps | of_heads).items()}))


def between(function: Function) -> nn.Module:
    return net(lambda s, x: s.b(function(s.a(x))))


def inputs() -> tuple[Tensor, ...]:
    return (torch.randn(3, 4, READ, generator=torch.Generator().manual_seed(0)),)


def found(model: nn.Module) -> tuple[int, int]:
    """How many dimensions are inferred and measured, of a model that its own symmetries leave as it is."""
    assert error(model, inputs()) < 1e-9
    result = audit(model, *inputs())
    assert not result.unsound
    return result.inferred, result.measured


SOFTMAXES: dict[str, Function] = {
    "softmax": lambda x: x.softmax(-1),
    "exponentials over their sum": lambda x: over_sum(x.exp()),
    "less the largest": lambda x: over_sum((x - x.amax(-1, keepdim=True)).exp()),
    "less the largest and its place": lambda x: over_sum((x - x.max(-1, keepdim=True).values).exp()),
    "less logsumexp": lambda x: (x - torch.logsumexp(x, -1, keepdim=True)).exp(),
    "log_softmax": lambda x: F.log_softmax(x, -1).exp(),
    "of base two": lambda x: 2**x / (2**x).sum(-1, keepdim=True),
    "exp2": lambda x: over_sum(torch.exp2(x)),
    "times one over": lambda x: x.exp() * (1 / x.exp().sum(-1, keepdim=True)),
    "einsum": lambda x: x.exp() / torch.einsum("...i->...", x.exp())[..., None],
    "at a temperature": lambda x: over_sum((x / 0.7).exp()),
    "less the mean": lambda x: over_sum((x - x.mean(-1, keepdim=True)).exp()),
}


@pytest.mark.parametrize("spelling", SOFTMAXES)
def test_what_softmax_does_not_see_and_what_its_weights_make_up_for(spelling: str) -> None:
    assert found(between(SOFTMAXES[spelling])) == (UNSEEN + WRITTEN,) * 2


BLIND: dict[str, Function] = {
    "less logsumexp": lambda x: x - torch.logsumexp(x, -1, keepdim=True),
    "logarithm of the quotient": lambda x: over_sum(x.exp()).log(),
    "less the logarithm of the sum": lambda x: x - x.exp().sum(-1, keepdim=True).log(),
    "exponentials over their length": lambda x: x.exp() / x.exp().norm(dim=-1, keepdim=True),
    "exponentials over another power": lambda x: x.exp() / (2 * x).exp().sum(-1, keepdim=True).sqrt(),
    "of the least and the largest": lambda x: (
        (x - x.amin(-1, keepdim=True)) / (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True) + 1e-5)
    ),
}


@pytest.mark.parametrize("spelling", BLIND)
def test_what_a_constant_in_all_entries_leaves_as_it_is(spelling: str) -> None:
    assert found(between(BLIND[spelling])) == (UNSEEN,) * 2


SEEING: dict[str, Function] = {
    "a number beside the sum": lambda x: x.exp() / (x.exp().sum(-1, keepdim=True) + 1e-3),
    "a small number beside the sum": lambda x: x.exp() / (x.exp().sum(-1, keepdim=True) + 1e-20),
    "a sum that is bounded": lambda x: x.exp() / x.exp().sum(-1, keepdim=True).clamp_min(1e-12),
    "exponents that are bounded": lambda x: over_sum(x.clamp(-50, 50).exp()),
    "exponents with large bounds": lambda x: over_sum(x.clamp(max=700).exp()),
    "exponentials that are read besides": lambda x: over_sum(x.exp()) + x.exp(),
    "an entry that is always there": lambda x: x.exp() / (1 + x.exp().sum(-1, keepdim=True)),
    "half of it": lambda x: x - torch.logsumexp(x, -1, keepdim=True) / 2,
    "another sum": lambda x: x.exp() / (2 * x).exp().sum(-1, keepdim=True),
    "exponentials of squares": lambda x: over_sum((x**2).exp()),
}


@pytest.mark.parametrize("spelling", SEEING)
def test_what_sees_a_constant_is_not_taken_for_softmax(spelling: str) -> None:
    model = between(SEEING[spelling])
    assert error(model, inputs()) < 1e-9
    assert audit(model, *inputs()).inferred <= 1


def test_a_norm_of_softmax_keeps_its_rotations() -> None:
    assert found(between(lambda x: F.layer_norm(over_sum(x.exp()), (UNITS,)))) == (UNSEEN + WRITTEN,) * 2


def weights(x: Tensor) -> Tensor:
    return x.softmax(-1)


# What reads weights that sum to one, with how much is found of what there is.
READERS: dict[str, tuple[Reader, tuple[int, int]]] = {
    "scaled": (lambda s, x: s.b(-2 * weights(s.a(x))), (17, 17)),
    "averaged": (lambda s, x: s.b(weights(s.a(x)).mean(1)), (17, 17)),
    "summed up": (lambda s, x: s.b(weights(s.a(x)).cumsum(1)), (8, 8)),
    "among zeros": (lambda s, x: s.b(F.pad(weights(s.a(x)), (0, 0, 1, 1))), (8, 8)),
    "under a mask": (lambda s, x: s.b(weights(s.a(x)) * (x[..., :1] > 0)), (8, 8)),
    "beside other values": (lambda s, x: s.b(weights(s.a(x))) + s.b(s.a(x)), (0, 2)),
    "two by one map": (lambda s, x: s.b(weights(s.a(x))) + s.b(weights(s.d(x))), (25, 25)),
    "at two scales": (lambda s, x: s.b(weights(s.a(x))) + s.b(2 * weights(s.d(x))), (16, 25)),
    "a part of them": (lambda s, x: s.c(weights(s.a(x))[..., :3]), (0, 8)),
    "several rows as one": (lambda s, x: s.e(weights(s.a(x)).flatten(1)), (8, 44)),
    "heads": (lambda s, x: s.h(weights(s.g(x).view(3, 4, 2, 3)).flatten(2)), (16, 34)),
    "positions of heads": (lambda s, x: s.h(s.g(x).view(3, 4, 2, 3).softmax(-2).flatten(2)), (24, 51)),
    "one after another": (lambda s, x: s.k(weights(s.b(weights(s.a(x))))), (33, 33)),
}


@pytest.mark.parametrize("way", READERS)
def test_what_reads_weights_that_sum_to_one(way: str) -> None:
    function, dimensions = READERS[way]
    assert found(net(function)) == dimensions


def test_weights_beyond_all_numbers_are_no_evidence() -> None:
    laws = measured(lambda x: over_sum(x.exp(), 1), (12, 5), 1)
    assert laws.blind
    assert laws.sums
