"""Curves: what follows from the values, and what JSON keeps of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_loops import chord, refused, segment

from symgraph.errors import DataError, UsageError
from symgraph.measure.measured import Measured
from symgraph.measure.result import LossBarrier

VALUES = st.floats(-1e6, 1e6)


@st.composite
def curves(draw: st.DrawFn, lambdas: tuple[float, ...] | None = None, name: str | None = None) -> Measured:
    """Curves of a few points."""
    if lambdas is None:
        inside = draw(st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=6, unique=True))
        lambdas = (0.0, *sorted(inside), 1.0)
    n = len(lambdas)
    values = tuple(draw(st.lists(VALUES, min_size=n, max_size=n)))
    errors = tuple(draw(st.lists(st.floats(0, 1e3), min_size=n, max_size=n)))
    return segment(name or draw(st.text(min_size=1, max_size=9)), lambdas, values, errors, draw(st.booleans()))


@st.composite
def results(draw: st.DrawFn) -> LossBarrier:
    """Loss barriers with metrics of names of their own."""
    loss = replace(draw(curves()), higher_is_better=False)
    names = draw(st.lists(st.text(min_size=1, max_size=9), max_size=2, unique=True))
    metrics = tuple(draw(curves(loss.places, name)) for name in names)
    return LossBarrier(loss, metrics, ("A", "B"), draw(st.integers(0, 10**9)), draw(st.text()), draw(st.text()))


@given(curves())
def test_what_follows_from_the_values(curve: Measured) -> None:
    sign = -1 if curve.higher_is_better else 1
    first, last = curve.values[0], curve.values[-1]
    scale = max(map(abs, curve.values)) + 1
    for x, value, barrier in zip(curve.places, curve.values, curve.barriers, strict=True):
        assert math.isclose(barrier, sign * (value - chord(first, last, x)), abs_tol=1e-12 * scale)
    assert curve.barriers[0] == curve.barriers[-1] == 0.0
    assert math.copysign(1, curve.barriers[0]) == 1
    i = curve.places.index(curve.argmax)
    assert curve.barrier == curve.barriers[i] == max(curve.barriers) >= 0
    assert curve.standard_error == curve.standard_errors[i]
    assert curve.interior_min == min(curve.barriers[1:-1]) <= curve.barrier


@given(curves())
def test_better_upwards_is_worse_downwards(curve: Measured) -> None:
    mirrored = replace(curve, values=tuple(-v for v in curve.values), higher_is_better=not curve.higher_is_better)
    assert mirrored.barriers == curve.barriers


def test_the_middle_is_there_only_where_it_was_evaluated() -> None:
    assert segment("loss", (0.0, 0.5, 1.0), (1.0, 4.0, 2.0), (0.0, 0.1, 0.0)).midpoint == 2.5
    assert segment("loss", (0.0, 0.4, 1.0), (1.0, 4.0, 2.0), (0.0, 0.1, 0.0)).midpoint is None


EXAMPLE = LossBarrier(
    segment("cross-entropy", (0.0, 0.25, 0.5, 1.0), (1.0, 2.5, 2.0, 2.0), (0.0, 0.125, 0.25, 0.0)),
    (segment("accuracy", (0.0, 0.25, 0.5, 1.0), (0.9, 0.5, 0.6, 0.8), (0.0, 0.01, 0.02, 0.0), True),),
    ("A", "B"),
    12,
    "digits",
    "test",
)


def test_a_result_answers_for_its_loss() -> None:
    loss = EXAMPLE.loss
    assert (EXAMPLE.lambdas, EXAMPLE.losses, EXAMPLE.barriers) == (loss.places, loss.values, loss.barriers)
    assert (EXAMPLE.barrier, EXAMPLE.argmax, EXAMPLE.standard_error) == (1.25, 0.25, 0.125)
    assert (EXAMPLE.interior_min, EXAMPLE.midpoint) == (0.5, 0.5)
    assert EXAMPLE.metric("accuracy").barrier == pytest.approx(0.375)
    with refused(UsageError, "no metric 'speed' was evaluated", "there is accuracy"):
        EXAMPLE.metric("speed")
    with refused(UsageError, "there is none"):
        replace(EXAMPLE, metrics=()).metric("accuracy")


def test_it_prints_as_a_table_and_a_sentence_for_each_curve() -> None:
    expected = """
