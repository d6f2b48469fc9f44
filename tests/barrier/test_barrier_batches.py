"""Batches of every kind, batches that change or cannot be used, and values that are not finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from plain_loops import Net, pairs, refused
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from symgraph.errors import DataError
from symgraph.measure.barrier import loss_barrier

BATCHES = pairs([4, 3])
REFERENCE = loss_barrier(Net(0), Net(1), BATCHES, points=5, metrics="accuracy")


# -- what will do ----------------------------------------------------------------------------------------------------


class Stream(IterableDataset[Any]):
    """A data set that does not know how long it is."""

    def __iter__(self) -> Iterator[Any]:
        yield from zip(*(torch.cat(part) for part in zip(*BATCHES, strict=True)), strict=True)


class OnlyOnce:
    """An iterator that knows how long it is."""

    def __init__(self) -> None:
        self.rest = iter(BATCHES)

    def __len__(self) -> int:
        return len(BATCHES)

    def __iter__(self) -> OnlyOnce:
        return self

    def __next__(self) -> Any:
        return next(self.rest)


def _whole() -> TensorDataset:
    return TensorDataset(*(torch.cat(part) for part in zip(*BATCHES, strict=True)))


@pytest.mark.parametrize(
    "batches",
    [
        lambda: iter(BATCHES),
        lambda: (b for b in BATCHES),
        lambda: tuple(BATCHES),
        lambda: [((x,), y) for x, y in BATCHES],
        lambda: [{"x": x, "labels": y} for x, y in BATCHES],
        lambda: [{"x": x, "targets": y, "name": ["row"] * len(y)} for x, y in BATCHES],
        lambda: DataLoader(_whole(), batch_size=4),
        lambda: DataLoader(Stream(), batch_size=4),
        OnlyOnce,
    ],
)
def test_any_iterable_of_batches_will_do(batches: Any) -> None:
    assert loss_barrier(Net(0), Net(1), batches(), points=5, metrics="accuracy") == REFERENCE


class Both(nn.Module):
    """Two inputs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.net = Net(seed)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        found: Tensor = self.net(left - right)
        return found


def test_several_inputs_come_in_their_order() -> None:
    batches = [((x + 1, torch.ones_like(x)), y) for x, y in BATCHES]
    found = loss_barrier(Both(0), Both(1), batches, points=5, metrics="accuracy")
    assert found.losses == pytest.approx(REFERENCE.losses)


class Jitter(Dataset[Any]):
    """A data set that gives something else each time."""

    def __init__(self, order: bool = False) -> None:
        self.calls, self.order = 0, order

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        self.calls += 1
        if self.order:
            return torch.full((3,), float((i + self.calls // 4) % 4)), 0
        return torch.full((3,), float(i + self.calls)), 0


class Shrinks:
    """Batches that become fewer, or more."""

    def __init__(self, by: int) -> None:
        self.count, self.by = 3, by

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        self.count += self.by
        return iter(pairs([2] * self.count)[: self.count])


@pytest.mark.parametrize(
    "batches",
    [
        lambda: DataLoader(Jitter(), batch_size=2),
        lambda: DataLoader(Jitter(order=True), batch_size=4),
        lambda: DataLoader(_whole(), batch_size=7, shuffle=True, generator=torch.Generator().manual_seed(0)),
        lambda: Shrinks(1),
        lambda: Shrinks(-1),
    ],
)
def test_batches_that_change_between_passes(batches: Any) -> None:
    with refused(DataError, "the batches change between passes", "without shuffling"):
        loss_barrier(Net(0, torch.float32), Net(1, torch.float32), batches(), points=5)


def test_inputs_that_are_not_numbers_do_not_count_as_change() -> None:
    holes = [(torch.tensor([[float("nan")] * 3] * 2), torch.tensor([0, 1]))]
    found = loss_barrier(Net(0), Net(1), holes, points=3, loss=lambda outputs, batch: torch.ones(2))
    assert found.losses == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("batches", "texts"),
    [
        ([], ("no batches to evaluate on",)),
        (iter(()), ("no examples", "there are no batches")),
        (DataLoader(TensorDataset(torch.zeros(0, 3), torch.zeros(0))), ("no batches to evaluate on",)),
        (pairs([0]), ("no examples to evaluate on",)),
        ([torch.zeros(2, 3)], ("batches cannot be used", "a batch is a Tensor")),
        ({"x": torch.zeros(2, 3)}, ("gave no batches", "it is a dict")),
        (torch.zeros(2, 3), ("gave no batches", "it is a Tensor")),
        ("made:batches", ("gave no batches", "it is a str")),
        (3, ("gave no batches", "it is a int")),
        ([{"x": torch.zeros(2, 3)}], ("lambda 0, batch 0", "the batch has no labels")),
        ([(torch.zeros(2, 9), torch.zeros(2).long())], ("lambda 0, batch 0", "cannot be evaluated", "RuntimeError")),
        ([*BATCHES, (torch.zeros(1, 3), torch.tensor([4]))], ("lambda 0, batch 2", "cannot be evaluated", "bounds")),
        ([(torch.zeros(2, 3), torch.zeros(3).long())], ("no loss or metric fits", "(2, 4) and labels (3,)")),
        ([(torch.zeros(2, 3), torch.full((2,), -100))], ("the loss at lambda 0 is that of nothing",)),
    ],
)
def test_data_that_cannot_be_used(batches: Any, texts: tuple[str, ...]) -> None:
    with refused(DataError, *texts):
        loss_barrier(Net(0), Net(1), batches)


def test_examples_that_are_ignored_do_not_count() -> None:
    ignored = [(torch.cat((x, x + 1)), torch.cat((y, torch.full_like(y, -100)))) for x, y in BATCHES]
    found = loss_barrier(Net(0), Net(1), ignored, points=5)
    for name in ("values", "standard_errors"):
        assert getattr(found.loss, name) == pytest.approx(getattr(REFERENCE.loss, name), abs=1e-14)


# -- losses and metrics that fail ------------------------------------------------------------------------------------


class Line(nn.Module):
    """A slope and an input that is added."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope + x


def logarithm(outputs: Tensor, batch: Any) -> Tensor:
    return outputs.abs().log().flatten()


SHIFTS = [(torch.full((2, 1), 3.0), torch.zeros(2)), (torch.tensor([[0.0], [5.0], [0.0]]), torch.zeros(3))]


def test_a_loss_that_is_not_finite_names_the_point_and_the_batch() -> None:
    assert loss_barrier(Line(1.0), Line(-1.0), SHIFTS, points=[0.25], loss=logarithm).losses
    with refused(DataError, "the loss is not finite at lambda 0.5, batch 1", "2 of 3 values"):
        loss_barrier(Line(1.0), Line(-1.0), SHIFTS, points=5, loss=logarithm)


def test_a_metric_that_is_not_finite_is_named() -> None:
    with refused(DataError, "the depth is not finite at lambda 0.5, batch 1", "2 of 3 values"):
        loss_barrier(
            Line(1.0),
            Line(-1.0),
            SHIFTS,
            points=5,
            loss=lambda o, b: o.square().flatten(),
            metrics={"depth": logarithm},
        )


def test_a_value_without_weight_may_be_anything() -> None:
    def weighted(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        values = logarithm(outputs, batch)
        return values, values.isfinite().float()

    found = loss_barrier(Line(1.0), Line(-1.0), SHIFTS, points=3, loss=weighted)
    assert found.losses[1] == pytest.approx((2 * np.log(3) + np.log(5)) / 3)
