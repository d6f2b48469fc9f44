"""How large the tensors are that something computes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How many entries the largest tensor has that anything but a view is made of, or that it makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries = 0

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if not any(made.alias_info for made in func._schema.returns):
            met = (t for t in tree_leaves((args, kwargs, found)) if isinstance(t, Tensor) and not t.is_meta)
            self.entries = max([self.entries, *(t.numel() for t in met)])
        return found


def largest(what: Callable[[], object]) -> int:
    """The entries of the largest tensor that is computed with."""
    counted = Largest()
    with counted:
        what()
    return counted.entries
