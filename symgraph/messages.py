"""Pieces of error messages."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 5


def shorten(items: Iterable[str], separator: str = ", ") -> str:
    """The first few items as text, then how many follow."""
    listed = list(items)
    more = len(listed) - SHOWN
    return separator.join(listed[:SHOWN]) + (f"{separator}and {more} more" if more > 0 else "")


def one_line(error: BaseException) -> str:
    """An exception as one line of text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
