"""Tensors that wait on disk, in a file without a name that goes with the process, whatever ends it."""

from __future__ import annotations

import os
import tempfile
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
    """A place for tensors that are made once and read several times.

    Args:
        folder: on which disk.
        size: how many bytes there will be, so that a disk that is too small is an error at once.

    Raises:
        OutputError: there is no room.
    """

    def __init__(self, folder: Path, size: int = 0) -> None:
        require_space(folder / "tensors", size)
        self._folder, self._end = folder, 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it is closed when nothing reads it any more

    def put(self, tensor: Tensor) -> Tensor:
        """The tensor, read from the disk whenever an operator asks for it.

        Raises:
            OutputError: the disk is full.
        """
        if tensor.numel() <= SMALL:
            return tensor
        start, data = self._end, raw_bytes(tensor)
        try:
            self._file.seek(start)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            cause = one_line(error)
            raise OutputError(f"no room in {self._folder}", cause=cause, remedy="make room there") from error
        self._end += len(data)
        shape, dtype, size = tuple(tensor.shape), tensor.dtype, len(data)
        return Deferred(lambda: self._read(start, size).view(dtype).reshape(shape), shape, dtype)

    def _read(self, start: int, size: int) -> Tensor:
        found = torch.empty(size, dtype=torch.uint8)
        rest = memoryview(found.numpy().data).cast("B")
        # One call reads 2 GiB at most.
        while rest:
            count = os.preadv(self._file.fileno(), [rest], start)
            rest, start = rest[count:], start + count
        return found
