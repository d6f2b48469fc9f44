"""Random models: inference is sound, deterministic and independent of order, on whatever they are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch import nn

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.pipeline import infer
from symgraph.tracing import state_of, trace

from .checks import check, moves_nothing
from .net import Description, Step
from .strategies import descriptions

# The same models in every run; `python -m tests.fuzz` tries others.
SHARED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@settings(SHARED, max_examples=30)
@given(descriptions())
def test_thirty_models(description: Description) -> None:
    assert check(description) is None


@pytest.mark.slow
@settings(SHARED, max_examples=2000)
@given(descriptions())
def test_two_thousand_models(description: Description) -> None:
    assert check(description) is None


def test_scales_that_differ_along_a_space_of_their_own_table() -> None:
    """A table on a space, and on one that is fibred over it: its least norm is no product of matrices."""
    crossed = {"kind": "reshape", "how": "crossed"}
    steps = ({"kind": "dead"}, crossed, {"norm": "batch-norm", "kind": "norm", "like": 0})
    assert check(Description("embedding-positions", 4, 4, steps, "first")) is None


def test_a_gain_of_which_one_part_has_a_single_entry() -> None:
    """The head takes parts of the stream: the gain's single entry there is no number that multiplies all of them."""
    scaled = {"layer_scale": True, "act": "none", "kind": "mlp", "hidden": 2}
    steps = (scaled, {"how": "two-maps", "kind": "cut"})
    assert check(Description("linear", 3, 3, steps, "linear")) is None


def test_constants_do_not_come_back_to_where_they_moved_on_from() -> None:
    """A value bias moves into the output's, which the stream takes further: not into that value bias again."""
    attend: dict[str, Any] = {"kind": "attend", "size": 2, "heads": 1, "groups": 1}
    steps = (attend, dict(attend), {"kind": "output", "how": "linear"})
    assert check(Description("linear", 3, 3, steps, "unbiased")) is None


SOME, SLICED = {"kind": "vector", "how": "only-some"}, {"kind": "vector", "how": "sliced-positions"}
CENTRED = {"kind": "features", "how": "centre"}


@pytest.mark.parametrize(
    ("stem", "steps", "head"),
    [
        ("linear", (SOME, SLICED), "norm"),
        # Two tables, whose constants start at different rows of them: all depend on each other.
        ("tokens", (SOME, SLICED, SLICED, CENTRED, {"kind": "norm", "norm": "layer-norm-plain"}), "first"),
    ],
)  # fmt: skip
def test_constants_in_a_part_of_what_is_centred_as_a_whole(stem: str, steps: tuple[Step, ...], head: str) -> None:
    """What is taken out of a mean over two frames comes back into the constant of one of them."""
    assert check(Description(stem, 4, 3, steps, head)) is None


def test_a_thin_stream_of_which_a_part_is_an_output() -> None:
    """The stream is written from two dimensions; entries of it that go out stay where they are."""
    attend: dict[str, Any] = {"kind": "attend", "size": 2, "heads": 1, "groups": 1, "place": "parallel"}
    assert check(Description("embedding-narrow", 5, 3, (attend, {"kind": "cut", "how": "features"}), "none")) is None


def test_a_gain_that_is_added_as_well_holds_no_constant() -> None:
    """A product of two vectors: what moved on out of the one that is absorbed would leave zeros in it."""
    shifts: tuple[Step, ...] = ({"kind": "vector", "how": "positions"}, {"kind": "vector", "how": "product-shift"})
    assert check(Description("conv", 3, 3, shifts, "unbiased")) is None


def test_the_bias_of_a_norm_that_is_read_at_all_positions_at_once() -> None:
    """It stays in the norm, since another reader has none of its own to take it."""
    norm: Step = {"kind": "norm", "norm": "layer-norm"}
    bend: tuple[Step, ...] = ({"kind": "linear", "to": 4, "bias": False}, {"kind": "act", "act": "relu"})
    assert check(Description("linear", 4, 3, (norm, *bend, norm | {"like": 0}), "flatten")) is None


def test_a_bias_that_takes_what_readers_lean_by_moves_on_again() -> None:
    """The norm's bias stays, so that its readers lean; what their biases take of it goes on into the next."""
    norm, scaled = {"kind": "norm", "norm": "layer-norm-written"}, {"kind": "vector", "how": "scale"}
    attend: Step = {"kind": "attend", "size": 2, "rotary": "halves", "heads": 2, "groups": 1}
    assert check(Description("embedding-positions", 3, 3, (norm, attend, scaled), "linear")) is None
    normed: Step = attend | {"norm": "layer-norm", "qk_norm": "layer-norm", "bias": False, "groups": 2, "share": "qk"}
    assert check(Description("linear", 3, 3, (normed, normed | {"heads": 1, "groups": 1, "like": 0}), "linear")) is None


