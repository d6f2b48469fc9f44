"""What a user sees while something runs: results on standard output, progress and remarks on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Counter = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Console:
    """Where text goes.

    With `as_json` standard output carries one JSON document and nothing else; with `quiet` standard error stays empty
    unless something fails. Bars are drawn only where standard error is a terminal.
    """

    as_json: bool = False
    quiet: bool = False

    def result(self, text: object, data: Any) -> None:
        """Print the result of a command: `text`, or `data` as JSON (text that is JSON already is printed as it is)."""
        if not self.as_json:
            print(text)
            return
        print(data if isinstance(data, str) else json.dumps(data, indent=2, default=str))

    def say(self, text: object = "") -> None:
        """Print a part of a longer account; left out where JSON was asked for."""
        if not self.as_json:
            print(text, flush=True)

    def remark(self, text: object) -> None:
        """Print what is worth knowing but is no result."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, label: str) -> Iterator[Counter]:
        """A progress bar that is told how many of how many steps are done, or one line at its end."""
        if self.quiet or not sys.stderr.isatty():
            with self._line(label):
                yield lambda done, total: None
            return
        from tqdm import tqdm

        with tqdm(desc=label, file=sys.stderr, total=1, dynamic_ncols=True) as drawn:

            def count(done: int, total: int) -> None:
                drawn.total = total
                drawn.update(done - drawn.n)

            yield count

    @contextmanager
    def steps(self, label: str) -> Iterator[Callable[[str], None]]:
        """Lines that replace each other on a terminal, or one line at the end; their number is not known before."""
        if self.quiet or not sys.stderr.isatty():
            with self._line(label):
                yield lambda line: None
            return
        from tqdm import tqdm

        with tqdm(desc=label, file=sys.stderr, bar_format="{desc}: {elapsed} {postfix}", dynamic_ncols=True) as drawn:

            def show(line: str) -> None:
                drawn.set_postfix_str(line.strip()[:80])
                drawn.update()

            yield show

    @contextmanager
    def _line(self, label: str) -> Iterator[None]:
        """One line for a log: what is being done, and when it is done how long it took."""
        if self.quiet:
            yield
            return
        start, end = time.monotonic(), ""
        print(f"{label} ...", end="", file=sys.stderr, flush=True)
        try:
            yield
            end = f" {time.monotonic() - start:.1f} s"
        finally:
            print(end, file=sys.stderr, flush=True)


def table(rows: Iterable[Iterable[object]], *, indent: int = 0) -> str:
    """Rows as text with columns of equal width."""
    cells = [[str(c) for c in row] for row in rows]
    if not cells:
        return ""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join(" " * indent + line for line in lines)
