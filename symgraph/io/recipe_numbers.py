"""Settings of recipes: numbers that are the same everywhere, go from layer to layer, or hold for some tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from symgraph.errors import UsageError


def evaluated(setting: Any, tensor: str, depth: float, key: str) -> float | None:
    """A setting at a tensor; None where no filter fits it.

    Args:
        depth: 0 in the first layer, 1 in the last.
        key: what messages call the setting.

    Raises:
        UsageError: it is no number there.
    """
    alone = number(setting)
    if alone is not None:
        return alone
    parts = [setting] if isinstance(setting, Mapping) else setting
    if isinstance(parts, list) and parts:
        along = [place for place in map(number, parts) if place is not None]
        if len(along) == len(parts):
            return float(np.interp(depth * (len(along) - 1), range(len(along)), along))
        if all(isinstance(part, Mapping) and "value" in part for part in parts):
            fitting = (
                part["value"] for part in parts if part.get("filter") in (None, "*") or str(part["filter"]) in tensor
            )
            return next((evaluated(value, tensor, depth, key) for value in fitting), None)
    remedy = "give a number, a list of numbers, or a list of values with filters"
    raise UsageError(f"the recipe's `{key}` is {setting!r}", remedy=remedy)


def numbers(setting: Any) -> Iterator[float]:
    """All numbers of a setting."""
    alone = number(setting)
    if alone is not None:
        yield alone
    parts = [setting.get("value")] if isinstance(setting, Mapping) else setting
    for part in parts if isinstance(parts, list) else ():
        yield from numbers(part)


def filters(setting: Any) -> Iterator[str]:
    """All parts of names that a setting asks for."""
    for part in [setting] if isinstance(setting, Mapping) else setting if isinstance(setting, list) else ():
        if isinstance(part, Mapping) and part.get("filter") not in (None, "*"):
            yield str(part["filter"])


def number(value: Any) -> float | None:
    """A number; also one that YAML takes for a text, as it does 1e-3."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return None
