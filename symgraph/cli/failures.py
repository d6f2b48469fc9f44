"""From exceptions to one clear message on standard error and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

from symgraph.errors import (
    AuditError,
    CheckpointError,
    CoverageError,
    DataError,
    RuleError,
    SymgraphError,
    TraceError,
    UsageError,
    VerifyError,
    one_line,
)

BUG, INTERRUPTED, BROKEN_PIPE = 70, 130, 141
_DOCUMENTED = (UsageError, TraceError, RuleError, CoverageError, VerifyError, CheckpointError, DataError, AuditError)


def exit_codes() -> str:
    """The exit codes, one on each line."""
    codes = [(0, "done"), (SymgraphError.exit_code, "another problem that you can act on")]
    codes += [(c.exit_code, _sentence(c)) for c in _DOCUMENTED]
    codes += [(BUG, "a bug in symgraph"), (INTERRUPTED, "interrupted"), (BROKEN_PIPE, "the reader of the output left")]
    return "\n".join(f"  {code:<4} {text}" for code, text in codes)


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get("SYMGRAPH_DEBUG", "") not in ("", "0")


def guarded(run: Callable[[], int]) -> int:
    """The exit code of `run`, whatever it raises."""
    try:
        return run()
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0 if leave.code is None else 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    if debugging():
        traceback.print_exc()
    known = error if isinstance(error, SymgraphError) else _known(error)
    if known is not None:
        print(f"error[{known.title}]: {known}", file=sys.stderr)
        return known.exit_code
    hint = "" if debugging() else "; SYMGRAPH_DEBUG=1 shows where"
    print(f"error[bug]: this is a bug in symgraph, please report it{hint}: {one_line(error)}", file=sys.stderr)
    return BUG


def _known(error: Exception) -> SymgraphError | None:
    """Problems of the machine, which are no bugs."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        remedy = "use a smaller --batch-size, or --device cpu"
        return SymgraphError("there is not enough memory", cause=one_line(error), remedy=remedy)
    if isinstance(error, OSError):
        place = error.filename or "input or output"
        return SymgraphError(f"{place}: {error.strerror or one_line(error)}", remedy="check the path and the disk")
    return None


def _sentence(cls: type[SymgraphError]) -> str:
    text = (cls.__doc__ or "").strip().splitlines()[0].rstrip(".").replace("`", "")
    return text[0].lower() + text[1:]


def _drop_output() -> None:
    # The interpreter flushes standard output once more on its way out, which would fail again.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
