"""From exceptions to one clear message, on standard error or as JSON, and an exit code."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

from symgraph.cli.console import Console
from symgraph.errors import (
    AuditError,
    Bug,
    CheckpointError,
    CoverageError,
    DataError,
    Interrupted,
    RuleError,
    SymgraphError,
    TraceError,
    UsageError,
    VerifyError,
    argument,
    one_line,
)

BROKEN_PIPE = 141
_DOCUMENTED = (UsageError, TraceError, RuleError, CoverageError, VerifyError, CheckpointError, DataError, AuditError)


def exit_codes() -> str:
    """The exit codes, one on each line."""
    codes = [(0, "done"), (SymgraphError.exit_code, "another problem that you can act on")]
    codes += [(c.exit_code, _sentence(c)) for c in _DOCUMENTED]
    codes += [(Bug.exit_code, "a bug in symgraph"), (Interrupted.exit_code, "interrupted")]
    codes.append((BROKEN_PIPE, "the reader of the output left"))
    return "\n".join(f"  {code:<4} {text}" for code, text in codes)


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get("SYMGRAPH_DEBUG", "") not in ("", "0")


def guarded(run: Callable[[], int], console: Console) -> int:
    """The exit code of `run`, whatever it raises."""
    try:
        return run()
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0 if leave.code is None else 1
    except KeyboardInterrupt:
        return _report(Interrupted("interrupted before anything was done"), console)
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except Exception as error:
        if debugging():
            traceback.print_exc()
        return _report(error if isinstance(error, SymgraphError) else _known(error) or _bug(error), console)


def _report(error: SymgraphError, console: Console) -> int:
    """Prints what happened: as the JSON document that was asked for, unless a result is printed already."""
    if console.as_json and not console.answered:
        print(json.dumps({"error": error.to_plain()}, indent=2), flush=True)
    # What someone wanted is no error; the line that was being drawn is left as it is.
    head = "\n" if isinstance(error, Interrupted) else f"error[{error.title}]: "
    print(f"{head}{error}", file=sys.stderr)
    return error.exit_code


def _known(error: Exception) -> SymgraphError | None:
    """Problems of the machine, which are no bugs."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        remedy = f"use a smaller {argument('batch_size')}, or {argument('device', 'cpu')}"
        return SymgraphError("there is not enough memory", cause=one_line(error), remedy=remedy)
    if isinstance(error, OSError):
        place = error.filename or "input or output"
        return SymgraphError(f"{place}: {error.strerror or one_line(error)}", remedy="check the path and the disk")
    return None


def _bug(error: Exception) -> Bug:
    remedy = "report it, with the traceback above" if debugging() else "report it; SYMGRAPH_DEBUG=1 shows where"
    return Bug("this is a bug in symgraph", cause=one_line(error), remedy=remedy)


def _sentence(cls: type[SymgraphError]) -> str:
    text = (cls.__doc__ or "").strip().splitlines()[0].rstrip(".").replace("`", "")
    return text[0].lower() + text[1:]


def _drop_output() -> None:
    # The interpreter flushes standard output once more on its way out, which would fail again.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
