"""What a user sees while something runs: results on standard output, progress and remarks on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

_LINE = logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S")
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {postfix}"
_NO_BAR = "{desc}: {elapsed} {postfix}"


@dataclass(slots=True)
class Console:
    """Where text goes.

    With `as_json` standard output carries one JSON document and nothing else; with `quiet` standard error stays empty
    unless something fails; with `verbose` 1 stages are listed, with 2 all their steps. Bars are drawn only where
    standard error is a terminal. `answered`: whether the result is printed.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: int = 0
    answered: bool = False

    def result(self, text: object, data: Any) -> None:
        """Print the result of a command: `text`, or `data` as JSON (text that is JSON already is printed as it is)."""
        self.answered = True
        if not self.as_json:
            print(text)
            return
        print(data if isinstance(data, str) else json.dumps(data, indent=2, default=str))

    def wrote(self, found: Any, out: Any) -> None:
        """Print the result of a command that has written it."""
        self.result(f"{found}\nwrote {out}", {**found.to_plain(), "written": str(out)})

    def say(self, text: object = "") -> None:
        """Print a part of a longer account; left out where JSON was asked for."""
        if not self.as_json:
            print(text, flush=True)

    def remark(self, text: object) -> None:
        """Print what is worth knowing but is no result."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While it lasts, what the package logs is printed, as far as it was asked for."""
        level = {0: logging.WARNING, 1: logging.INFO}.get(self.verbose, logging.DEBUG)
        with _heard(_Lines(level)) if self.verbose else nullcontext():
            yield

    @contextmanager
    def working(self, label: str) -> Iterator[None]:
        """While it lasts, the last that the package has logged is shown.

        On a terminal as one line that changes, with a bar and an estimate of the time left where the number of steps is
        known; else as one line for a log, which ends with how long it took.
        """
        if self.quiet:
            yield
        elif sys.stderr.isatty():
            with _bar(label) as bar, _heard(_Bar(bar)):
                yield
        else:
            with _timed(label, alone=self.verbose > 0):
                yield


class _Bar(logging.Handler):
    """Shows the last record as the text beside a bar, which starts anew with every stage."""

    def __init__(self, bar: Any) -> None:
        super().__init__(logging.DEBUG)
        self.bar, self.stage, self.done = bar, ("", 0), 0

    def emit(self, record: logging.LogRecord) -> None:
        """Draws the record."""
        done, total = getattr(record, "done", None), getattr(record, "total", None)
        if done is None or not total:
            self.bar.bar_format = _NO_BAR
        else:
            self._count(done, total, (record.name, total))
        self.bar.set_postfix_str(record.getMessage().strip()[:80], refresh=False)
        self.bar.refresh()

    def _count(self, done: int, total: int, stage: tuple[str, int]) -> None:
        self.bar.bar_format = _BAR
        if stage != self.stage or done < self.done:
            self.bar.reset(total)
            self.stage = stage
        self.bar.update(done - self.bar.n)
        self.done = done


class _Lines(logging.Handler):
    """Prints records from a level on, above the bar if there is one."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.setFormatter(_LINE)

    def emit(self, record: logging.LogRecord) -> None:
        """Prints the record."""
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def _heard(handler: logging.Handler) -> Iterator[None]:
    """A handler on the log of the package."""
    log = logging.getLogger("symgraph")
    level = log.level
    log.setLevel(min(handler.level, level or handler.level))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def _bar(label: str) -> AbstractContextManager[Any]:
    from tqdm import tqdm

    # A minimum of steps between two drawings would hide those of stages with few steps.
    bar: AbstractContextManager[Any] = tqdm(
        desc=label, file=sys.stderr, total=1, bar_format=_NO_BAR, dynamic_ncols=True, miniters=1
    )
    return bar


@contextmanager
def _timed(label: str, *, alone: bool) -> Iterator[None]:
    """One line for a log: what is being done, and when it is done how long it took; two where others come between."""
    start, took = time.monotonic(), ""
    print(f"{label} ...", end="\n" if alone else "", file=sys.stderr, flush=True)
    try:
        yield
        took = f" {time.monotonic() - start:.1f} s"
    finally:
        print(f"{label} done:{took}" if alone and took else took, file=sys.stderr, flush=True)
