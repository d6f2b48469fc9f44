"""The numbers of a loss barrier against plain loops, and what must hold for all of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_loops import Net, Words, between, chord, mean, pairs, per_example, standard_error
from torch import Tensor

from symgraph.measure.barrier import loss_barrier
from symgraph.measure.losses import Metric

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4)
SEEDS = st.integers(0, 20)
GRIDS = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=3, unique=True).map(sorted)


def close(a: float, b: float, scale: float = 1.0) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-11 * scale)


# -- against loops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[4], [3, 1, 2], [1, 1]])
def test_losses_barriers_and_errors_are_those_of_plain_loops(sizes: list[int]) -> None:
    a, b, batches = Net(0), Net(1), pairs(sizes)
    found = loss_barrier(a, b, batches, points=5)
    assert found.lambdas == (0.0, 0.25, 0.5, 0.75, 1.0) and found.examples == sum(sizes)
    first, last = per_example(a, b, batches, 0.0), per_example(a, b, batches, 1.0)
    for i, x in enumerate(found.lambdas):
        values = per_example(a, b, batches, x)
        distances = [v - chord(f, z, x) for v, f, z in zip(values, first, last, strict=True)]
        assert close(found.losses[i], mean(values))
        assert close(found.barriers[i], mean(values) - chord(mean(first), mean(last), x))
        assert close(found.loss.standard_errors[i], standard_error(distances) if x not in (0.0, 1.0) else 0.0)


def test_accuracy_is_counted_and_its_barrier_is_what_is_lost() -> None:
    a, b, batches = Net(0), Net(1), pairs([5, 2, 6])
    found = loss_barrier(a, b, batches, points=[0.3], metrics="accuracy").metric("accuracy")
    for x, value in zip(found.lambdas, found.values, strict=True):
        network = Net(0)
        network.load_state_dict(between(a.state_dict(), b.state_dict(), x))
        hits = [
            int(row.argmax()) == int(y)
            for inputs, labels in batches
            for row, y in zip(network(inputs), labels, strict=True)
        ]
        assert close(value, sum(hits) / 13)
    assert close(found.barriers[1], chord(found.values[0], found.values[2], 0.3) - found.values[1])


def test_perplexity_and_its_error_follow_from_the_loss() -> None:
    a, b, batches = Net(0), Net(1), pairs([4, 5])
    found = loss_barrier(a, b, batches, points=[0.4], metrics=["perplexity"])
    first, middle, last = (per_example(a, b, batches, x) for x in (0.0, 0.4, 1.0))
    e = math.exp
    linear = [
        e(mean(middle)) * v - 0.6 * e(mean(first)) * f - 0.4 * e(mean(last)) * z
        for v, f, z in zip(middle, first, last, strict=True)
    ]
    curve = found.metric("perplexity")
    assert close(curve.values[1], e(mean(middle)))
    assert close(curve.barriers[1], e(mean(middle)) - chord(e(mean(first)), e(mean(last)), 0.4))
    assert math.isclose(curve.standard_errors[1], standard_error(linear), rel_tol=1e-5)


def test_tokens_count_and_not_texts() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = Words(0), Words(1)
    batches, total, count = [], 0.0, 0
    network = Words(0)
    network.load_state_dict(between(a.state_dict(), b.state_dict(), 0.5))
    for lengths in ([5, 2], [3], [2, 2, 4]):
        ids = torch.randint(0, 7, (len(lengths), max(lengths)), generator=generator)
        mask = torch.tensor([[int(i < n) for i in range(max(lengths))] for n in lengths])
        batches.append({"input_ids": ids, "attention_mask": mask})
        for row, n in zip(ids, lengths, strict=True):
            logits = network(row)["logits"].log_softmax(-1)
            total -= sum(float(logits[t, row[t + 1]].detach()) for t in range(n - 1))
            count += n - 1
    found = loss_barrier(a, b, batches, points=3)
    assert close(found.losses[1], total / count) and found.examples == 6
    assert found.loss.standard_errors[1] > 0


def test_the_error_with_weights_is_that_of_a_ratio() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0], [0.0, 1.0, 3.0]], dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)

    class Scale(torch.nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(scale, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale

    def loss(scale: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        return values[0] * scale**2, weights

    found = loss_barrier(Scale(0.0), Scale(1.0), [(torch.zeros(3, 1), torch.zeros(3))], points=[0.5], loss=loss)
    distances = [0.25 * float(v) - 0.5 * float(v) for v in values[0]]
    shares = [float(w) / 8 for w in weights]
    center = math.fsum(s * d for s, d in zip(shares, distances, strict=True))
    spread = math.fsum((s * (d - center)) ** 2 for s, d in zip(shares, distances, strict=True))
    assert close(found.barriers[1], center) and close(found.loss.standard_errors[1], math.sqrt(spread * 3 / 2))


@pytest.mark.parametrize("transform", [math.sqrt, math.log1p, lambda v: v**2])
def test_transforms_of_means_that_are_zero_at_an_end(transform: Any) -> None:
    a = Net(0)
    own = [(x, a(x).detach()) for x, _ in pairs([3, 2])]
    found = loss_barrier(a, Net(1), own, points=[0.5], metrics={"distance": Metric(None, False, transform)})
    assert found.losses[0] == 0.0
    curve = found.metric("distance")
    assert close(curve.values[1], transform(found.losses[1])) and all(e >= 0 for e in curve.standard_errors)


# -- what must hold for all ------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(SEEDS, SEEDS, SIZES, GRIDS)
def test_invariants(seed: int, other: int, sizes: list[int], grid: list[float]) -> None:
    found = loss_barrier(Net(seed), Net(other), pairs(sizes), points=grid, metrics=("accuracy", "perplexity"))
    for curve in (found.loss, *found.metrics):
        assert curve.lambdas == (0.0, *grid, 1.0)
        assert curve.barriers[0] == curve.barriers[-1] == 0.0
        assert curve.standard_errors[0] == curve.standard_errors[-1] == 0.0
        assert curve.barrier >= 0 and curve.barrier == max(curve.barriers) >= curve.interior_min
        assert all(e >= 0 for e in curve.standard_errors) and curve.standard_error >= 0
        assert curve.barriers[curve.lambdas.index(curve.argmax)] == curve.barrier
    if seed == other:
        assert all(abs(v) < 1e-12 for v in found.barriers)
    if sum(sizes) == 1:
        assert set(found.loss.standard_errors) == {0.0}


@settings(max_examples=25)
@given(SEEDS, SEEDS, SIZES, GRIDS)
def test_exchanging_the_models_mirrors_the_curve(seed: int, other: int, sizes: list[int], grid: list[float]) -> None:
    def without_counter(net: Net) -> Net:
        net.norm.num_batches_tracked = torch.tensor(0)
        return net

    a, b, batches = without_counter(Net(seed)), without_counter(Net(other)), pairs(sizes)
    metrics = ("accuracy", "perplexity")
    there = loss_barrier(a, b, batches, points=grid, metrics=metrics)
    back = loss_barrier(b, a, batches, points=[1 - x for x in grid], metrics=metrics)
    for one, two in zip((there.loss, *there.metrics), (back.loss, *back.metrics), strict=True):
        scale = max(map(abs, one.values)) + 1
        for field in ("values", "barriers", "standard_errors"):
            for p, q in zip(getattr(one, field), reversed(getattr(two, field)), strict=True):
                if one.name != "accuracy":
                    assert math.isclose(p, q, rel_tol=1e-6, abs_tol=1e-8 * scale), (one.name, field)
    assert there.losses[0] == back.losses[-1] and there.losses[-1] == back.losses[0]


@settings(max_examples=25)
@given(SEEDS, SIZES, st.randoms())
def test_it_does_not_matter_how_examples_are_divided_into_batches(seed: int, sizes: list[int], random: Any) -> None:
    a, b = Net(seed), Net(seed + 1)
    other = list(sizes)
    random.shuffle(other)
    found = [loss_barrier(a, b, pairs(s), points=[0.3, 0.5], metrics="accuracy") for s in (sizes, other, [sum(sizes)])]
    first = found[0].losses + found[0].loss.standard_errors
    for one in found[1:]:
        assert one.examples == found[0].examples
        for x, y in zip(one.losses + one.loss.standard_errors, first, strict=True):
            assert close(x, y)
        assert one.metric("accuracy").values == pytest.approx(found[0].metric("accuracy").values)


@settings(max_examples=15)
@given(SEEDS, st.floats(0.1, 10), st.floats(-3, 3))
def test_the_barrier_of_an_affine_function_of_the_loss_is_that_multiple(seed: int, factor: float, shift: float) -> None:
    def other(outputs: Tensor, batch: Any) -> Tensor:
        return factor * torch.nn.functional.cross_entropy(outputs, batch["labels"], reduction="none") + shift

    a, b, batches = Net(seed), Net(seed + 1), pairs([3, 4])
    plain, scaled = loss_barrier(a, b, batches, points=4), loss_barrier(a, b, batches, points=4, loss=other)
    for i in range(4):
        assert close(scaled.barriers[i], factor * plain.barriers[i], 10 * factor)
        assert close(scaled.loss.standard_errors[i], factor * plain.loss.standard_errors[i], 10 * factor)


@settings(max_examples=15)
@given(SEEDS)
def test_a_convex_loss_of_a_linear_model_has_no_barrier(seed: int) -> None:
    torch.manual_seed(seed)
    a, b = torch.nn.Linear(3, 4, dtype=torch.float64), torch.nn.Linear(3, 4, dtype=torch.float64)
    found = loss_barrier(a, b, pairs([5, 3], seed))
    assert found.barrier == 0.0 and found.argmax in (0.0, 1.0) and found.interior_min < 0
