"""Models without weights: built with the numbers that their code makes alone, traced as if they were on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from symgraph.tracing.positions import LONGEST

# What tensors on the meta device hold, where they were made of numbers alone (position ids, tables), each with the
# version of the tensor that this is true of: a write into it, or into a view of it, makes a new one.
_known = WeakTensorKeyDictionary()
# Operators of which the operands do not say what they make.
_UNSAID = ("empty", "new_empty", "rand", "bernoulli", "multinomial", "poisson")


@contextmanager
def weightless() -> Iterator[None]:
    """Inside the block tensors are made on the meta device, without memory; what numbers alone make is remembered."""
    with torch.device("meta"), _Numbers(), torch.no_grad():
        yield


def numbers(tensor: torch.Tensor) -> torch.Tensor | None:
    """What a tensor holds, on the meta device too; None where that is not known."""
    if not (tensor.is_meta or isinstance(tensor, FakeTensor)):
        return tensor
    twin, version = _known.get(tensor, (None, 0))  # type: ignore[no-untyped-call]
    return twin if version == tensor._version else None


class _Numbers(TorchFunctionMode):
    """Computes small tensors that depend on numbers alone beside those on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        held = _held((args, given))
        result = func(*args, **given)
        if held is not None and isinstance(result, torch.Tensor) and _is_counted(func, result):
            # Whatever the operator makes of other operands than it had: nothing is known then.
            with suppress(Exception), torch._C.DisableTorchFunction():
                _remember(result, func, *held)
        return result


def _is_counted(func: Any, tensor: torch.Tensor) -> bool:
    if not tensor.is_meta or isinstance(tensor, nn.Parameter) or tensor.numel() > LONGEST:
        return False
    return not getattr(func, "__name__", "").startswith(_UNSAID)


def _held(operands: Any) -> Any:
    """Operands with the numbers in the place of tensors on the meta device; None where some are not known."""
    known = [numbers(leaf) for leaf in tree_leaves(operands) if isinstance(leaf, torch.Tensor)]
    if any(value is None for value in known):
        return None
    rest = iter(known)
    return tree_map_only(torch.Tensor, lambda _: next(rest), operands)


def _remember(made: torch.Tensor, func: Any, args: Any, kwargs: Any) -> None:
    twin = func(*args, **{name: "cpu" if name == "device" else argument for name, argument in kwargs.items()})
    if isinstance(twin, torch.Tensor) and (twin.shape, twin.dtype, twin.is_meta) == (made.shape, made.dtype, False):
        _known[made] = twin, made._version


@contextmanager
def as_if_on_cpu(model: nn.Module, args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """The example inputs, and inside the block a model, that claim to be on the CPU where they are on the meta device.

    Code that asks a tensor for its device takes the same path as with weights, and mixes with constants of its own.
    """
    if not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        yield args, kwargs
        return
    # Brings sympy, which a trace that is read back does without.
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv(tracked_fakes=[]), allow_non_fake_inputs=True, export=True)
    memo: dict[int, torch.Tensor] = {}

    def claim(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in memo:
            memo[id(tensor)] = fake = _fake(mode, tensor)
            if (held := numbers(tensor)) is not None:
                _known[fake] = held, fake._version
        return memo[id(tensor)]

    with _swapped(model, claim), tracing(TracingContext(mode)):
        yield tree_map_only(torch.Tensor, claim, (args, kwargs))


@contextmanager
def without_numbers(model: nn.Module, args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """The example inputs, and inside the block a model, on the meta device."""
    memo: dict[int, torch.Tensor] = {}

    def claim(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in memo:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        return memo[id(tensor)]

    with _swapped(model, claim):
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
                tensors = {name: value for name, value in holder.items() if isinstance(value, torch.Tensor)}
                before.append((holder, tensors))
                holder.update({name: claim(tensor) for name, tensor in tensors.items()})
        yield
    finally:
        for holder, tensors in before:
            holder.update(tensors)
