"""The loss of the user's network at tensors that are given to it, differentiable in them; and batches without end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from symgraph.errors import DataError, one_line, shorten
from symgraph.io.data import batch_length, from_batches
from symgraph.measure.forward import accepted_names, forward, placed
from symgraph.measure.losses import NoLossFits, PerExample, model_loss, named_loss

Batch = Mapping[str, Tensor]


class Objective:
    """The mean loss of a batch through `torch.func.functional_call` on one network, which is left as it is.

    `loss` is a name or a function as for `loss_barrier`; where no such loss fits, the network's own is used.
    """

    def __init__(self, network: nn.Module, loss: str | PerExample = "cross-entropy", dtype: torch.dtype | None = None):
        self.network, self.dtype = network, dtype
        self.loss = named_loss(loss)[1]
        self.accepted = accepted_names(network)

    def mean(self, tensors: Mapping[str, Tensor], raw: Any, where: str) -> tuple[Tensor, float]:
        """The mean over the batch (a scalar that keeps its graph), and how much it weighs among other batches.

        Raises:
            DataError: the batch does not fit the model, or no loss fits its outputs.
        """
        device = next(iter(tensors.values())).device
        given = placed(raw, device, self.dtype)
        try:
            return self._mean(tensors, given)
        except NoLossFits as e:
            cause = f"{e}; the batch has {shorten(given)}"
            remedy = "name the label column, or pass a function of outputs and batch"
            raise DataError(f"{where}: no loss fits", cause=cause, remedy=remedy) from e
        except (IndexError, RuntimeError, ValueError, TypeError) as e:
            remedy = "check that the data is the kind the model takes (shapes, vocabulary, number of classes)"
            raise DataError(f"{where}: the model cannot be evaluated", cause=one_line(e), remedy=remedy) from e

    def _mean(self, tensors: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, float]:
        own = self.loss is model_loss
        outputs = forward(self.network, tensors, batch, self.accepted, labels=own)
        if own:
            return _own_loss(outputs), float(batch_length(dict(batch)))
        try:
            return _mean_of(self.loss(outputs, batch), batch)
        except NoLossFits:
            if not ("labels" in batch and "labels" in self.accepted):
                raise
        self.loss = model_loss
        return self._mean(tensors, batch)

    @torch.no_grad()
    def over(self, tensors: Mapping[str, Tensor], batches: Iterable[Any], where: str) -> float:
        """The mean over all batches.

        Raises:
            DataError: there are none, or they do not fit the model.
        """
        total = weight = 0.0
        for i, batch in enumerate(batches):
            mean, share = self.mean(tensors, batch, f"{where}, batch {i}")
            total, weight = total + float(mean) * share, weight + share
        if not weight:
            raise DataError(
                f"{where}: no examples", cause="there are no batches", remedy="check the length of the data"
            )
        return total / weight


def _own_loss(outputs: Any) -> Tensor:
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if not isinstance(loss, Tensor):
        raise NoLossFits("the model returns no loss")
    return loss.mean()


def _mean_of(result: Any, batch: Batch) -> tuple[Tensor, float]:
    if isinstance(result, tuple):
        values, weights = result
        share = weights.sum()
        return (values * weights).sum() / share.clamp(min=1e-30), float(share)
    return torch.as_tensor(result).mean(), float(batch_length(dict(batch)))


def usual_dtype(network: nn.Module) -> torch.dtype:
    """Float64 for a network that is so, else float32: halves have no room for small steps."""
    first = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    return torch.float64 if first is torch.float64 else torch.float32


def fixed_tensors(
    network: nn.Module, moving: Iterable[str], dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """The network's tensors that the canonical form does not hold, where and as they are computed with."""
    moved = set(moving)
    found = {}
    for name, t in (*network.named_parameters(), *network.named_buffers()):
        if name not in moved:
            found[name] = t.detach().to(device, dtype if t.is_floating_point() else None)
    return found


def is_shared_mask(t: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether entries that are not finite are the same in all models."""
    differs = torch.stack([t != o for o in others]).any(0)
    return not bool((t.isfinite() | differs).all())


class EvenMixture:
    """The loss barrier of the even mixture of models, whose own losses do not depend on how they are matched."""

    def __init__(self, objective: Objective, network: nn.Module, states: Sequence[Mapping[str, Tensor]], data: Any):
        self.objective, self.data = objective, data
        first, *others = states
        self.device, self.dtype = next(iter(first.values())).device, usual_dtype(network)
        masks = {n for n, t in first.items() if is_shared_mask(t, [s[n] for s in others])}
        self.names = [n for n, t in first.items() if t.is_floating_point() and n not in masks]
        self.rest = fixed_tensors(network, self.names, self.dtype, self.device)
        self.chord = sum(self._loss([s]) for s in states) / len(states)

    def barrier(self, states: Sequence[Mapping[str, Tensor]]) -> float:
        """The loss of the mean of the models over the mean of their losses; infinite where it is not finite."""
        found = self._loss(states) - self.chord
        return found if math.isfinite(found) else math.inf

    def _loss(self, states: Sequence[Mapping[str, Tensor]]) -> float:
        mean = {n: sum((s[n] for s in states[1:]), states[0][n]) / len(states) for n in self.names}
        tensors = self.rest | {n: t.to(self.dtype) for n, t in mean.items()}
        return self.objective.over(tensors, self.data, "data for the choice of alpha")


@runtime_checkable
class Numbered(Protocol):
    """Batches that can be asked for by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Any: ...


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
        self.data, self.generator = held(data, "training data"), generator
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
            raise _empty("training data")
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


def held(data: Any, where: str) -> Any:
    """Batches that can be gone through again: as they are, or all of them in memory.

    Raises:
        DataError: there are none.
    """
    if isinstance(data, Iterator | Mapping | Tensor | str) or not isinstance(data, Iterable | Numbered):
        return from_batches(data, where)
    try:
        empty = not len(data)  # type: ignore[arg-type]
    except TypeError:
        return data
    if empty:
        raise _empty(where)
    return data


def _empty(where: str) -> DataError:
    return DataError(f"{where}: no batches", cause="it is empty", remedy="check the length of the data")


def divided(data: Any) -> tuple[Chosen, Chosen]:
    """Training batches and, set apart for validation, every tenth one; a loader's are held in memory.

    Raises:
        DataError: there are fewer than two batches.
    """
    found = held(data, "training data")
    numbered = found if isinstance(found, Numbered) else from_batches(found, "training data")
    count = len(numbered)
    if count < 2:
        cause = f"{count} batch cannot be divided into training and validation"
        raise DataError("no validation data", cause=cause, remedy="give validation data, or smaller batches")
    apart = tuple(range(min(9, count - 1), count, 10))
    return Chosen(numbered, tuple(i for i in range(count) if i not in set(apart))), Chosen(numbered, apart)
