"""Batches as tensors by name, and one network called on tensors that stand in the place of its own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import DataError
from symgraph.measure.losses import LABEL_KEYS


def accepted_names(network: nn.Module) -> frozenset[str]:
    """Names of the arguments that the network's forward takes."""
    return frozenset(inspect.signature(network.forward).parameters)


def batch_tensors(raw: Any) -> dict[str, Tensor]:
    """The tensors of one batch by name; a pair is inputs and labels.

    Raises:
        DataError: the batch is neither a mapping nor a pair.
    """
    if isinstance(raw, list | tuple) and len(raw) == 2:
        raw = {"inputs": raw[0], "labels": raw[1]}
    if not isinstance(raw, Mapping):
        remedy = "give dictionaries of tensors or (x, y) pairs"
        raise DataError("batches cannot be used", cause=f"a batch is a {type(raw).__name__}", remedy=remedy)
    return {k: t for k, t in raw.items() if isinstance(t, Tensor)}


def placed(raw: Any, device: torch.device, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors of one batch where and, if they are floating, in the precision that is computed with.

    Raises:
        DataError: the batch is neither a mapping nor a pair.
    """
    return {k: t.to(device, dtype if t.is_floating_point() else None) for k, t in batch_tensors(raw).items()}


def forward(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
    accepted: frozenset[str],
    *,
    labels: bool = False,
) -> Any:
    """The outputs of the network at these tensors; with `labels` it is given those too, for a loss of its own."""
    positional, named = arguments(batch, accepted, labels=labels)
    return torch.func.functional_call(network, dict(tensors), positional, named)


def arguments(
    batch: Mapping[str, Tensor], accepted: frozenset[str], *, labels: bool = False
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """What a network that takes these names is called with: by name where it takes any of them, else in order."""
    inputs = {k: t for k, t in batch.items() if labels or k not in LABEL_KEYS}
    named: dict[str, Any] = {k: t for k, t in inputs.items() if k in accepted}
    positional = () if named else tuple(inputs.values())
    if "use_cache" in accepted:
        named["use_cache"] = False
    return positional, named


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode; afterwards every module is in the mode it was in."""
    training = [m for m in network.modules() if m.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
