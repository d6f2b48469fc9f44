"""From a loader to what activation matching sees: the graph for the batches' shape, and the batches that have it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import DataError
from symgraph.inference.pipeline import infer
from symgraph.io.example import LABEL_KEYS
from symgraph.match.activations import Activations
from symgraph.match.observe import observe
from symgraph.match.wreath import Tree
from symgraph.measure.batches import batch_tensors, repeatable
from symgraph.measure.forward import accepted_names
from symgraph.rules.book import RuleBook
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace
from symgraph.tracing.progress import counted

_log = logging.getLogger(__name__)

Inputs = Mapping[str, Tensor]


def observe_models(
    symmetry: SymmetryGraph,
    network: nn.Module,
    book: RuleBook,
    models: Sequence[Mapping[str, Tensor]],
    data: Any,
    units: Sequence[Tree],
    *,
    dtype: torch.dtype = torch.float32,
    batches: int = 30,
    rows: int = 128,
    moments: bool = False,
) -> dict[tuple[int, int], Activations]:
    """Runs all models over batches of data; see `symgraph.match.activations.observe`.

    The network is traced with the first batch; batches of another shape are left out, and counted.

    Args:
        batches: at most so many; 0: all.

    Raises:
        DataError: there are no batches, or they do not fit the model.
        UsageError: the model's spaces depend on the shape of a batch.
    """
    accepted = accepted_names(network)
    given = (_inputs(raw, accepted) for raw in repeatable(data, "training data"))
    first = next(given, None)
    if first is None:
        raise DataError("no batches to match activations on", remedy="check the length of the data")
    seen = infer(_traced(network, first, accepted), book)
    names = [n.target for n in seen.graph.inputs]
    alike = _Alike(given, first)
    chosen = (_named(x, names, accepted) for x in islice(alike, batches or None))
    told = counted(_log, chosen, _count(data, batches), "activations of batch")
    found = observe(symmetry, seen, models, told, units, dtype=dtype, rows=rows, moments=moments)
    return {pair: replace(x, left_out=alike.left_out) for pair, x in found.items()}


def _count(data: Any, most: int) -> int | None:
    """How many batches are read, where that is known."""
    there = len(data) if isinstance(data, Sized) else None
    return min(n for n in (there, most) if n) if there or most else None


def _inputs(raw: Any, accepted: frozenset[str]) -> dict[str, Tensor]:
    """What the network is called with, by name where it takes names; labels left out."""
    found = {k: t for k, t in batch_tensors(raw).items() if k not in LABEL_KEYS}
    named = {k: t for k, t in found.items() if k in accepted}
    return named or found


def _traced(network: nn.Module, first: Inputs, accepted: frozenset[str]) -> Any:
    named = set(first) <= accepted
    args, kwargs = ((), dict(first)) if named else (tuple(first.values()), {})
    return trace(network, args, kwargs, name=type(network).__name__)


class _Alike:
    """The first batch, and those of the rest that have its shape; the others are counted."""

    def __init__(self, rest: Iterable[dict[str, Tensor]], first: dict[str, Tensor]) -> None:
        self.rest, self.first, self.left_out = rest, first, 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        yield self.first
        shapes = {k: t.shape for k, t in self.first.items()}
        for x in self.rest:
            if {k: t.shape for k, t in x.items()} == shapes:
                yield x
            else:
                self.left_out += 1


def _named(given: Inputs, names: Sequence[str], accepted: frozenset[str]) -> dict[str, Tensor]:
    """Under the names of the graph's inputs; unnamed ones in their order."""
    return {n: given[n] for n in names} if set(names) <= set(given) else dict(zip(names, given.values(), strict=False))
