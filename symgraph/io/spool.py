"""Tensors that wait on disk, in a file without a name that goes with the process, whatever ends it."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path

import torch
from torch import Tensor

from symgraph.errors import one_line
from symgraph.io.files import OutputError, require_space
from symgraph.io.state import raw_bytes
from symgraph.tracing.deferred import Deferred

# Tensors of at most so many entries stay in memory.
SMALL = 2**16


class Spool:
    """A place for tensors that are made once and read several times; room that none needs any more is filled anew.

    `size` is how many bytes it takes.

    Args:
        folder: on which disk.
        size: how many bytes there will be, so that a disk that is too small is an error at once.

    Raises:
        OutputError: there is no room.
    """

    def __init__(self, folder: Path, size: int = 0) -> None:
        require_space(folder / "tensors", size)
        self._folder, self.size = folder, 0
        self._free: dict[int, list[int]] = {}
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it is closed when nothing reads it any more

    def put(self, tensor: Tensor) -> Tensor:
        """The tensor, read from the disk whenever an operator asks for it.

        Raises:
            OutputError: the disk is full.
        """
        if tensor.numel() <= SMALL:
            return tensor
        data = raw_bytes(tensor)
        size, room = len(data), self._free.get(len(data))
        start = room.pop() if room else self.size
        try:
            self._file.seek(start)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            cause = one_line(error)
            raise OutputError(f"no room in {self._folder}", cause=cause, remedy="make room there") from error
        self.size = max(self.size, start + size)
        shape, dtype = tuple(tensor.shape), tensor.dtype

        def read() -> Tensor:
            return self._read(start, size).view(dtype).reshape(shape)

        # All handles of the tensor hold what reads it.
        weakref.finalize(read, self._free.setdefault(size, []).append, start).atexit = False
        return Deferred(read, shape, dtype)

    def _read(self, start: int, size: int) -> Tensor:
        held = torch.empty(size, dtype=torch.uint8)
        rest = memoryview(held.numpy().data).cast("B")
        # One call reads 2 GiB at most.
        while rest:
            count = os.preadv(self._file.fileno(), [rest], start)
            rest, start = rest[count:], start + count
        return held
