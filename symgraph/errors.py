"""The one error type users see, and its typed refinements.

Every message says where, what, why and what to do. Internal code raises the most specific subclass; the command
line turns the class into an exit code and prints the message without a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Front:
    """Where messages are read: in Python or at a command line; and what an argument is called there, if not by name."""

    command_line: bool = False
    names: Mapping[str, str] = field(default_factory=dict)


_front = ContextVar("front", default=Front())  # noqa: B039 - it is frozen


@contextmanager
def read_at(*, command_line: bool | None = None, **names: str) -> Iterator[None]:
    """Within it messages speak of arguments as they are given there.

    >>> with read_at(command_line=True, data="--train-data"):
    ...     argument("data", "FILE"), argument("tied", "untie"), argument("dual", True)
    ('--train-data FILE', '--tied untie', '--dual')
    """
    before = _front.get()
    where = before.command_line if command_line is None else command_line
    token = _front.set(replace(before, command_line=where, names={**before.names, **names}))
    try:
        yield
    finally:
        _front.reset(token)


def either(python: str, command_line: str) -> str:
    """The form of a hint that can be followed where it is read."""
    return command_line if _front.get().command_line else python


def argument(name: str, value: Any = None, *, within: str = "") -> str:
    """An argument, with a value or without, as it is given where the message is read.

    Args:
        within: the argument of Python that takes it as one of its options.

    >>> argument("tied", "untie"), argument("permutations", True, within="learning"), argument("data")
    ("tied='untie'", "learning={'permutations': True}", 'data=')
    """
    front = _front.get()
    if front.command_line:
        flag = front.names.get(name, f"--{name.replace('_', '-')}")
        values = value if isinstance(value, list | tuple) else () if value is None or value is True else (value,)
        return " ".join([flag, *map(str, values)])
    if within:
        return f"{front.names.get(within, within)}={{{name!r}: {'...' if value is None else repr(value)}}}"
    return f"{front.names.get(name, name)}={'' if value is None else repr(value)}"


def called(name: str) -> str:
    """The name of an argument where the message is read."""
    return either(name, argument(name))


class SymgraphError(Exception):
    """A problem the user can act on.

    Args:
        what: one sentence naming the place and the problem.
        cause: why it happened, if it is not obvious from `what`.
        remedy: what to try next.
    """

    exit_code = 1
    title = "error"

    def __init__(self, what: str, *, cause: str = "", remedy: str = "") -> None:
        self.what, self.cause, self.remedy = what, cause, remedy
        super().__init__(self.render())

    def render(self) -> str:
        """The message as it is printed, without the leading title."""
        lines = [self.what]
        if self.cause:
            lines.append(f"  cause: {self.cause}")
        if self.remedy:
            lines.append(f"  help: {self.remedy}")
        return "\n".join(lines)

    def to_plain(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "kind": self.title,
            "what": self.what,
            "cause": self.cause,
            "help": self.remedy,
            "exit_code": self.exit_code,
        }


class UsageError(SymgraphError):
    """The arguments do not make sense together."""

    exit_code = 2
    title = "usage"


class TraceError(SymgraphError):
    """The model could not be turned into a graph."""

    exit_code = 3
    title = "trace"


class RuleError(SymgraphError):
    """A rule file is malformed, or a rule claims something false."""

    exit_code = 4
    title = "rule"


class CoverageError(SymgraphError):
    """`--strict` was given and an operator has no rule."""

    exit_code = 5
    title = "uncovered"


class VerifyError(SymgraphError):
    """An inferred symmetry does not hold numerically."""

    exit_code = 6
    title = "unsound"


class AuditError(SymgraphError):
    """The inferred group is not the whole symmetry group of the model, or that cannot be measured."""

    exit_code = 9
    title = "incomplete"


class CheckpointError(SymgraphError):
    """A checkpoint cannot be read, written, or does not fit."""

    exit_code = 7
    title = "checkpoint"


class DataError(SymgraphError):
    """Data for a loss or a metric cannot be read or does not fit the model."""

    exit_code = 8
    title = "data"


class Interrupted(SymgraphError):
    """Someone has interrupted it."""

    exit_code = 130
    title = "interrupted"


class Bug(SymgraphError):
    """A bug in symgraph."""

    exit_code = 70
    title = "bug"


def shorten(items: Iterable[str], separator: str = ", ") -> str:
    """The first few items as text, then how many follow."""
    listed = list(items)
    more = len(listed) - SHOWN
    return separator.join(listed[:SHOWN]) + (f"{separator}and {more} more" if more > 0 else "")


def near(word: str, known: Iterable[str], otherwise: str = "", *, count: int = 1, cutoff: float = 0.6) -> str:
    """What a misspelt name may have meant, as a remedy; what else to say where nothing is close.

    Args:
        known: the names that there are; a few of them are listed where nothing else is to be said.

    >>> near("residul", ["residual", "hidden"])
    'did you mean `residual`?'
    >>> near("x", ["residual", "hidden"])
    'there is residual, hidden'
    """
    names = list(dict.fromkeys(known))
    close = get_close_matches(word, names, n=count, cutoff=cutoff)
    if close:
        return f"did you mean {' or '.join(f'`{name}`' for name in close)}?"
    return otherwise or (f"there is {shorten(names)}" if names else "there is none")


def one_line(error: BaseException) -> str:
    """An exception as one line of text."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower() + (f": {error.filename}" if error.filename else "")
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
