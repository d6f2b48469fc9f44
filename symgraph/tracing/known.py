"""Integers whose values are known while a model is traced: code that asks for them goes the way that these values say.

Positions of pictures in a text, sizes of their grids and lengths of their sequences decide about shapes; a trace cannot
look into them. Inside `Known` whatever is computed from known numbers is computed beside the trace as well, and is
what Python gets where it asks for a number, and what an operator becomes that has no shape without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from symgraph.tracing.positions import LONGEST

# Operators whose operands say what the shape of their result is, and one that reads numbers out of tensors.
_SHAPED = frozenset({"nonzero", "repeat_interleave", "masked_select", "unique", "unique_consecutive", "argwhere"})
_READS = (torch.tensor, torch.as_tensor)
_UNSAID = ("empty", "new_empty", "rand", "bernoulli", "multinomial", "poisson", "normal")
_SCATTERS = (Tensor.masked_scatter,)


class Known(TorchFunctionMode):
    """Computes with known numbers.

    Args:
        values: for tensors of a trace what they hold. Tensors that are no part of it are known by themselves.
    """

    def __init__(self, values: Mapping[Tensor, Tensor]) -> None:
        super().__init__()
        self._values = WeakTensorKeyDictionary()
        self._lost: set[int] = set()
        for tensor, value in values.items():
            self._values[tensor] = value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (args, kwargs or {})
        # Inside of vmap all tensors are batches of what they seem.
        if peek_interpreter_stack() is not None:
            return func(*args, **given[1])
        operands = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        values = [self._value(operand) for operand in operands]
        if func in _SCATTERS and isinstance(args[1], Tensor):
            joined = _joined(args[0], self._value(args[1]), args[2])
            return func(*args, **given[1]) if joined is None else joined
        name = getattr(func, "__name__", "")
        picked = self._picked(args) if func is Tensor.__getitem__ else None
        if picked is not None:
            return picked
        if any(value is None for value in values) or name.startswith(_UNSAID):
            self._forget(name, values)
            return func(*args, **given[1])
        rest = iter(values)
        held = tree_map_only(Tensor, lambda _: next(rest), given)
        if operands and (not any(isinstance(operand, FakeTensor) for operand in operands) or _asks(func, args)):
            return _plain(func, *held)
        return self._beside(func, given, held)

    def _picked(self, args: Any) -> Tensor | None:
        """What a known mask picks out of something unknown."""
        tensor, mask = args
        whole = isinstance(mask, Tensor) and mask.dtype is torch.bool and mask.dim() > 0
        held = self._value(mask) if whole and self._value(tensor) is None else None
        if held is None:
            return None
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            rows = held.flatten().nonzero().flatten().tolist()
        flat: Tensor = tensor.flatten(0, held.dim() - 1)
        return flat if len(rows) == held.numel() else torch.stack([flat[row] for row in rows])

    def _forget(self, name: str, values: list[Tensor | None]) -> None:
        """What is written to with something unknown is unknown, and so are all views of it."""
        written = values[0] if values and (name == "__setitem__" or name.rstrip("_") + "_" == name) else None
        if written is not None:
            self._lost.add(written.untyped_storage().data_ptr())

    def _beside(self, func: Any, given: Any, held: Any) -> Any:
        """What a trace makes of a call, with the values of what it makes."""
        result = func(*given[0], **given[1])
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if not tensors:
            return _plain(func, *held) if tree_leaves(given) else result
        if all(isinstance(tensor, FakeTensor) and tensor.numel() <= LONGEST for tensor in tensors):
            for tensor, value in zip(tensors, tree_leaves(_plain(func, *held)), strict=True):
                self._values[tensor] = value
        return result

    def _value(self, tensor: Tensor) -> Tensor | None:
        """What a tensor holds, if that is known."""
        if not isinstance(tensor, FakeTensor):
            return tensor
        value: Tensor | None = self._values.get(tensor)  # type: ignore[no-untyped-call]
        return None if value is None or value.untyped_storage().data_ptr() in self._lost else value


def _asks(func: Any, args: Any) -> bool:
    """Whether a call reads numbers out of its operands: as such, or as the shape of its result."""
    name = getattr(func, "__name__", "")
    if func is Tensor.__getitem__:
        picks = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
        return any(pick.dtype is torch.bool for pick in picks)
    return func in _READS or name in _SHAPED or (name == "where" and len(args) == 1) or func in _PYTHON


_PYTHON = frozenset(
    getattr(Tensor, n)
    for n in ("tolist", "item", "__bool__", "__int__", "__float__", "__index__", "__format__", "__contains__", "equal")
)


def _plain(func: Any, args: Any, kwargs: Any) -> Any:
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        return func(*args, **kwargs)


def _joined(tensor: Tensor, mask: Tensor | None, source: Tensor) -> Tensor | None:
    """Rows replaced where a known mask says so, if they are neighbours, and the same ones in every example."""
    if mask is None or tensor.dim() != 3:
        return None
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        whole = mask.expand(tensor.shape)
        at = whole[0, :, 0].nonzero().flatten().tolist()
        neighbours = bool(at) and at == list(range(at[0], at[-1] + 1))
        plain = neighbours and bool((whole == whole[:1, :, :1]).all())
    if not plain:
        return None
    middle = source.reshape(len(tensor), len(at), tensor.shape[2]).to(tensor.dtype)
    return torch.cat([tensor[:, : at[0]], middle, tensor[:, at[-1] + 1 :]], dim=1)
