"""What long work says as it goes on: to the log of its module, and to a function of the caller.

`logging.getLogger("symgraph")` has all of it: stages at the level INFO, and the steps of a stage at DEBUG, with how
many of how many are done as the fields `done` and `total` of a record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Self, TypeVar

Progress = Callable[[str], object]
Item = TypeVar("Item")


class Told(str):
    """A line of progress, and where it is known how many steps of a stage there are: `done` of `total`."""

    done: int | None
    total: int | None

    def __new__(cls, text: str, done: int | None = None, total: int | None = None) -> Self:
        told = super().__new__(cls, text)
        told.done, told.total = done, total
        return told


def tell(
    log: logging.Logger, progress: Progress | None, text: str, done: int | None = None, total: int | None = None
) -> None:
    """Says that a stage begins, or that so many of its steps are done."""
    log.log(logging.INFO if done is None else logging.DEBUG, "%s", text, extra={"done": done, "total": total})
    if progress is not None:
        progress(Told(text, done, total))


def counted(log: logging.Logger, items: Iterable[Item], total: int | None, what: str) -> Iterator[Item]:
    """The items, each told of once it is done with; of `total` of them where their number is known.

    >>> list(counted(logging.getLogger("symgraph"), "ab", 2, "letter"))
    ['a', 'b']
    """
    for done, item in enumerate(items, 1):
        yield item
        tell(log, None, f"{what} {done}" + (f" of {total}" if total else ""), done, total)
