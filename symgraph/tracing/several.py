"""Tensors that stand for several at once: what is computed with them is computed for each, operand by operand.

So one pass through a module gives what it computes at several states, and a weight that has to be read is read once for
all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from symgraph.tracing.deferred import written

Parts = Callable[[], Iterable[Tensor]]


class ApartError(RuntimeError):
    """Several states do not go through a module together: by their values it does different things."""


class Several(Tensor):
    """Tensors of one shape and dtype, under one handle.

    Args:
        parts: gives them one after the other, whenever an operator asks for them.
        like: a tensor of the same shape, strides, dtype and device; it may be one of the device "meta".
        lazy: they are made anew each time, so that a view of them is made then as well, and nothing writes to them.
    """

    _parts: Parts
    _lazy: bool

    @staticmethod
    def __new__(cls, parts: Parts, like: Tensor, *, lazy: bool = False) -> Several:
        """A handle of these tensors."""
        wrapped: Any = Tensor._make_wrapper_subclass
        how = {"strides": like.stride(), "dtype": like.dtype, "device": "cpu" if like.is_meta else like.device}
        several: Several = wrapped(cls, like.shape, **how)
        several._parts, several._lazy = parts, lazy
        return several

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator on the first of all operands, on the second, and so on.

        Raises:
            ApartError: what it gives differs in more than entries, or it writes to what all have in common.
        """
        named = dict(kwargs or {})
        operands = list({id(leaf): leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, Several)}.values())
        changed = [leaf for leaf in tree_leaves(written(func, args, named)) if isinstance(leaf, Tensor)]
        if any(not isinstance(tensor, Several) or tensor._lazy for tensor in changed):
            raise ApartError(f"{func} writes to what several states have in common")
        if func.is_view and len(operands) == 1 and operands[0]._lazy:
            return _viewed(func, operands[0], args, named)
        results: list[Any] = []
        streams = {id(operand): iter(operand._parts()) for operand in operands}
        # The next ones are made once these are gone: a zip would hold them until then.
        while at := {place: part for place, stream in streams.items() for part in islice(stream, 1)}:
            if len(at) < len(streams):
                raise ApartError(f"{func} is given different numbers of states")
            results.append(_called(func, args, named, at))
            del at
        return _joined(results, changed)

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


def several(tensors: Sequence[Tensor]) -> Several:
    """One handle of tensors that are held."""
    held = list(tensors)
    return Several(lambda: held, held[0])


def each(tensor: Tensor, count: int) -> Iterator[Tensor]:
    """The tensors that a handle stands for; of a plain tensor itself so many times."""
    yield from tensor._parts() if isinstance(tensor, Several) else [tensor] * count


def _called(func: Any, args: Any, kwargs: Any, parts: Mapping[int, Tensor]) -> Any:
    """An operator with each handle replaced by one of its tensors."""
    given, named = tree_map_only(Several, lambda several: parts[id(several)], (args, kwargs))
    return func(*given, **named)


def _viewed(func: Any, tensor: Several, args: Any, kwargs: Any) -> Any:
    """A view of tensors that are made when they are needed, made then as well."""

    def on(part: Tensor) -> Any:
        return _called(func, args, kwargs, {id(tensor): part})

    like = on(torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"))
    if isinstance(like, Tensor):
        return Several(lambda: map(on, tensor._parts()), like, lazy=True)
    return _joined([on(part) for part in tensor._parts()], [])


def _joined(results: list[Any], changed: Sequence[Tensor]) -> Any:
    """One result of several: handles of tensors, and what is the same in all."""
    first, *others = results
    if isinstance(first, list | tuple):
        return type(first)(_joined(list(parts), changed) for parts in zip(*results, strict=True))
    if not isinstance(first, Tensor):
        if any(other != first for other in others):
            raise ApartError("several states decide differently")
        return first
    for tensor in changed:
        if first is next(iter(tensor._parts())):  # type: ignore[attr-defined]
            return tensor
    kinds = [(result.shape, result.dtype, result.stride()) for result in results]
    if any(kind != kinds[0] for kind in kinds):
        raise ApartError("results of several states have different shapes")
    return several(results)
