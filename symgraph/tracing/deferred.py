"""Tensors without memory, which are made anew whenever an operator asks for them.

A module may hold them in the place of its parameters, and a state in the place of its tensors: whatever is computed
with them is computed with what they stand for, and no more than the operands of one operator is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

Found = TypeVar("Found")
# What was found out about a tensor, by name: beside which other tensors, and what.
Known = dict[Hashable, list[tuple[tuple["Known", ...], Any]]]
_aten: Any = torch.ops.aten
_SAME = (_aten.detach.default, _aten.alias.default)
# Operators whose result holds entries of their first operand: in which order they are cast makes no difference.
_PICKS = (_aten.index_select.default,)


class Deferred(Tensor):
    """A tensor on the CPU that `make` gives, always with the same values; it cannot be written to.

    Shapes: what `make` gives has `shape` and `dtype`.

    Args:
        known: what was found out about another handle of it.
        origin: the tensor that it is in another dtype, if it is one.
        rounded: it in another dtype, where that is held already.
    """

    _make: Callable[[], Tensor]
    _known: Known
    _origin: Tensor | None
    _rounded: Tensor | None

    @staticmethod
    def __new__(
        cls,
        make: Callable[[], Tensor],
        shape: Sequence[int],
        dtype: torch.dtype,
        known: Known | None = None,
        origin: Tensor | None = None,
        rounded: Tensor | None = None,
    ) -> Deferred:
        """A stand-in of this shape and dtype."""
        wrapped: Any = Tensor._make_wrapper_subclass
        deferred: Deferred = wrapped(cls, torch.Size(shape), dtype=dtype, device="cpu")
        deferred._make, deferred._origin, deferred._rounded = make, origin, rounded
        deferred._known = {} if known is None else known
        return deferred

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator on what the operands stand for; the same tensor under another handle stays deferred."""
        if func in _SAME:
            return args[0]._again()
        named = dict(kwargs or {})
        if any(isinstance(tensor, Deferred) for tensor in written(func, args, named)):
            raise RuntimeError(f"{func} writes to a tensor that is read where it is needed")
        if func in _PICKS and (before := origin(args[0])) is not None:
            # Cast afterwards, the whole is held in the narrower dtype alone.
            return func(before, *args[1:], **named).to(args[0].dtype)
        held: dict[int, Tensor] = {}

        def once(deferred: Deferred) -> Tensor:
            if id(deferred) not in held:
                held[id(deferred)] = deferred._make()
            return held[id(deferred)]

        args, named = tree_map_only(Deferred, once, (args, named))
        return func(*args, **named)

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> Deferred:
        """The same, as it never changes."""
        copied = self._again()
        held: Any = torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied
        memo[id(self)] = held
        return held  # type: ignore[no-any-return]

    def _again(self) -> Deferred:
        """Another handle."""
        return Deferred(self._make, self.shape, self.dtype, self._known, self._origin, self._rounded)


def made(tensor: Tensor) -> Tensor:
    """What a tensor stands for: itself, unless it is deferred."""
    return tensor._make() if isinstance(tensor, Deferred) else tensor


def made_as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """What a tensor stands for in another dtype; of one that was only widened what it was, without the way there."""
    before = origin(tensor)
    widened = before is not None and torch.promote_types(before.dtype, tensor.dtype) == tensor.dtype
    return made(before if before is not None and widened and before.dtype == dtype else tensor).to(dtype)


def waiting(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors of a state are deferred."""
    return any(isinstance(tensor, Deferred) for tensor in state.values())


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another dtype, deferred where it is."""
    return later(tensor, dtype) if isinstance(tensor, Deferred) else tensor.to(dtype)


def later(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another dtype whenever an operator asks for it; at once where it is not on the CPU."""
    if tensor.dtype == dtype or tensor.device.type != "cpu":
        return tensor.to(dtype)
    if isinstance(tensor, Deferred) and tensor._rounded is not None and tensor._rounded.dtype == dtype:
        return tensor._rounded
    held = tensor.detach()
    return Deferred(lambda: made(held).to(dtype), tensor.shape, dtype, origin=held)


def later_in_float64(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every floating tensor in float64 whenever an operator asks for it."""
    return {
        name: later(tensor, torch.float64) if tensor.is_floating_point() else tensor for name, tensor in state.items()
    }


def origin(tensor: Tensor) -> Tensor | None:
    """The tensor that a deferred one is in another dtype, None where it is no such one."""
    return tensor._origin if isinstance(tensor, Deferred) else None


def remembered(tensors: Sequence[Tensor], what: Hashable, find: Callable[[], Found]) -> Found:
    """What `find` finds out about tensors; once where all of them are deferred, since their values stay."""
    known = [tensor._known for tensor in tensors if isinstance(tensor, Deferred)]
    if not tensors or len(known) < len(tensors):
        return find()
    first, others = known[0], tuple(known[1:])
    for beside, made in first.get(what, ()):
        if len(beside) == len(others) and all(mine is theirs for mine, theirs in zip(beside, others, strict=True)):
            return made  # type: ignore[no-any-return]
    new = find()
    first.setdefault(what, []).append((others, new))
    return new


def written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The operands that an operator writes to."""
    said = [
        argument
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    by_name = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | dict(kwargs)
    return [by_name[argument.name] for argument in said if argument.name in by_name]
