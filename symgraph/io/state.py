"""States: tensors under their names, as `state_dict` gives them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from symgraph.errors import CheckpointError, one_line, shorten
from symgraph.tracing.deferred import made

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
    bad = {name: count for name, t in state.items() if (count := _non_finite(t, name in infinite_ok))}
    if not bad:
        return
    lines = [f"{name}: {n} of {state[name].numel()} values" for name, n in bad.items()]
    raise CheckpointError(
        f"{_prefix(where)}weights are not finite",
        cause=f"NaN or infinite in {shorten(lines, '; ')}",
        remedy="take an earlier checkpoint, or one that was not written after training diverged or overflowed",
    )


def stored_dtypes(files: Iterable[Path]) -> dict[str, tuple[Path, torch.dtype]]:
    """The file and the dtype of every tensor in the safetensors files among `files`.

    Raises:
        CheckpointError: a file is corrupt.
    """
    found: dict[str, tuple[Path, torch.dtype]] = {}
    for file in (f for f in files if f.suffix == ".safetensors"):
        found |= {name: (file, DTYPES.get(code, torch.uint8)) for name, code in _header(file).items()}
    return found


def stored_shape(file: Path, name: str) -> tuple[int, ...]:
    """The shape of one tensor of a safetensors file."""
    from safetensors import safe_open

    with safe_open(file, "pt") as f:
        return tuple(f.get_slice(name).get_shape())


def usual_dtype(dtypes: Iterable[torch.dtype]) -> torch.dtype | None:
    """The floating-point dtype that occurs most often, or None if there is none."""
    found = Counter(d for d in dtypes if d.is_floating_point).most_common(1)
    return found[0][0] if found else None


def state_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of all tensors, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        t = state[name]
        digest.update(f"{name}\0{t.dtype}\0{tuple(t.shape)}\0".encode())
        digest.update(raw_bytes(t))
    return digest.hexdigest()


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row by row."""
    t = made(tensor.detach()).cpu().contiguous()
    return _dense(t.reshape(-1)).view(torch.uint8).numpy().data if t.numel() else memoryview(b"")


def _dense(t: Tensor) -> Tensor:
    # A single value counts as contiguous whatever its stride, and a view of its bytes does not agree.
    return t if t.stride(0) == 1 else t.clone(memory_format=torch.contiguous_format)


def _header(file: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as f:
            return {name: f.get_slice(name).get_dtype() for name in f.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as e:
        remedy = "fetch the file again; it was cut short or is something else"
        raise CheckpointError(f"{file} is not a safetensors file", cause=one_line(e), remedy=remedy) from e


def _non_finite(t: Tensor, infinite_ok: bool) -> int:
    if t.is_meta or not t.numel() or not (t.is_floating_point() or t.is_complex()):
        return 0
    t = made(t)
    if infinite_ok:
        return int(t.isnan().sum())
    if t.itemsize == 1:
        t = t.float()
    # The extremes carry NaN and infinity along and need no tensor of flags.
    if t.is_floating_point() and all(v.isfinite() for v in t.aminmax()):
        return 0
    return int((~t.isfinite()).sum())


def _prefix(where: str) -> str:
    return f"{where}: " if where else ""
