"""Ctrl-C: what was kept, and the command that goes on from there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symgraph.cli.parser import Arguments
from symgraph.errors import Interrupted

# Arguments that name what is written.
_OUTPUTS = ("out", "alignment", "emit_program", "plot")


@contextmanager
def interruptible(args: Arguments) -> Iterator[None]:
    """Turns an interrupt into what it has left.

    Raises:
        Interrupted: someone has interrupted it.
    """
    since = time.time()
    try:
        yield
    except KeyboardInterrupt:
        raise _interrupted(args, since) from None


def _interrupted(args: Arguments, since: float) -> Interrupted:
    if (file := getattr(args, "checkpoint", None)) and _newer(file, since):
        from symgraph.match.run_file import kept_in

        resume = "" if args.resume else " --resume"
        what = f"interrupted: the run up to {kept_in(file)} is kept in {file}"
        return Interrupted(what, remedy=f"go on from there: {args.typed}{resume}")
    written = [path for name in _OUTPUTS if (path := getattr(args, name, None)) and _newer(path, since)]
    kept = f"{' and '.join(written)} is complete" if written else "nothing was written"
    remedy = f"start again: {args.typed}"
    if getattr(args, "method", "") == "learned" and not file:
        remedy += " --checkpoint FILE (then --resume goes on from there)"
    return Interrupted(f"interrupted: {kept}", remedy=remedy)


def _newer(path: str, since: float) -> bool:
    """Whether something was written there since then; clocks of file systems are coarse."""
    return Path(path).exists() and Path(path).stat().st_mtime >= since - 1
