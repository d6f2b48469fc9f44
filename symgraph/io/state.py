"""States: tensors under their names, as `state_dict` gives them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor

from symgraph.errors import CheckpointError, shorten
from symgraph.io.sums import extremes
from symgraph.tracing.deferred import made, remembered

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "C64": torch.complex64,
    "BOOL": torch.bool,
}


def check_finite(state: Mapping[str, Tensor], *, where: str = "", infinite_ok: Collection[str] = ()) -> None:
    """Raise if a tensor holds NaN or, unless its name is in `infinite_ok`, infinite values.

    Raises:
        CheckpointError: naming the tensors and how many of their values are not finite.
    """
    checks = FiniteChecks(infinite_ok)
    for name, tensor in state.items():
        checks.look(name, tensor)
    checks.done(where)


class FiniteChecks:
    """The same of tensors that come one by one."""

    def __init__(self, infinite_ok: Collection[str] = ()) -> None:
        self._infinite_ok = infinite_ok
        self._bad: list[str] = []

    def look(self, name: str, tensor: Tensor, values: Tensor | None = None) -> None:
        """One more; `values` is what it stands for, where that is at hand."""
        if count := _non_finite(tensor, name in self._infinite_ok, values):
            self._bad.append(f"{name}: {count} of {tensor.numel()} values")

    def done(self, where: str = "") -> None:
        """Raises for those that are not finite.

        Raises:
            CheckpointError: naming them.
        """
        if self._bad:
            raise CheckpointError(
                f"{_prefix(where)}weights are not finite",
                cause=f"NaN or infinite in {shorten(self._bad, '; ')}",
                remedy="take an earlier checkpoint, or one that was not written after training diverged or overflowed",
            )


def usual_dtype(dtypes: Iterable[torch.dtype]) -> torch.dtype | None:
    """The floating-point dtype that occurs most often, or None if there is none."""
    commonest = Counter(dtype for dtype in dtypes if dtype.is_floating_point).most_common(1)
    return commonest[0][0] if commonest else None


def state_hash(state: Mapping[str, Tensor], look: Callable[[Tensor, Tensor], object] | None = None) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of all tensors, whatever their order.

    Tensors that are read where they are needed are read once, however often it is asked for.

    Args:
        look: called with each tensor, and with its values while these are there.
    """
    names = sorted(state)

    def find() -> str:
        digest = hashlib.sha256()
        for name in names:
            tensor = made(state[name].detach())
            if look is not None:
                look(state[name], tensor)
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            digest.update(raw_bytes(tensor))
        return digest.hexdigest()

    return remembered([state[name] for name in names], ("hash", *names), find)


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row by row."""
    held = made(tensor.detach()).cpu().contiguous()
    return _dense(held.reshape(-1)).view(torch.uint8).numpy().data if held.numel() else memoryview(b"")


def _dense(t: Tensor) -> Tensor:
    # A single value counts as contiguous whatever its stride, and a view of its bytes does not agree.
    return t if t.stride(0) == 1 else t.clone(memory_format=torch.contiguous_format)


def _non_finite(t: Tensor, infinite_ok: bool, values: Tensor | None) -> int:
    if t.is_meta or not t.numel() or not (t.is_floating_point() or t.is_complex()):
        return 0
    # The extremes carry NaN and infinity along and need no tensor of flags.
    if (ends := extremes(t, values)) is not None and all(end.isfinite() for end in ends):
        return 0
    held = made(t) if values is None else values
    if infinite_ok:
        return int(held.isnan().sum())
    return int((~(held.float() if held.itemsize == 1 else held).isfinite()).sum())


def _prefix(where: str) -> str:
    return f"{where}: " if where else ""
