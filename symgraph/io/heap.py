"""What the allocator does with memory that is freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress

from torch import Tensor

# The name that glibc has for it, and the size from which a block is mapped by itself.
_MMAP_THRESHOLD = -3
_MAPPED = 2**18
# Tensors of so many entries are worth a walk over the heap.
_LARGE = 2**20


def given_back(tensor: Tensor) -> Tensor:
    """The tensor, once all that was held to make it is given back, where it is large."""
    if tensor.numel() >= _LARGE:
        give_back_now()
    return tensor


def give_back_now() -> None:
    """Gives what is free now back to the system, where the C library is glibc."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def give_back_blocks() -> None:
    """From now on the memory of a tensor goes back to the system when the tensor goes, where the C library is glibc.

    It keeps all blocks but the largest otherwise, which adds up to several times what is ever held at once where
    tensors come and go one by one: of the room of an aligned block it keeps a few bytes apart, so that the next one of
    that size does not fit there.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _MAPPED)
