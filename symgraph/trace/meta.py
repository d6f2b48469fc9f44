"""Models without weights, traced as if they were on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_map_only


@contextmanager
def as_if_on_cpu(model: nn.Module, args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """The example inputs, and inside the block a model, that claim to be on the CPU where they are on the meta device.

    Code that asks a tensor for its device takes the same path as with weights, and mixes with constants of its own.
    """
    if not any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        yield args, kwargs
        return
    mode = FakeTensorMode(shape_env=ShapeEnv(tracked_fakes=[]), allow_non_fake_inputs=True, export=True)
    memo: dict[int, torch.Tensor] = {}

    def claim(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in memo:
            memo[id(tensor)] = _fake(mode, tensor)
        return memo[id(tensor)]

    with _swapped(model, claim), tracing(TracingContext(mode)):
        yield tree_map_only(torch.Tensor, claim, (args, kwargs))


def _fake(mode: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_meta:
        return mode.from_tensor(tensor, static_shapes=True)
    fake = FakeTensor(mode, tensor.detach(), torch.device("cpu"))
    return nn.Parameter(fake, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


@contextmanager
def _swapped(model: nn.Module, claim: Any) -> Iterator[None]:
    """Every tensor that a module holds replaced, and put back afterwards."""
    before: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for module in list(model.modules()):
            holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, module.__dict__)
            for holder in holders:
                found = {k: v for k, v in holder.items() if isinstance(v, torch.Tensor)}
                before.append((holder, found))
                holder.update({k: claim(v) for k, v in found.items()})
        yield
    finally:
        for holder, found in before:
            holder.update(found)
