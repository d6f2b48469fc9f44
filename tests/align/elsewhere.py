"""A device that is not there: tensors on it hold their numbers on the host, and every copy to the host is noted.

Its name is that of the meta device, which any build of torch takes. Operands of one operator on two devices are an
error, as they are on a real one; single numbers may meet tensors anywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = "meta"
_READ = "aten::_local_scalar_dense"
# A copy has two devices, and indices may come from the host.
_OF_TWO = ("aten::copy_", "aten::index", "aten::index_put", "aten::index_put_")


@dataclass(frozen=True)
class Copy:
    """What was copied to the host: from which module of the package, in which step, of which shape."""

    module: str
    step: str
    shape: tuple[int, ...]


class There(Tensor):
    """A tensor on the device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        outline: dict[str, Any] = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made: There = Tensor._make_wrapper_subclass(
            cls, held.shape, dtype=held.dtype, device=torch.device(DEVICE), **outline
        )
        return made

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"There({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func} outside of the device")


class Elsewhere(TorchDispatchMode):
    """Inside of it there is the device; `copies` are those of tensors to the host, `read` counts single numbers.

    Args:
        steps: what the steps of a program are called.
    """

    def __init__(self, *steps: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps = steps
        self.copies: list[Copy] = []
        self.read = 0
        self.step = ""

    def told(self, message: str) -> None:
        """What a run says of itself: the step that it begins with."""
        word = message.split()[0]
        self.step = word if word in self.steps else self.step

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = func._schema.name, dict(kwargs or {})
        tensors = [t for t in tree_leaves((args, given)) if isinstance(t, Tensor)]
        there = [t for t in tensors if isinstance(t, There)]
        to_host = self._leaves(name, args, given, bool(there))
        if name not in _OF_TWO and there and any(t.dim() and not isinstance(t, There) for t in tensors):
            raise RuntimeError(f"{name}: operands on two devices")
        inner, named = tree_map_only(There, lambda t: t.held, (args, given))
        stays = bool(there) and not to_host
        if named.get("device") is not None:
            stays, named["device"] = torch.device(named["device"]).type == DEVICE, torch.device("cpu")
        known = {id(t.held): t for t in there}
        found = func(*inner, **named)
        made = There if stays else lambda t: t
        return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else made(t), found)

    def _leaves(self, name: str, args: Any, given: Mapping[str, Any], there: bool) -> bool:
        """Whether an operator copies a tensor to the host, which is noted."""
        if name == _READ:
            self.read += there
            return False
        target = given.get("device")
        moved = name == "aten::_to_copy" and there and target is not None and torch.device(target).type != DEVICE
        written = name == "aten::copy_" and isinstance(args[1], There) and not isinstance(args[0], There)
        if moved or written:
            self.copies.append(Copy(_caller(), self.step, tuple(args[1 if written else 0].shape)))
        return moved


def _caller() -> str:
    """The module of the package that is being run, without the name of the package; "" outside of it."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith("symgraph."):
            return name.removeprefix("symgraph.")
        frame = frame.f_back
    return ""
