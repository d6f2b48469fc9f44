"""From a loader to what activation matching sees: the graph for the batches' shape, and the batches that have it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.match.activations import Activations
from symgraph.match.observe import observe
from symgraph.measure.alike_batches import alike
from symgraph.orbit.wreath import Tree
from symgraph.rules.book import RuleBook
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.progress import counted

_log = logging.getLogger(__name__)


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
    at: Sequence[str] = (),
) -> dict[tuple[int, int], Activations]:
    """Runs all models over batches of data; see `symgraph.match.activations.observe`.

    The network is traced with the first batch; batches of another shape are left out, and counted.

    Args:
        batches: at most so many; 0: all.

    Raises:
        DataError: there are no batches, or they do not fit the model.
        UsageError: the model's spaces depend on the shape of a batch, or nothing is seen `at` a value.
    """
    found_alike = alike(network, data, "match activations on")
    seen = infer(found_alike.graph, book)
    told = counted(_log, islice(found_alike, batches or None), _count(data, batches), "activations of batch")
    found = observe(symmetry, seen, models, told, units, dtype=dtype, rows=rows, moments=moments, at=at)
    return {pair: replace(x, left_out=found_alike.left_out) for pair, x in found.items()}


def _count(data: Any, most: int) -> int | None:
    """How many batches are read, where that is known."""
    there = len(data) if isinstance(data, Sized) else None
    return min(n for n in (there, most) if n) if there or most else None
