"""Training batches without end, in an order that can be taken up again, and what is set apart of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from symgraph.errors import DataError, called
from symgraph.io.data import from_batches
from symgraph.measure.batches import Numbered, repeatable


@dataclass(frozen=True, slots=True)
class Chosen:
    """Some of the batches."""

    data: Numbered
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> Any:
        return self.data[self.numbers[i]]


class Feed:
    """Batches one after the other without end, in an order that can be taken up again.

    Batches that can be asked for by number are shuffled anew in each round. A loader is gone through in its own order.
    """

    def __init__(self, data: Any, generator: torch.Generator) -> None:
        self.data, self.generator = repeatable(data, "training data"), generator
        self.order: list[int] = []
        self.position = 0
        self.round_state = torch.get_rng_state()
        self._rest: Iterator[Any] | None = None

    def next(self) -> Any:
        """The next batch.

        Raises:
            DataError: a round has no batches.
        """
        return self._by_number() if isinstance(self.data, Numbered) else self._from_loader()

    def _by_number(self) -> Any:
        if self.position == len(self.order):
            self.order = torch.randperm(len(self.data), generator=self.generator).tolist()
            self.position = 0
        self.position += 1
        return self.data[self.order[self.position - 1]]

    def _from_loader(self) -> Any:
        if self._rest is None:
            self.round_state, self.position, self._rest = torch.get_rng_state(), 0, iter(self.data)
        batch = next(self._rest, None)
        if batch is None and not self.position:
            raise DataError("training data: no batches", cause="it is empty", remedy="check the length of the data")
        if batch is None:
            self._rest = None
            return self._from_loader()
        self.position += 1
        return batch

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"order": list(self.order), "position": self.position, "round": self.round_state}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` gave: a loader is gone through anew up to the same batch, from the same random state.

        Raises:
            DataError: the data has not as many batches as before.
        """
        if isinstance(self.data, Numbered):
            self.order, self.position = list(state["order"]), int(state["position"])
            if self.order and len(self.order) != len(self.data):
                cause = f"{len(self.data)} batches, {len(self.order)} before"
                raise DataError("the training data is not what it was", cause=cause, remedy="resume with the same data")
            return
        torch.set_rng_state(state["round"])
        for _ in range(int(state["position"])):
            self._from_loader()


def divided(data: Any, *, other: str = "") -> tuple[Chosen, Chosen]:
    """Training batches and, set apart for validation, every tenth one; a loader's are held in memory.

    Args:
        other: the argument that names other data for validation, where there is one.

    Raises:
        DataError: there are fewer than two batches.
    """
    found = repeatable(data, "training data")
    numbered = found if isinstance(found, Numbered) else from_batches(found, "training data")
    count = len(numbered)
    if count < 2:
        cause = f"{count} batch cannot be divided into training and validation"
        named = f"other data with {called(other)}" if other else "more data"
        remedy = f"name {named}, or make batches smaller"
        raise DataError("no validation data", cause=cause, remedy=remedy)
    apart = tuple(range(min(9, count - 1), count, 10))
    return Chosen(numbered, tuple(i for i in range(count) if i not in set(apart))), Chosen(numbered, apart)
