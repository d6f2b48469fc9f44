"""Losses and metrics as people have them: torch's, their own by labels or by batch, and where these fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

import symgraph
from symgraph.errors import DataError, UsageError
from symgraph.measure.losses import named_metrics
from symgraph.measure.own_function import OwnFunction

X, LABELS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
BATCHES = [(X[:4], LABELS[:4]), (X[4:], LABELS[4:])]


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).eval()


def by_labels(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels)


def by_batch(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(outputs, batch[1])


LOSSES: list[Callable[..., Any]] = [
    functional.cross_entropy,
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(reduction="none"),
    by_labels,
    by_batch,
    lambda o, y: functional.cross_entropy(o, y),
    lambda o, b: functional.cross_entropy(o, b[1]),
    lambda o, b: functional.cross_entropy(o, b["labels"]),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_one_loss_in_every_form(loss: Any) -> None:
    known = symgraph.loss_barrier(net(0), net(1), BATCHES, points=3)
    found = symgraph.loss_barrier(net(0), net(1), BATCHES, points=3, loss=loss)
    assert found.losses == pytest.approx(known.losses, rel=1e-6)


def test_the_users_own_batch_with_all_that_is_in_it() -> None:
    batches = [{"input": X, "target": LABELS, "weight": torch.ones(8), "note": "any"}]
    seen: list[Any] = []

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        seen.append(batch["note"])
        losses = functional.cross_entropy(outputs, batch["target"], reduction="none")
        return torch.mean(losses * batch["weight"])

    assert symgraph.loss_barrier(net(0), net(1), batches, points=3, loss=loss).barrier >= 0
    assert seen == ["any"] * 3


def test_squared_errors_and_functions_of_outputs_alone() -> None:
    batches = [(X, torch.randn(8, 3, generator=torch.Generator().manual_seed(1)))]
    known = symgraph.loss_barrier(net(0), net(1), batches, points=3, loss="mse").losses
    forms: list[Callable[..., Any]] = [functional.mse_loss, nn.MSELoss(), lambda o, y: (o - y).square().mean()]
    for loss in forms:
        assert symgraph.loss_barrier(net(0), net(1), batches, points=3, loss=loss).losses == pytest.approx(known)
    alone = symgraph.loss_barrier(net(0), net(1), [[X]], points=3, loss=lambda outputs: outputs.square().mean())
    assert len(alone.losses) == 3


class Hits(nn.Module):
    """Like a metric of torchmetrics: an object that is called with predictions and labels."""

    __module__ = "torchmetrics.classification"

    def forward(self, preds: Tensor, target: Tensor) -> Tensor:
        return (preds.argmax(-1) == target).float().mean()


@pytest.mark.parametrize("metrics", [Hits(), [Hits()], {"Hits": Hits()}])
def test_metrics_as_objects(metrics: Any) -> None:
    found = symgraph.loss_barrier(net(0), net(1), BATCHES, points=3, metrics=metrics)
    known = symgraph.loss_barrier(net(0), net(1), BATCHES, points=3, metrics="accuracy")
    assert found.metric("Hits").values == pytest.approx(known.metric("accuracy").values)


def test_names_and_functions_side_by_side() -> None:
    assert list(named_metrics(["accuracy", by_labels])) == ["accuracy", "by_labels"]
    with pytest.raises(UsageError, match="no metric 'acuracy'"):
        named_metrics(["acuracy"])
    with pytest.raises(UsageError, match="a int is no loss"):
        symgraph.loss_barrier(net(0), net(1), BATCHES, loss=3)  # type: ignore[arg-type]


def fails(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs.no_such_thing  # type: ignore[attr-defined, no-any-return]


def test_what_fails_inside_is_named_with_its_line() -> None:
    with pytest.raises(UsageError) as caught:
        symgraph.loss_barrier(net(0), net(1), BATCHES, points=3, loss=fails)
    assert "the function fails fails, and the batch has inputs, labels" in str(caught.value)
    assert "AttributeError" in str(caught.value) and "test_own_functions.py:" in str(caught.value)
    assert "return outputs.no_such_thing" in str(caught.value)


def test_it_trains_learned_matching() -> None:
    found = symgraph.align(
        net(0), net(1), X, method="learned", data=BATCHES, loss=functional.cross_entropy, learning={"steps": 3}
    )
    assert found.learned is not None


def test_what_worked_is_called_again() -> None:
    calls: list[Any] = []

    def loss(o: Tensor, second: Any) -> Tensor:
        calls.append(type(second))
        return functional.cross_entropy(o, second)

    symgraph.loss_barrier(net(0), net(1), BATCHES, points=3, loss=loss)
    assert calls.count(Tensor) == 6 and len(calls) < 9
    assert OwnFunction(loss).name == "loss"


def test_a_batch_of_three_is_refused() -> None:
    with pytest.raises(DataError, match="a batch is a tuple of 3"):
        symgraph.loss_barrier(net(0), net(1), [(X, X, LABELS)], points=3)
