"""Gates, activations, indexing and masks: covered by rules, with the classes that they have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from operator_nets import Case, groups, solved, weight
from torch import Tensor, nn
from torch.nn import Linear

DIGITS = torch.tensor([[0, 3, 1], [4, 2, 2]])
MASK = torch.tensor([[True, False, True, True, False], [False, True, False, True, True]])
PLAIN: dict[str, Any] = {"embed": lambda: Linear(5, 8), "head": lambda: Linear(8, 3)}
SEQUENCE = (2, 5, 5)
CASES: dict[str, Case] = {
    "gated-unit": (
        lambda s, x: s.head(F.glu(s.embed(x))),
        {**PLAIN, "head": lambda: Linear(4, 3)},
        ((4, 5),),
        "hidden: monomial",
    ),
    "squared-relu": (lambda s, x: s.head(F.relu(s.embed(x)).square()), PLAIN, ((4, 5),), "hidden: positive monomial"),
    "slopes-of-channels": (
        lambda s, x: s.head(s.act(s.embed(x))),
        {**PLAIN, "act": lambda: nn.PReLU(8)},
        ((4, 5),),
        "hidden: positive monomial",
    ),
    "one-slope": (
        lambda s, x: s.head(s.act(s.embed(x))),
        {**PLAIN, "act": lambda: nn.PReLU()},
        ((4, 5),),
        "hidden: positive monomial",
    ),
    "rows-by-position": (
        lambda s, x, i: s.head(torch.gather(F.relu(s.embed(x)), 1, i[..., None].expand(-1, -1, 8))),
        PLAIN,
        (SEQUENCE, DIGITS),
        "hidden: positive monomial",
    ),
    "index-select": (
        lambda s, x, i: s.head(F.relu(s.embed(x)).index_select(1, i[0])),
        PLAIN,
        (SEQUENCE, DIGITS),
        "hidden: positive monomial",
    ),
    "take-along": (
        lambda s, x, i: s.head(torch.take_along_dim(F.relu(s.embed(x)), i[..., None], 1)),
        PLAIN,
        (SEQUENCE, DIGITS),
        "hidden: permutation",
    ),
    "largest-of-positions": (
        lambda s, x: s.head(F.relu(s.embed(x)).topk(2, 1)[0].mean(1)),
        PLAIN,
        (SEQUENCE,),
        "hidden: positive monomial",
    ),
    "sorted-positions": (lambda s, x: s.head(s.embed(x).sort(1)[0]), PLAIN, (SEQUENCE,), "hidden: positive monomial"),
    "largest-position": (
        lambda s, x: s.head(F.relu(s.embed(x)).max(1).values),
        PLAIN,
        (SEQUENCE,),
        "hidden: positive monomial",
    ),
    "fourier-over-positions": (
        lambda s, x: s.head(F.layer_norm(torch.fft.fft(s.embed(x), dim=1).real, (8,))),
        PLAIN,
        (SEQUENCE,),
        "hidden: orthogonal fixing ones",
    ),
    "running-sums": (lambda s, x: s.head(s.embed(x).cumsum(1)), PLAIN, (SEQUENCE,), "hidden: invertible"),
    "backwards": (lambda s, x: s.head(F.relu(s.embed(x)).flip(1)), PLAIN, (SEQUENCE,), "hidden: positive monomial"),
    "windows-of-positions": (
        lambda s, x: s.head(F.relu(s.embed(x)).unfold(1, 2, 1).mean(-1)),
        PLAIN,
        (SEQUENCE,),
        "hidden: positive monomial",
    ),
    "copies-of-units": (
        lambda s, x: s.head(F.relu(s.embed(x)).repeat_interleave(2, -1)),
        {**PLAIN, "head": lambda: Linear(16, 3)},
        (SEQUENCE,),
        "hidden: positive monomial, head.units: orthogonal fixing ones",
    ),
    "bags": (
        lambda s, i: s.head(s.bag(i)),
        {"bag": lambda: nn.EmbeddingBag(5, 8), "head": lambda: Linear(8, 3)},
        (DIGITS,),
        "hidden: invertible",
    ),
    "bags-by-maximum": (
        lambda s, i: s.head(s.bag(i)),
        {"bag": lambda: nn.EmbeddingBag(5, 8, mode="max"), "head": lambda: Linear(8, 3)},
        (DIGITS,),
        "hidden: positive monomial",
    ),
    "a-learned-row-for-masked-ones": (
        lambda s, x, m: s.head(F.rms_norm(torch.where(m[..., None], s.token, s.embed(x)), (8,))),
        {**PLAIN, "token": lambda: weight(8)},
        (SEQUENCE, MASK),
        "hidden: orthogonal",
    ),
    "rows-cleared": (
        lambda s, x, m: s.head(F.rms_norm(s.embed(x).masked_fill(m[..., None], 0.0), (8,))),
        PLAIN,
        (SEQUENCE, MASK),
        "hidden: orthogonal",
    ),
    "rows-filled": (
        lambda s, x, m: s.head(F.relu(s.embed(x).masked_fill(m[..., None], -1.0))),
        PLAIN,
        (SEQUENCE, MASK),
        "hidden: permutation",
    ),
    "sums-by-position": (
        lambda s, x, i: s.head(
            torch.zeros(2, 6, 8).scatter_add(1, i[..., None].expand(-1, -1, 8), F.relu(s.embed(x[:, :3])))
        ),
        PLAIN,
        (SEQUENCE, DIGITS),
        "hidden: positive monomial",
    ),
    "clipped-by-a-tensor": (
        lambda s, x: s.head(torch.clamp(s.embed(x), max=s.top)),
        {**PLAIN, "top": lambda: weight(8)},
        ((4, 5),),
        "hidden: positive monomial",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str) -> None:
    symmetry = solved(CASES[name])
    assert symmetry.uncovered == ()
    assert groups(symmetry) == CASES[name][3]


ACTIVATIONS = [
    "relu",
    "gelu",
    "silu",
    "sigmoid",
    "tanh",
    "elu",
    "softplus",
    "mish",
    "hardswish",
    "relu6",
    "leaky_relu",
    "selu",
    "celu",
    "softsign",
    "hardtanh",
    "hardsigmoid",
    "logsigmoid",
    "tanhshrink",
    "softshrink",
    "hardshrink",
    "rrelu",
]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gated_layer_of_every_activation(name: str) -> None:
    """The gate keeps permutations, and the other branch a scale and a sign of its own."""
    act = getattr(F, name)

    def gated(s: Any, x: Tensor) -> Tensor:
        x = s.embed(x)
        result: Tensor = s.head(F.rms_norm(x + s.down(act(s.gate(x)) * s.up(x)), (8,)))
        return result

    parts = {"gate": lambda: Linear(8, 6), "up": lambda: Linear(8, 6), "down": lambda: Linear(6, 8)}
    symmetry = solved((gated, {**PLAIN, **parts}, ((4, 5),), ""))
    assert symmetry.uncovered == ()
    assert groups(symmetry) == "residual: orthogonal, hidden: monomial"


def test_an_operator_counts_as_covered_where_a_rule_applies_to_the_call() -> None:
    """Rules about baddbmm speak of beta one alone; another beta is taken apart."""

    def scaled(s: Any, x: Tensor) -> Tensor:
        return torch.baddbmm(s.bias, s.embed(x), s.weight, beta=0.5)

    parts = {**PLAIN, "bias": lambda: weight(2, 1, 4), "weight": lambda: weight(2, 8, 4)}
    symmetry = solved((scaled, parts, (SEQUENCE,), ""))
    assert symmetry.uncovered == ()
    assert groups(symmetry) == "hidden: invertible"
