"""The barrier among many models, against plain loops; what it takes, writes, draws and refuses."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_loops import Net, Words, mean, pairs, refused, standard_error
from torch import nn

from symgraph.errors import CheckpointError, DataError, SymgraphError, UsageError
from symgraph.io.models import Model
from symgraph.measure import plots
from symgraph.measure.barrier import loss_barrier
from symgraph.measure.measured import Measured
from symgraph.measure.result import LossBarrier

BATCHES = pairs([4, 3])
NETS = [Net(0), Net(1), Net(2)]
FOUND = loss_barrier(NETS, BATCHES, metrics=["accuracy"])


def losses(nets: list[Any], weights: tuple[float, ...]) -> list[float]:
    """The cross-entropy of each example, from a model that is made for this mixture."""
    model = copy.deepcopy(nets[0])
    states = [n.state_dict() for n in nets]
    total = {
        n: sum(w * s[n] for w, s in zip(weights, states, strict=True)) if t.is_floating_point() else t
        for n, t in states[0].items()
    }
    model.load_state_dict(total)
    found = []
    with torch.no_grad():
        for inputs, labels in BATCHES:
            for row, label in zip(model(inputs), labels, strict=True):
                found.append(float(torch.logsumexp(row, 0) - row[label]))
    return found


def test_values_barriers_and_errors_against_plain_loops() -> None:
    ends = [losses(NETS, tuple(float(i == k) for i in range(3))) for k in range(3)]
    for i, weights in enumerate(FOUND.loss.mixtures):
        here = losses(NETS, weights)
        chords = [sum(w * e[k] for w, e in zip(weights, ends, strict=True)) for k in range(7)]
        distances = [x - c for x, c in zip(here, chords, strict=True)]
        assert FOUND.loss.values[i] == pytest.approx(mean(here), abs=1e-12)
        assert FOUND.loss.barriers[i] == pytest.approx(mean(distances), abs=1e-12)
        expected = 0.0 if max(weights) == 1 else standard_error(distances)
        assert FOUND.loss.standard_errors[i] == pytest.approx(expected, abs=1e-12)
    assert FOUND.barrier == max(FOUND.loss.barriers) and FOUND.argmax == FOUND.loss.mixtures[FOUND.loss._peak]
    assert FOUND.midpoint == FOUND.loss.barriers[FOUND.loss.mixtures.index((1 / 3,) * 3)]


def test_the_default_mixtures() -> None:
    found = set(FOUND.loss.mixtures)
    assert FOUND.loss.mixtures[:3] == ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    assert {(0.5, 0.5, 0.0), (0.25, 0.25, 0.5), (1 / 3,) * 3, (0.75, 0.0, 0.25)} < found
    assert all(math.isclose(sum(m), 1) for m in found) and len(found) == len(FOUND.loss.mixtures) == 3 + 12 + 1
    five = loss_barrier([Net(i) for i in range(5)], BATCHES)
    assert len(five.loss.mixtures) == 5 + 10 + 15 + 1
    coarse = loss_barrier(NETS, BATCHES, resolution=1)
    assert len(coarse.loss.mixtures) == 3 + 3 + 1


def test_two_models_are_a_segment() -> None:
    line = loss_barrier(NETS[0], NETS[1], BATCHES, points=5, metrics=["accuracy"])
    flat = loss_barrier(NETS[:2], BATCHES, mixtures=[(1 - x, x) for x in line.lambdas], metrics=["accuracy"])
    order = [flat.loss.mixtures.index((1 - x, x)) for x in line.lambdas]
    assert [flat.loss.values[i] for i in order] == list(line.losses)
    assert [flat.loss.standard_errors[i] for i in order] == list(line.loss.standard_errors)
    assert [flat.metrics[0].barriers[i] for i in order] == list(line.metrics[0].barriers)


def test_drawn_mixtures_follow_the_seed_and_disturb_no_other() -> None:
    torch.manual_seed(3)
    expected = torch.rand(())
    torch.manual_seed(3)
    one, two, three = (loss_barrier(NETS, BATCHES, mixtures=[(0.5, 0.5, 0)], samples=4, seed=s) for s in (0, 0, 1))
    assert torch.rand(()) == expected
    assert one == two != three and len(one.loss.mixtures) == 8
    assert all(math.isclose(sum(m), 1) and min(m) >= 0 for m in one.loss.mixtures)


def test_the_order_of_the_models_permutes_the_mixtures() -> None:
    for order in ((1, 2, 0), (2, 1, 0)):
        other = loss_barrier([NETS[i] for i in order], BATCHES)
        for weights, value in zip(other.loss.mixtures, other.loss.values, strict=True):
            back = tuple(weights[order.index(i)] for i in range(3))
            # Integer buffers are those of the first model; nothing reads them in evaluation.
            assert value == pytest.approx(FOUND.loss.values[FOUND.loss.mixtures.index(back)], abs=1e-12)


def test_models_and_states_stay_as_they_are() -> None:
    nets = [copy.deepcopy(n).train() for n in NETS]
    loss_barrier(nets, BATCHES, recalibrate=BATCHES)
    for net, before in zip(nets, NETS, strict=True):
        assert net.training and net.norm.training
        assert all(torch.equal(t, before.state_dict()[n]) for n, t in net.state_dict().items())


def test_json_round_trip_and_text() -> None:
    assert LossBarrier.from_json(FOUND.to_json()) == FOUND
    text = str(FOUND)
    assert "0.333 0.333 0.333" in text and "accuracy barrier" in text and "over 7 examples" in text
    for bad in ("{}", "nothing", FOUND.to_json().replace('"models"', '"modles"')):
        with refused(DataError, "holds no loss barrier"):
            LossBarrier.from_json(bad)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_json_is_a_typed_error(data: st.DataObject) -> None:
    text = FOUND.to_json()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 60)))
    broken = text[:start] + data.draw(st.text('0[]{},:"e-', max_size=5)) + text[end:]
    try:
        LossBarrier.from_json(broken)
    except SymgraphError as e:
        assert isinstance(e, DataError)


@pytest.mark.parametrize("count", [3, 5])
def test_pictures(count: int, tmp_path: Path) -> None:
    found = loss_barrier([Net(i) for i in range(count)], BATCHES, metrics=["accuracy"])
    assert found.plot(tmp_path / "a.png").stat().st_size > 5000
    figure = plots._figure(plots._surfaces(found), "x")
    drawn = [axes for axes in figure.axes if axes.get_title()]
    assert [a.get_title().split(" barrier")[0] for a in drawn] == ["cross-entropy", "accuracy"]
    if count != 3:
        legend = [t.get_text() for t in drawn[0].get_legend().get_texts()]
        assert legend == [f"model {i + 1}" for i in range(count)]
        assert all(len(line.get_xdata()) == 5 for line in drawn[0].lines)
    with refused(UsageError, "no picture"):
        found.plot(tmp_path / "a.txt")


def test_what_is_refused() -> None:
    with refused(UsageError, "the weights sum to 0.9, not to one"):
        loss_barrier(NETS, BATCHES, mixtures=[(0.3, 0.3, 0.3)])
    with refused(UsageError, "3 models and 2 weights"):
        loss_barrier(NETS, BATCHES, mixtures=[(0.5, 0.5)])
    with refused(UsageError, "a mixture has a weight of -0.5"):
        loss_barrier(NETS, BATCHES, mixtures=[(-0.5, 0.5, 1.0)])
    with refused(UsageError, "there is no mixture"):
        loss_barrier(NETS, BATCHES, mixtures=[(0, 1, 0)])
    with refused(UsageError, "needs two models and batches, not 1 model"):
        loss_barrier(NETS[:1], BATCHES)
    with refused(UsageError, "a resolution of 0"):
        loss_barrier(NETS, BATCHES, resolution=0)
    with refused(UsageError, "-1 samples"):
        loss_barrier(NETS, BATCHES, samples=-1)
    with refused(UsageError, "3 models and 1 names"):
        loss_barrier(NETS, BATCHES, names=["a"])
    with refused(UsageError, "3 states do not say which network"):
        loss_barrier([n.state_dict() for n in NETS], BATCHES)
    with refused(DataError, "no batches to evaluate on"):
        loss_barrier(NETS, [])
    models = [Model(n, None, None, f"m{i}", "factory") for i, n in enumerate((*NETS, Words(0)))]
    with refused(CheckpointError, "m0 and m3 are of different architectures"):
        loss_barrier(models, BATCHES)
    state = NETS[1].state_dict() | {"up.weight": torch.zeros(2, 2)}
    with refused(CheckpointError, "model 2"):
        loss_barrier([NETS[0], state, NETS[2]], BATCHES)
    broken = copy.deepcopy(NETS[2])
    nn.init.constant_(broken.up.weight, float("nan"))
    with refused(DataError, "not finite at mixture 0 0 1"):
        loss_barrier([*NETS[:2], broken], BATCHES)


def test_a_metric_that_should_be_high_counts_downwards() -> None:
    even = (1 / 3,) * 3
    mixtures = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), even)
    surface = Measured("accuracy", mixtures, (0.8, 0.6, 0.7, 0.4), (0.0, 0.0, 0.0, 0.1), True)
    assert surface.barrier == pytest.approx(0.3) and surface.argmax == even
    assert surface.interior_min == surface.midpoint == surface.barrier and surface.standard_error == 0.1
