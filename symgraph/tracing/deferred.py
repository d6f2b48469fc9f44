"""Tensors without memory, which are made anew whenever an operator asks for them.

A module may hold them in the place of its parameters, and a state in the place of its tensors: whatever is computed
with them is computed with what they stand for, and no more than the operands of one operator is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

_aten: Any = torch.ops.aten
_SAME = (_aten.detach.default, _aten.alias.default)


class Deferred(Tensor):
    """A tensor on the CPU that `make` gives, always with the same values; it cannot be written to.

    Shapes: what `make` gives has `shape` and `dtype`.
    """

    _make: Callable[[], Tensor]

    @staticmethod
    def __new__(cls, make: Callable[[], Tensor], shape: Sequence[int], dtype: torch.dtype) -> Deferred:
        """A stand-in of this shape and dtype."""
        wrapped: Any = Tensor._make_wrapper_subclass
        found: Deferred = wrapped(cls, torch.Size(shape), dtype=dtype, device="cpu")
        found._make = make
        return found

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator on what the operands stand for; the same tensor under another handle stays deferred."""
        if func in _SAME:
            return Deferred(args[0]._make, args[0].shape, args[0].dtype)
        named = dict(kwargs or {})
        if any(isinstance(t, Deferred) for t in _written(func, args, named)):
            raise RuntimeError(f"{func} writes to a tensor that is read where it is needed")
        held: dict[int, Tensor] = {}

        def once(t: Deferred) -> Tensor:
            if id(t) not in held:
                held[id(t)] = t._make()
            return held[id(t)]

        args, named = tree_map_only(Deferred, once, (args, named))
        return func(*args, **named)

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> Deferred:
        """The same, as it never changes."""
        found = Deferred(self._make, self.shape, self.dtype)
        held: Any = torch.nn.Parameter(found, self.requires_grad) if isinstance(self, torch.nn.Parameter) else found
        memo[id(self)] = held
        return held  # type: ignore[no-any-return]


def made(tensor: Tensor) -> Tensor:
    """What a tensor stands for: itself, unless it is deferred."""
    return tensor._make() if isinstance(tensor, Deferred) else tensor


def waiting(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors of a state are deferred."""
    return any(isinstance(t, Deferred) for t in state.values())


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another dtype, deferred where it is."""
    return later(tensor, dtype) if isinstance(tensor, Deferred) else tensor.to(dtype)


def later(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another dtype whenever an operator asks for it; at once where it is not on the CPU."""
    if tensor.dtype == dtype or tensor.device.type != "cpu":
        return tensor.to(dtype)
    held = tensor.detach()
    return Deferred(lambda: made(held).to(dtype), tensor.shape, dtype)


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The operands that an operator writes to."""
    said = [a for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    by_name = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | dict(kwargs)
    return [by_name[a.name] for a in said if a.name in by_name]
