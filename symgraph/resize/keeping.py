"""What a user says of how much units count, as what folding asks: which units stay, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import UsageError, argument
from symgraph.io.data import NoData
from symgraph.io.models import Model
from symgraph.resize.importance import (
    KINDS,
    NORMS,
    Own,
    by_function,
    by_given,
    by_gradient,
    by_norm,
    checked,
    read_scores,
)
from symgraph.resize.narrow_fold import Keep
from symgraph.resize.smaller import Smaller
from symgraph.symmetry.graph import SymmetryGraph

Importance = str | Path | Mapping[str, Tensor] | Own | None


def called(importance: Importance) -> str:
    """The importance in a word."""
    if callable(importance):
        return getattr(importance, "__name__", "a function")
    return "given scores" if isinstance(importance, Mapping) else str(importance)


def keeping(
    model: Model,
    symmetry: SymmetryGraph,
    wanted: Smaller,
    importance: Importance,
    drop: bool,
    data: Iterable[Any] | NoData | None,
    loss: Any,
) -> Keep | None:
    """Which units stay.

    Raises:
        UsageError: nothing says which units to drop, scores do not fit, or data is missing or given for nothing.
    """
    by_loss, taylor, named = importance == "taylor", argument("importance", "taylor"), argument("data")
    if by_loss and (data is None or isinstance(data, NoData)):
        raise UsageError(f"{taylor} needs data", remedy=f"name training data, {named}")
    if data is not None and not (by_loss or wanted.streams):
        remedy = f"leave out {named}, give {taylor}, or prune a stream"
        raise UsageError("data is given, and nothing reads it", remedy=remedy)
    if importance is None:
        if drop:
            remedy = f"say which units stay: {argument('importance', 'l1')}, another of {', '.join(KINDS)}, or scores"
            raise UsageError("nothing says which units to drop", remedy=remedy)
        return None
    if isinstance(importance, str) and importance in NORMS:
        return Keep(partial(by_norm, importance), drop)
    if callable(importance):
        return Keep(partial(by_function, importance), drop)
    units = [space for space in wanted.spaces if not space.is_matrix]
    if importance == "taylor":
        return Keep(partial(by_given, by_gradient(model.module, symmetry, units, _batches(data), loss)), drop)
    given: Any = importance
    if not isinstance(given, str | Path | Mapping):
        kinds = ", ".join(KINDS)
        remedy = f"give one of {kinds}, the path of a file, scores by space, {{'hidden': [0.3, ...]}}, or a function"
        raise UsageError(f"the importance is of the type {type(given).__name__}", remedy=remedy)
    scores = _tensors(given) if isinstance(given, Mapping) else read_scores(given)
    return Keep(partial(by_given, checked(scores, symmetry, units)), drop)


def _tensors(scores: Mapping[str, Any]) -> dict[str, Tensor]:
    """Scores that may be given as lists of numbers."""
    return {name: torch.as_tensor(one, dtype=torch.float64) for name, one in scores.items()}


def _batches(data: Iterable[Any] | NoData | None) -> Iterable[Any]:
    return () if data is None or isinstance(data, NoData) else data
