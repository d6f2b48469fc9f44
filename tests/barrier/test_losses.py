"""Losses and metrics of each example, from outputs of every shape, against plain loops."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_loops import refused
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.io.columns import IGNORED
from symgraph.measure.losses import (
    LOSSES,
    METRICS,
    Metric,
    NoLossFits,
    accuracy,
    cross_entropy,
    model_loss,
    named_loss,
    named_metrics,
    scored,
)

SIZES = st.integers(1, 4)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, count, shape, generator=torch.Generator().manual_seed(seed + 99))


def loss_of(row: Tensor, label: int) -> float:
    return float(torch.logsumexp(row, 0) - row[label])


def hit(row: Tensor, label: int) -> float:
    return float(int(row.argmax()) == label)


def same(found: tuple[Tensor, Tensor], values: list[float], weights: list[float]) -> bool:
    return found[0].tolist() == pytest.approx(values) and found[1].tolist() == weights


# -- against loops ---------------------------------------------------------------------------------------------------

PAIRS = [(cross_entropy, loss_of), (accuracy, hit)]


@pytest.mark.parametrize(("quantity", "one"), PAIRS)
@given(SIZES, SIZES, st.integers(0, 9))
def test_one_label_for_each_example(quantity: Any, one: Any, n: int, c: int, seed: int) -> None:
    logits, labels = random(n, c, seed=seed), classes(c, n, seed=seed)
    labels[0] = IGNORED
    expected = [one(row, int(y)) if y >= 0 else 0.0 for row, y in zip(logits, labels, strict=True)]
    found = quantity({"logits": logits}, {"labels": labels})
    assert same(found, expected, [float(y >= 0) for y in labels])


@pytest.mark.parametrize(("quantity", "one"), PAIRS)
@pytest.mark.parametrize("channels_last", [True, False])
@given(SIZES, st.integers(2, 4), st.integers(5, 6), st.integers(0, 9))
def test_a_label_for_each_place(
    quantity: Any, one: Any, channels_last: bool, n: int, places: int, c: int, seed: int
) -> None:
    logits, labels = random(n, places, c, seed=seed), classes(c, n, places, seed=seed)
    labels[0, 1:] = IGNORED
    values, weights = [], []
    for rows, ys in zip(logits, labels, strict=True):
        counted = [one(row, int(y)) for row, y in zip(rows, ys, strict=True) if y != IGNORED]
        values.append(math.fsum(counted) / len(counted))
        weights.append(float(len(counted)))
    outputs = logits if channels_last else logits.movedim(-1, 1)
    assert same(quantity(outputs, {"label": labels}), values, weights)


@pytest.mark.parametrize(("quantity", "one"), PAIRS)
@pytest.mark.parametrize("given_labels", ["none", "same", "prompt ignored"])
@given(SIZES, st.integers(2, 5), st.integers(0, 9))
def test_a_language_model_is_asked_for_the_next_token(
    quantity: Any, one: Any, given_labels: str, n: int, length: int, seed: int
) -> None:
    ids, logits = classes(7, n, length, seed=seed), random(n, length, 7, seed=seed)
    labels = ids.clone()
    batch = {"input_ids": ids}
    if given_labels == "prompt ignored":
        labels[:, :1] = IGNORED
        labels[0, -1] = IGNORED
    if given_labels != "none":
        batch["labels"] = labels
    values, weights = [], []
    for i in range(n):
        kept = [one(logits[i, t], int(ids[i, t + 1])) for t in range(length - 1) if int(labels[i, t + 1]) != IGNORED]
        values.append(math.fsum(kept) / max(len(kept), 1))
        weights.append(float(len(kept)))
    assert same(quantity((logits, "more"), batch), values, weights)


def test_padding_is_not_asked_for() -> None:
    ids, logits = torch.tensor([[1, 2, 3], [4, 5, 0]]), random(2, 3, 7)
    values, weights = cross_entropy(logits, {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])})
    assert weights.tolist() == [2.0, 1.0]
    assert float(values[1]) == pytest.approx(loss_of(logits[1, 0], 5))


def test_labels_of_a_masked_language_model_stay_in_their_places() -> None:
    ids, logits = torch.tensor([[1, 9, 3]]), random(1, 3, 10)
    labels = torch.tensor([[IGNORED, 2, IGNORED]])
    values, weights = cross_entropy(logits, {"input_ids": ids, "labels": labels})
    assert weights.tolist() == [1.0] and float(values[0]) == pytest.approx(loss_of(logits[0, 1], 2))


@pytest.mark.parametrize(("shape", "target"), [((3,), (3,)), ((3, 1), (3,)), ((3, 2), (3, 2)), ((3, 4), (3, 2, 2))])
def test_floats_are_targets_of_a_regression(shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    outputs, wanted = random(*shape), random(*target, seed=1)
    values, weights = cross_entropy(outputs, {"targets": wanted})
    rows = zip(outputs.reshape(3, -1), wanted.reshape(3, -1), strict=True)
    assert values.tolist() == pytest.approx([float(((a - b) ** 2).mean()) for a, b in rows])
    assert weights.tolist() == [1.0] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_scored_in_single(dtype: torch.dtype) -> None:
    logits, labels = random(2, 3).to(dtype), torch.tensor([0, 2])
    values, _ = cross_entropy(logits, {"labels": labels})
    assert values.dtype == torch.float32
    assert torch.equal(values, cross_entropy(logits.float(), {"labels": labels})[0])


# -- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "outputs", "batch", "text"),
    [
        (cross_entropy, {"states": random(2, 3)}, {"labels": classes(3, 2)}, "no logits"),
        (cross_entropy, SimpleNamespace(logits=None), {"labels": classes(3, 2)}, "no logits"),
        (cross_entropy, (), {"labels": classes(3, 2)}, "no logits"),
        (cross_entropy, torch.tensor(3.0), {"labels": classes(3, 2)}, "no logits"),
        (cross_entropy, random(2, 3), {"x": random(2, 3)}, "no labels"),
        (cross_entropy, random(2, 3), {"labels": classes(3, 4)}, "(2, 3) and labels (4,) do not go together"),
        (cross_entropy, random(2, 3), {"labels": random(2, 4)}, "(2, 3) and targets (2, 4) do not go together"),
        (accuracy, random(2, 3), {"labels": random(2)}, "accuracy needs class numbers"),
        (model_loss, {"logits": random(2, 3)}, {}, "the model returns no loss"),
        (model_loss, (random(2, 3),), {}, "the model returns no loss"),
    ],
)
def test_outputs_and_batches_that_do_not_go_together(quantity: Any, outputs: Any, batch: Any, text: str) -> None:
    with pytest.raises(NoLossFits) as caught:
        quantity(outputs, batch)
    assert text in str(caught.value)


# -- what a function may return --------------------------------------------------------------------------------------

BATCH = {"scale": torch.tensor(1.0), "x": torch.zeros(300, 2)}


@pytest.mark.parametrize(
    ("result", "values", "weights"),
    [
        (torch.tensor(0.5), [0.5], [300.0]),
        (torch.tensor(0.5, dtype=torch.bfloat16), [0.5], [300.0]),
        (0.5, [0.5], [300.0]),
        (torch.tensor(3), [3.0], [300.0]),
        (torch.tensor([True, False]), [1.0, 0.0], [1.0, 1.0]),
        (torch.tensor([[1.0, 2.0], [3.0, 5.0]]), [1.5, 4.0], [1.0, 1.0]),
        (torch.tensor([[1, 2], [3, 5]]), [1.5, 4.0], [1.0, 1.0]),
        ([0.25, 0.5], [0.25, 0.5], [1.0, 1.0]),
        ((torch.tensor([1.0, 2.0]), torch.tensor([3, 4])), [1.0, 2.0], [3, 4]),
        (torch.tensor([1.0, 2.0], requires_grad=True), [1.0, 2.0], [1.0, 1.0]),
    ],
)
def test_a_value_for_each_example_or_one_for_all(result: Any, values: list[float], weights: list[float]) -> None:
    found = scored(result, BATCH)
    assert same(found, values, weights)


@pytest.mark.parametrize(
    "result", [(torch.zeros(2), torch.ones(3)), (torch.zeros(2, 2), torch.ones(2, 2)), (torch.tensor(1.0), 2.0)]
)
def test_values_and_weights_that_do_not_go_together(result: Any) -> None:
    with pytest.raises(NoLossFits, match="are not one of each for an example"):
        scored(result, BATCH)


def test_an_example_without_dimensions_weighs_one() -> None:
    assert scored(torch.tensor(2.0), {"x": torch.tensor(1.0)})[1].tolist() == [1.0]


# -- names -----------------------------------------------------------------------------------------------------------


def test_losses_and_metrics_are_found_by_name() -> None:
    assert named_loss("cross-entropy") == ("cross-entropy", cross_entropy)
    assert named_loss(accuracy) == ("accuracy", accuracy)
    assert named_metrics(()) == named_metrics(None) == {}
    assert named_metrics("accuracy") == named_metrics(["accuracy", "accuracy"]) == {"accuracy": METRICS["accuracy"]}
    own = Metric(accuracy, higher_is_better=False)
    assert named_metrics({"own": own, "f": accuracy}) == {"own": own, "f": Metric(accuracy)}


def test_names_of_nothing() -> None:
    with refused(UsageError, "no loss 'x'", *LOSSES):
        named_loss("x")
    with refused(UsageError, "no metric 'x'", *METRICS):
        named_metrics(["accuracy", "x"])
    with refused(UsageError, "cannot be called 'loss'"):
        named_metrics({"loss": accuracy})


def test_perplexity_does_not_overflow() -> None:
    assert METRICS["perplexity"].summary(1e9) == math.exp(700) and METRICS["accuracy"].summary(0.25) == 0.25