def test_positions_that_are_flattened_with_parts_of_a_stream_are_cut_one_way() -> None:
    """A token and patches, each of two parts, read as one axis: which is cut first says nothing."""
    assert check(Description("tokens", 4, 5, ({"kind": "concatenate", "how": "linear"},), "flatten")) is None


def test_a_weight_with_two_spaces_on_both_sides_comes_to_rest() -> None:
    gated: Step = {"kind": "reshape", "how": "groups-gated"}
    assert check(Description("embedding", 6, 3, (gated, gated | {"like": 0}), "first")) is None


def test_a_gain_in_front_of_a_matrix_in_pieces() -> None:
    """Pieces read as one tensor are more symmetric, but a gain cannot go into what is no tensor of the model."""
    steps: tuple[Step, ...] = ({"kind": "weights", "how": "stacked"}, {"kind": "weights", "how": "autoencoder"})
    assert check(Description("linear", 6, 5, ({"kind": "norm", "norm": "batch-norm"}, *steps), "pool")) is None


def test_rows_of_a_table_that_stand_side_by_side_are_told_apart() -> None:
    """A matrix reads several positions at once, by columns of their own: its bias takes of each what that row has."""
    steps: tuple[Step, ...] = ({"kind": "reshape", "how": "scrambled"}, {"kind": "positions", "how": "mix"})
    assert check(Description("tokens", 6, 3, ({"kind": "dead"}, *steps), "last")) is None


def test_an_axis_that_stays_is_on_no_space_that_moves() -> None:
    """A weight writes three heads of two, and elsewhere two of three: how its rows are cut then says nothing."""
    heads: Step = {"kind": "reshape", "how": "heads-of-norms"}
    gated: Step = {"kind": "branches", "how": "multiply", "act": "sigmoid", "to": 6}
    norm: Step = {"kind": "norm", "norm": "layer-norm-written"}
    squeezed, groups = ({"kind": "reshape", "how": how} for how in ("squeezed", "groups-gated"))
    steps: tuple[Step, ...] = (squeezed, heads, gated, heads | {"like": 0}, norm, groups | {"like": 0})
    assert check(Description("tokens", 3, 5, steps, "norm")) is None


def test_a_softmax_of_equal_scores_moves_nothing() -> None:
    """A sequence of one token, again and again: its Jacobian is zero, but for rounding."""
    again = ({"kind": "positions", "how": "softmax"}, {"kind": "reuse", "how": "add"})
    assert check(Description("embedding", 6, 3, again, "none")) is None


def test_outputs_that_never_change_move_nothing() -> None:
    """The mean over positions of a softmax along them: its Jacobian is rounding alone."""
    steps: tuple[Step, ...] = ({"kind": "positions", "how": "softmax"}, {"kind": "positions", "how": "mean"})
    assert check(Description("conv", 6, 4, steps, "none")) is None


def test_a_direction_that_moves_the_outputs_is_told() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 2))
    symmetry = infer(trace(model, (torch.randn(2, 4),)))
    assert moves_nothing(symmetry, state_of(model)) is None
    group = SymmetryClass.ORTHOGONAL
    turned = tuple(s if s.rigid else replace(s, group=group, scales=0, signs=0) for s in symmetry.spaces)
    failure = moves_nothing(replace(symmetry, spaces=turned), state_of(model))
    assert failure is not None and len(failure.families) == 1
    (moving,) = symmetry.constants
    wrong = replace(moving, shares=tuple(replace(share, factor=-share.factor) for share in moving.shares))
    assert moves_nothing(replace(symmetry, constants=(wrong,)), state_of(model))


def test_a_router_is_no_table_of_heads_and_their_inside() -> None:
    """Its rows stand on the experts, whose hidden units a matrix reads together with them, its columns nowhere."""
    experts: dict[str, Any] = {
        "kind": "experts",
        "experts": 3,
        "hidden": 2,
        "top": 1,
        "dense": True,
        "renormalised": True,
    }
    experts |= {"norm": "rms-norm-written", "place": "pre", "act": "none", "layer_scale": True, "first": "saturated"}
    steps = (experts | {"like": 2}, {"how": "swap", "kind": "cut"}, experts | {"like": 2})
    more = ({"kind": "reshape", "how": "fused-halves", "like": 2}, {"kind": "positions", "how": "gate"})
    assert check(Description("linear", 3, 3, (*steps, *more), "last")) is None
