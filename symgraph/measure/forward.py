"""One network called on tensors that stand in the place of its own."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.io.example import LABEL_KEYS
from symgraph.measure.batches import Batch
from symgraph.tracing.graph_module import GraphModule


def accepted_names(network: nn.Module) -> frozenset[str]:
    """Names of the arguments that the network's forward takes."""
    if isinstance(network, GraphModule):
        return frozenset(input_node.target for input_node in network.traced.inputs)
    parameters = inspect.signature(network.forward).parameters.values()
    return frozenset(
        parameter.name
        for parameter in parameters
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    )


def arguments(
    batch: Batch, accepted: frozenset[str], *, labels: bool = False
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """What a network that takes these names is called with: by name where it takes any of them, else in order."""
    inputs = {name: tensor for name, tensor in batch.items() if labels or name not in LABEL_KEYS}
    named: dict[str, Any] = {name: tensor for name, tensor in inputs.items() if name in accepted}
    positional = () if named else tuple(inputs.values())
    if "use_cache" in accepted:
        named["use_cache"] = False
    return positional, named


class Point:
    """A network at tensors that stand in the place of its own.

    Batches belong on `device` and, where they are floating, in `dtype` (None: as they are).
    """

    def __init__(self, network: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
        self.network, self.tensors, self.dtype = network, tensors, dtype
        self.accepted = accepted_names(network)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self.tensors.values())).device

    def outputs(self, batch: Batch, *, labels: bool = False) -> Any:
        """What the network returns there; with `labels` it is given those too, for a loss of its own."""
        positional, named = arguments(batch, self.accepted, labels=labels)
        return torch.func.functional_call(self.network, dict(self.tensors), positional, named)


def fixed_tensors(
    network: nn.Module, moving: Iterable[str], dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """The network's own tensors but for those that move, where and as they are computed with."""
    moved = set(moving)
    named = (*network.named_parameters(), *network.named_buffers())
    return {
        name: tensor.detach().to(device, dtype if tensor.is_floating_point() else None)
        for name, tensor in named
        if name not in moved
    }


def usual_dtype(network: nn.Module) -> torch.dtype:
    """Float64 for a network that is so, else float32: halves have no room for small steps."""
    first = next(
        (parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()), torch.float32
    )
    return torch.float64 if first is torch.float64 else torch.float32
