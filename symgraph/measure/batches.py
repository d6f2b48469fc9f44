"""Batches: their tensors by name and where they are computed with, and that every pass over them is the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from symgraph.errors import DataError
from symgraph.io.data import from_batches

Batch = Mapping[str, Tensor]


@runtime_checkable
class Numbered(Protocol):
    """Batches that can be asked for by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Any: ...


class Placed(dict[str, Tensor]):
    """The tensors of one batch by name, and with the batch as it was `given`, where it is computed."""

    def __init__(self, tensors: Mapping[str, Tensor], given: Any) -> None:
        super().__init__(tensors)
        self.given = given


def batch_tensors(raw: Any) -> dict[str, Tensor]:
    """The tensors of one batch by name: of a mapping, of inputs alone, or of inputs (one or several) and labels.

    Raises:
        DataError: the batch is none of these.
    """
    if isinstance(raw, list | tuple) and len(raw) in (1, 2):
        inputs = _named(raw[0])
        raw = {**inputs, "labels": raw[1]} if len(raw) == 2 else inputs
    if not isinstance(raw, Mapping):
        remedy = "give dictionaries of tensors or (x, y) pairs"
        what = f"a {type(raw).__name__}{f' of {len(raw)}' if isinstance(raw, list | tuple) else ''}"
        raise DataError("batches cannot be used", cause=f"a batch is {what}", remedy=remedy)
    return {name: tensor for name, tensor in raw.items() if isinstance(tensor, Tensor)}


def _named(inputs: Any) -> Mapping[str, Any]:
    """Inputs by name, or under numbers in the order in which a model takes them."""
    if isinstance(inputs, Mapping):
        return inputs
    if isinstance(inputs, list | tuple) and all(isinstance(t, Tensor) for t in inputs):
        return {f"inputs {i}": t for i, t in enumerate(inputs)}
    return {"inputs": inputs}


def placed(raw: Any, device: torch.device, dtype: torch.dtype | None) -> Placed:
    """The tensors of one batch where and, if they are floating, in the precision that is computed with.

    Raises:
        DataError: the batch is neither a mapping nor a pair.
    """

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    given = tree_map_only(Tensor, move, dict(raw) if isinstance(raw, Mapping) else raw)
    return Placed(batch_tensors(given), given)


def repeatable(batches: Any, source: str, empty: str = "") -> Any:
    """Batches that can be gone through again: as they are, or all of them in memory.

    Args:
        source: what messages call the batches; `empty` is what they say where there are none.

    Raises:
        DataError: there are none.
    """
    if isinstance(batches, Iterator | Mapping | Tensor | str) or not isinstance(batches, Iterable | Numbered):
        return from_batches(batches, source)
    if length(batches) == 0:
        cause = "" if empty else "it is empty"
        raise DataError(empty or f"{source}: no batches", cause=cause, remedy="check the length of the data loader")
    return batches


def held(batches: Any) -> Any:
    """Batches that could be gone through once alone, in memory; all others as they are."""
    return list(batches) if isinstance(batches, Iterator) else batches


def counted(batches: Any, purpose: str) -> Any:
    """Repeatable batches that know how many they are.

    Raises:
        DataError: there are none.
    """
    readable = repeatable(batches, "batches", f"no batches {purpose}")
    return readable if readable is batches and length(readable) is not None else list(from_batches(readable))


def length(batches: Any) -> int | None:
    """How many batches there are, as far as that is known."""
    try:
        return len(batches)
    except TypeError:
        return None


class Passes:
    """Raises where a later pass over the data differs from the first: each example is compared with itself."""

    def __init__(self) -> None:
        self.first: list[dict[str, Tensor]] = []
        self.complete = False

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches of one more pass, each compared with that of the first.

        Raises:
            DataError: one is another than in the first pass, or there are fewer.
        """
        count = 0
        for number, raw in enumerate(batches):
            self._require_same(number, batch_tensors(raw))
            count += 1
            yield raw
        if count != len(self.first):
            self._fail(f"{len(self.first)} batches in the first pass and {count} in a later one")
        self.complete = True

    @torch.inference_mode()
    def _require_same(self, number: int, batch: Batch) -> None:
        # One sum for each example, so that examples that change places are noticed too.
        sums = {name: tensor.flatten(1).sum(1) if tensor.ndim > 1 else tensor.clone() for name, tensor in batch.items()}
        if not self.complete:
            self.first.append(sums)
        elif number >= len(self.first) or not _same(sums, self.first[number]):
            self._fail(f"batch {number} is another one than before")

    def _fail(self, cause: str) -> None:
        remedy = "use a loader without shuffling, sampling or augmentation, or pass a list of its batches"
        raise DataError("the batches change between passes", cause=cause, remedy=remedy)


def _same(before: Batch, now: Batch) -> bool:
    return before.keys() == now.keys() and all(
        before[name].shape == now[name].shape and _equal(before[name], now[name]) for name in before
    )


def _equal(before: Tensor, now: Tensor) -> bool:
    return bool(((before == now) | ((before != before) & (now != now))).all())
