"""Whether two modules run the same code at the same settings: what one computes with its tensors so does the other.

Classes and functions are the same objects, and all that modules hold beside tensors and other modules is equal, plainly
so: of anything else nothing is known, and the answer is no. A trace of one is then a trace of the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# What every module has; modules and tensors in it are compared by themselves.
_SHARED = frozenset(vars(nn.Module()))
_HOOKS = tuple(name for name in _SHARED if name.endswith("_hooks"))
_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, torch.memory_format)


def same_code(one: nn.Module, other: nn.Module, fixed: Collection[str]) -> bool:
    """Whether two modules are known to be one function of their tensors.

    Args:
        fixed: names of buffers that the code may read as numbers, so that they have to be equal.

    >>> a, b = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    >>> same_code(a, b, ()), same_code(a, torch.nn.Linear(2, 4), ())
    (True, False)
    """
    ones, others = dict(one.named_modules()), dict(other.named_modules())
    if list(ones) != list(others):
        return False
    if not all(_same_module(ones[name], others[name]) for name in ones):
        return False
    first, second = dict(one.named_buffers()), dict(other.named_buffers())
    return _outline(one) == _outline(other) and all(_same(first.get(name), second.get(name)) for name in fixed)


def _same_module(one: nn.Module, other: nn.Module) -> bool:
    if type(one) is not type(other) or any(getattr(module, hooks) for module in (one, other) for hooks in _HOOKS):
        return False
    first, second = (
        {name: value for name, value in vars(module).items() if name not in _SHARED} for module in (one, other)
    )
    return one.training == other.training and _same(first, second)


def _same(one: Any, other: Any) -> bool:
    """Whether two things that modules hold are equal, as far as that is plain."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        known = not (one.is_meta or other.is_meta) and one.dtype == other.dtype
        return known and one.shape == other.shape and torch.equal(one, other)
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    return isinstance(one, _PLAIN) and bool(one == other)


def _outline(module: nn.Module) -> list[tuple[Any, ...]]:
    """Names, kinds and shapes of all tensors, which of them are one, and which no checkpoint stores."""
    first: dict[int, str] = {}
    stored = module.state_dict().keys()
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return [
        (
            name,
            first.setdefault(id(tensor), name),
            type(tensor),
            tensor.shape,
            tensor.dtype,
            tensor.device,
            tensor.layout,
            name in stored,
        )
        for name, tensor in named
    ]
