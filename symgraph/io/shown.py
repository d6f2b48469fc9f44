"""How results are shown: the same short text by `print`, at the prompt, and in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def in_columns(rows: Iterable[Iterable[object]], *, left: int | None = None, indent: int = 0) -> str:
    """Rows as text with columns of equal width.

    Args:
        left: so many columns begin at the left, the others end at the right; by default all begin there.
    """
    cells = [list(map(str, row)) for row in rows]
    if not cells:
        return ""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        at_left = len(row) if left is None else left
        set_out = (
            cell.ljust(width) if column < at_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(" " * indent + "  ".join(set_out).rstrip())
    return "\n".join(lines)


class Shown:
    """What says in `str` what it is, and says the same wherever it is shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
