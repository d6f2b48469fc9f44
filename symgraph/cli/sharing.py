"""Commands that processes share: `torchrun --nproc-per-node N -m symgraph align ...`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from symgraph.cli.failures import debugging
from symgraph.cli.parser import Arguments
from symgraph.io.launched import started

SHARED = ("align", "merge", "universe")


def silent_beside(words: Sequence[str]) -> None:
    """Lets the first process speak alone, where several share a command; tracebacks are still asked for."""
    command = next((w for w in words if not w.startswith("-")), "")
    if command not in SHARED or started()[0] == 0 or debugging():
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for place in (1, 2):
        os.dup2(nowhere, place)


def shared(args: Arguments, run: Callable[[], int]) -> int:
    """The exit code of a command, which processes that were started together share; a plan is made by the first one.

    Raises:
        LostProcess: one of them has ended.
    """
    if args.parser.prog.split()[-1] not in SHARED or started()[1] == 1:
        return run()
    from symgraph.io.ranks import joined, release

    code = 0
    with joined():
        if args.dry_run:
            release()
        code = run()
    return code