lambda  cross-entropy  barrier  std.err.  accuracy
 0.000         1.0000   0.0000    0.0000    0.9000
 0.250         2.5000   1.2500    0.1250    0.5000
 0.500         2.0000   0.5000    0.2500    0.6000
 1.000         2.0000   0.0000    0.0000    0.8000

cross-entropy barrier 1.2500 \u00b1 0.1250 at lambda 0.250 (interior minimum 0.5000, midpoint 0.5000)
accuracy barrier 0.3750 \u00b1 0.0100 at lambda 0.250 (interior minimum 0.2500, midpoint 0.2500)
over 12 examples of digits, split test"""
    assert str(EXAMPLE) == expected.lstrip("\n")
    assert str(replace(EXAMPLE, source="", split="")).endswith("\nover 12 examples")


# -- JSON ------------------------------------------------------------------------------------------------------------


@given(results())
def test_json_keeps_everything(found: LossBarrier) -> None:
    assert LossBarrier.from_json(found.to_json()) == found


def test_json_from_a_file_and_figures_for_readers(tmp_path: Path) -> None:
    path = tmp_path / "with a space.json"
    path.write_text(EXAMPLE.to_json(), encoding="utf-8")
    assert LossBarrier.from_json(path) == EXAMPLE
    summary = json.loads(EXAMPLE.to_json())["summary"]
    assert summary["cross-entropy"]["barrier"] == 1.25 and summary["accuracy"]["argmax"] == 0.25


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4))
def test_json_of_anything_else_is_refused(value: Any) -> None:
    with refused(DataError, "the text holds no loss barrier"):
        LossBarrier.from_json(json.dumps(value))


def _changed(*path: Any, to: Any) -> str:
    plain = json.loads(EXAMPLE.to_json())
    place = plain
    for key in path[:-1]:
        place = place[key]
    if to is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return json.dumps(plain)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "JSONDecodeError"),
        ("[" * 100_000, "RecursionError"),
        (_changed("loss", to=KeyError), "KeyError: 'loss'"),
        (_changed("examples", to=KeyError), "KeyError: 'examples'"),
        (_changed("surplus", to=1), "'surplus' is unknown"),
        (_changed("metrics", to=3), "TypeError"),
        (_changed("examples", to="many"), "examples: Expected `int`, got `str`"),
        (_changed("loss", "values", to=[1.0, 2.0]), "do not match"),
        (_changed("loss", "values", to=[1.0, "x", 2.0, 2.0]), "loss.values[1]: Expected `float`, got `str`"),
        (_changed("loss", "values", to=[1.0, 10**400, 2.0, 2.0]), "loss.values[1]: Number out of range"),
        (_changed("loss", "values", to=[1.0, float("nan"), 2.0, 2.0]), "not finite"),
        (_changed("loss", "lambdas", to=[0.0, 0.5, 0.25, 1.0]), "do not ascend from 0 to 1"),
        (_changed("loss", "lambdas", to=[0.1, 0.25, 0.5, 1.0]), "do not ascend from 0 to 1"),
        (_changed("loss", "name", to=KeyError), "loss: Object missing required field `name`"),
    ],
)
def test_json_that_was_changed_by_hand(text: str, cause: str) -> None:
    with refused(DataError, "the text holds no loss barrier", cause):
        LossBarrier.from_json(text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with refused(DataError, str(tmp_path / "gone.json"), "no such file or directory"):
        LossBarrier.from_json(tmp_path / "gone.json")
