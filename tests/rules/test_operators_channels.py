"""Convolutions, pooling, norms over channels and resampling: covered by rules, with the classes that they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from operator_nets import Case, groups, solved
from torch import Tensor, nn

Maker = Callable[..., Any]
CONVOLUTIONS: dict[int, Maker] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Maker] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
INSTANCE: dict[int, Maker] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
TWO = "hidden.0: positive monomial, hidden.1: positive monomial"
GROUPED = "hidden.0: permutation, hidden.1: positive monomial, hidden.2: positive monomial"
# The layer in the middle, from its number of positions, and what is found around it.
LAYERS: dict[str, tuple[Callable[[int], nn.Module], str]] = {
    "depthwise": (lambda d: CONVOLUTIONS[d](8, 8, 3, padding=1, groups=8), "hidden: positive monomial"),
    "depthwise-with-multiplier": (
        lambda d: CONVOLUTIONS[d](8, 16, 3, padding=1, groups=8),
        "hidden.0: positive monomial, hidden.1: positive monomial",
    ),
    "grouped": (lambda d: CONVOLUTIONS[d](8, 12, 3, padding=1, groups=2), GROUPED),
    "transposed": (lambda d: TRANSPOSED[d](8, 12, 3, 2), TWO),
    "transposed-grouped": (lambda d: TRANSPOSED[d](8, 12, 3, 2, groups=2), GROUPED),
    "transposed-depthwise": (lambda d: TRANSPOSED[d](8, 8, 3, groups=8), "hidden: positive monomial"),
    "circular": (lambda d: CONVOLUTIONS[d](8, 12, 3, padding=1, padding_mode="circular"), TWO),
    "reflected": (lambda d: CONVOLUTIONS[d](8, 12, 3, padding=1, padding_mode="reflect"), TWO),
    "padding-as-a-word": (lambda d: CONVOLUTIONS[d](8, 12, 3, padding="same"), TWO),
}


def between(s: Any, x: Tensor) -> Tensor:
    """A layer between two others, with ReLU before and after it."""
    x = F.relu(s.middle(F.relu(s.first(x))))
    return s.head(x.mean(tuple(range(2, x.dim()))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_convolution(name: str, d: int) -> None:
    make, expected = LAYERS[name]
    middle = make(d)
    parts = {
        "first": lambda: CONVOLUTIONS[d](3, 8, 3, padding=1),
        "middle": middle,
        "head": lambda: nn.Linear(int(middle.out_channels), 4),  # type: ignore[arg-type]
    }
    symmetry = solved((between, parts, ((2, 3, *[5] * d),), ""))
    assert symmetry.uncovered == ()
    assert groups(symmetry) == expected


def test_scales_on_both_sides_of_a_depthwise_convolution_are_free() -> None:
    """What goes in can be scaled against the kernel, and what comes out against the next layer."""
    parts = {
        "first": lambda: nn.Conv1d(3, 8, 1),
        "middle": lambda: nn.Conv1d(8, 8, 3, groups=8),
        "head": nn.Linear(8, 4),
    }
    symmetry = solved((between, parts, ((2, 3, 5),), ""))
    (space,) = symmetry.active
    assert (space.scales, symmetry.dimension().number) == (2, 16)


POOLS = ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("name", POOLS)
def test_pool(name: str, d: int) -> None:
    pool = getattr(F, f"{name}{d}d")
    parts = {"first": lambda: CONVOLUTIONS[d](3, 8, 3, padding=1), "last": lambda: CONVOLUTIONS[d](8, 4, 1)}
    symmetry = solved((lambda s, x: s.last(pool(F.relu(s.first(x)), 2)), parts, ((2, 3, *[6] * d),), ""))
    assert symmetry.uncovered == ()
    assert groups(symmetry) == "hidden: positive monomial"


RESAMPLED = [("nearest", 1), ("linear", 1), ("nearest", 2), ("nearest-exact", 2), ("bilinear", 2), ("bicubic", 2)]


@pytest.mark.parametrize(("mode", "d"), [*RESAMPLED, ("area", 2), ("nearest", 3), ("trilinear", 3)])
@pytest.mark.parametrize("how", [{"size": 7}, {"scale_factor": 2.0}])
def test_resampled(mode: str, d: int, how: dict[str, Any]) -> None:
    parts = {"first": lambda: CONVOLUTIONS[d](3, 8, 1), "last": lambda: CONVOLUTIONS[d](8, 4, 1)}
    net = (lambda s, x: s.last(F.relu(F.interpolate(s.first(x), mode=mode, **how))), parts, ((2, 3, *[4] * d),), "")
    symmetry = solved(net)
    assert symmetry.uncovered == ()
    assert groups(symmetry) == "hidden: positive monomial"


INSIDE = {1: "hidden: orthogonal fixing ones", 8: "hidden: signed permutation"}
BETWEEN = "hidden.0: signed permutation, hidden.1: monomial"


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_group_norm(count: int) -> None:
    """Groups may be permuted, and channels inside them."""
    parts = {
        "first": lambda: nn.Conv2d(3, 8, 3),
        "norm": lambda: nn.GroupNorm(count, 8),
        "last": lambda: nn.Conv2d(8, 4, 1),
    }
    symmetry = solved((lambda s, x: s.last(s.norm(s.first(x))), parts, ((2, 3, 5, 5),), ""))
    assert symmetry.uncovered == ()
    assert groups(symmetry) == INSIDE.get(count, BETWEEN)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "hidden: permutation"),
        ({"affine": True}, "hidden: monomial"),
        ({"track_running_stats": True}, "hidden: positive monomial"),
    ],
)
def test_instance_norm(settings: dict[str, bool], expected: str, d: int) -> None:
    parts = {
        "first": lambda: CONVOLUTIONS[d](3, 8, 3),
        "norm": lambda: INSTANCE[d](8, **settings),
        "last": lambda: CONVOLUTIONS[d](8, 4, 1),
    }
    symmetry = solved((lambda s, x: s.last(F.relu(s.norm(s.first(x)))), parts, ((2, 3, *[5] * d),), ""))
    assert symmetry.uncovered == ()
    assert groups(symmetry) == expected


def excited(s: Any, x: Tensor) -> Tensor:
    x = F.relu(s.norm(s.first(x)))
    x = x * torch.sigmoid(s.excite(F.relu(s.squeeze(F.adaptive_avg_pool2d(x, 1)))))
    return s.last(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def standardised(s: Any, x: Tensor) -> Tensor:
    """A convolution whose kernels are normalised by the operator that normalises batches."""
    kernel = F.batch_norm(s.first.weight.reshape(1, 8, -1), None, None, training=True).reshape_as(s.first.weight)
    return s.last(F.relu(F.conv2d(x, kernel, s.first.bias)))  # type: ignore[no-any-return]


FIRST: dict[str, Any] = {"first": lambda: nn.Conv2d(3, 8, 3)}
IMAGE = (2, 3, 6, 6)
CASES: dict[str, Case] = {
    "squeeze-and-excitation": (
        excited,
        {
            **FIRST,
            "norm": lambda: nn.BatchNorm2d(8),
            "squeeze": lambda: nn.Conv2d(8, 4, 1),
            "excite": lambda: nn.Conv2d(4, 8, 1),
            "last": lambda: nn.Linear(8, 3),
        },
        (IMAGE,),
        "hidden.0: monomial, hidden.1: positive monomial",
    ),
    "standardised-kernels": (
        standardised,
        {**FIRST, "last": lambda: nn.Conv2d(8, 4, 1)},
        (IMAGE,),
        "hidden: permutation",
    ),
    "pixel-shuffle": (
        lambda s, x: s.last(F.relu(F.pixel_shuffle(s.first(x), 2))),
        {**FIRST, "last": lambda: nn.Conv2d(2, 4, 1)},
        (IMAGE,),
        "hidden: positive monomial",
    ),
    "pixel-unshuffle": (
        lambda s, x: s.last(F.pixel_unshuffle(F.relu(s.first(x)), 2)),
        {**FIRST, "last": lambda: nn.Conv2d(32, 4, 1)},
        (IMAGE,),
        "hidden: positive monomial",
    ),
    "channel-shuffle": (
        lambda s, x: s.last(F.channel_shuffle(F.relu(s.first(x)), 2)),
        {**FIRST, "last": lambda: nn.Conv2d(8, 4, 1)},
        (IMAGE,),
        "hidden: positive monomial",
    ),
    "patches": (
        lambda s, x: s.last(F.unfold(F.relu(s.first(x)), 2).mT),
        {**FIRST, "last": lambda: nn.Linear(32, 3)},
        (IMAGE,),
        "hidden: positive monomial",
    ),
    "patches-added-up": (
        lambda s, x: s.last(F.relu(F.fold(s.first(x).mT, (4, 4), 2, stride=2))),
        {"first": lambda: nn.Linear(5, 32), "last": lambda: nn.Conv2d(8, 3, 1)},
        ((2, 4, 5),),
        "hidden: positive monomial",
    ),
    "smoothed": (
        lambda s, x: s.last(F.relu(F.interpolate(s.first(x), size=(3, 3), mode="bilinear", antialias=True))),
        {**FIRST, "last": lambda: nn.Conv2d(8, 4, 1)},
        (IMAGE,),
        "hidden: positive monomial",
    ),
    "weight-norm": (
        lambda s, x: s.last(F.relu(s.first(x))),
        {
            "first": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
            "last": lambda: nn.Conv2d(8, 4, 1),
        },
        (IMAGE,),
        "hidden: positive monomial",
    ),
    "windows-over-channels": (
        lambda s, x: s.last(F.local_response_norm(F.relu(s.first(x)), 3)),
        {**FIRST, "last": lambda: nn.Conv2d(8, 4, 1)},
        (IMAGE,),
        "",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str) -> None:
    symmetry = solved(CASES[name])
    assert symmetry.uncovered == ()
    assert groups(symmetry) == CASES[name][3]
