"""Safetensors files, one tensor at a time: read where it is asked for, written as it is done.

A file begins with the length of its header, eight bytes, and the header: JSON with the dtype, the shape and the place
of every tensor. Files are read and not mapped, so that one that is cut short meanwhile is an error and no crash.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from symgraph.errors import CheckpointError, one_line
from symgraph.io.state import DTYPES, raw_bytes
from symgraph.tracing.deferred import Deferred, made
from symgraph.tracing.progress import counted

_log = logging.getLogger(__name__)

INDEX = "model.safetensors.index.json"
# Headers are padded so that tensors begin at multiples of it.
_ALIGNED = 8
_CODES = {dtype: code for code, dtype in DTYPES.items()}
# In which order files keep tensors: the widest first, as the library of this format writes them.
_ORDER = ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64")
_RANKS = {code: rank for rank, code in enumerate((*_ORDER, "I64", "U64"))}


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a file keeps a tensor; `stamp` is what the file was when its header was read."""

    file: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int
    stamp: tuple[int, ...]

    def read(self) -> Tensor:
        """The tensor.

        Raises:
            CheckpointError: the file is gone, or another one, or cut short.
        """
        held = torch.empty(self.size, dtype=torch.uint8)
        try:
            with self.file.open("rb") as file:
                if _stamp(file) != self.stamp:
                    raise _gone(self, "it is not the file any more that it was when the run began")
                file.seek(self.start)
                count = file.readinto(held.numpy().data) if self.size else 0
        except OSError as error:
            raise _gone(self, one_line(error)) from error
        if count != self.size:
            raise _gone(self, f"it ends {self.size - count} bytes before the end of {self.name}")
        return held.view(self.dtype).reshape(self.shape)

    def deferred(self) -> Tensor:
        """The tensor, read whenever an operator asks for it."""
        return Deferred(self.read, self.shape, self.dtype)


def stored_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """Where each tensor of the safetensors files among `files` is.

    Raises:
        CheckpointError: a file is corrupt.
    """
    return {name: stored for file in files if file.suffix == ".safetensors" for name, stored in _stored(file)}


def deferred_state(files: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors of some safetensors files, each read when it is asked for, and never kept."""
    return {name: stored.deferred() for name, stored in stored_tensors(files).items()}


def write_shards(folder: Path, tensors: Mapping[str, Tensor], size: int) -> None:
    """Write tensors as files of at most `size` bytes (or of one tensor), and an index where there are several.

    One tensor at a time is held. The index is written last.
    """
    parts = _parts(tensors, size)
    if len(parts) == 1:
        write_tensors(folder / "model.safetensors", {name: tensors[name] for name in parts[0]})
        return
    files: dict[str, str] = {}
    for number, names in enumerate(parts, 1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        write_tensors(folder / file, {name: tensors[name] for name in names})
        files |= dict.fromkeys(names, file)
    counts = {
        "total_parameters": sum(tensor.numel() for tensor in tensors.values()),
        "total_size": sum(map(size_of, tensors.values())),
    }
    text = json.dumps({"metadata": counts, "weight_map": files}, indent=2, sort_keys=True)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file, holding one tensor at a time.

    Raises:
        CheckpointError: such files have no tensors of a dtype.
    """
    codes = {name: _code(name, tensor.dtype) for name, tensor in tensors.items()}
    ordered = sorted(tensors, key=lambda name: (-_RANKS[codes[name]], name))
    header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
    end = 0
    for name in ordered:
        tensor, start = tensors[name], end
        end += size_of(tensor)
        header[name] = {"dtype": codes[name], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in counted(_log, ordered, len(ordered), f"writing {path.name}, tensor"):
            file.write(raw_bytes(made(tensors[name])))


def _code(name: str, dtype: torch.dtype) -> str:
    if dtype in _CODES:
        return _CODES[dtype]
    what = f"{name} cannot be written: safetensors files have no {dtype}"
    raise CheckpointError(what, remedy="convert it first, or write a .pt file")


def size_of(tensor: Tensor) -> int:
    """The bytes that a tensor takes in a file."""
    return tensor.numel() * tensor.dtype.itemsize


def _parts(tensors: Mapping[str, Tensor], size: int) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if parts[-1] and filled + size_of(tensor) > size:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size_of(tensor)
    return parts


def _stored(file: Path) -> Iterable[tuple[str, Stored]]:
    try:
        # The library checks a header, and keeps to itself where tensors begin.
        with safe_open(file, "pt"):
            pass
    except (SafetensorError, OSError) as e:
        remedy = "fetch the file again; it was cut short or is something else"
        raise CheckpointError(f"{file} is not a safetensors file", cause=one_line(e), remedy=remedy) from e
    with file.open("rb") as opened:
        stamp, length = _stamp(opened), int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            place = (8 + length + start, end - start)
            dtype = DTYPES.get(entry["dtype"], torch.uint8)
            yield name, Stored(file, name, dtype, tuple(entry["shape"]), *place, stamp)


def _stamp(file: IO[bytes]) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _gone(stored: Stored, cause: str) -> CheckpointError:
    remedy = "leave the files of a model alone while it is read, and start again; nothing was written"
    return CheckpointError(f"{stored.file} has changed while it was read", cause=cause, remedy=remedy)
