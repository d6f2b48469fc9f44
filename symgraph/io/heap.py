"""What the allocator does with memory that is freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress

# The name that glibc has for it, and the size from which a block is mapped by itself.
_MMAP_THRESHOLD = -3
_MAPPED = 2**20


def give_back_blocks() -> None:
    """From now on the memory of a tensor goes back to the system when the tensor goes, where the C library is glibc.

    It keeps all blocks but the largest otherwise, which adds up to several times what is ever held at once where
    tensors come and go one by one.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _MAPPED)
