"""Options, each stated once, as a field of a dataclass: functions, programs and commands follow from it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn, TypeVar

from symgraph.errors import UsageError, called, near

Kind = TypeVar("Kind")
_KEY = "option"


@dataclass(frozen=True, slots=True)
class Option:
    """What is said of a field: its help, its choices, the least value it may have, or the value it must exceed.

    `flag` is what a command calls it, if not by its name; one of a field that is on by default turns it off.
    """

    help: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    flag: str = ""
    metavar: str = ""

    def wrong(self, value: Any) -> str:
        """What to give in the place of a value that makes no sense."""
        if value is None:
            return ""
        if self.choices and isinstance(value, str) and value not in self.choices:
            return f"use {' or '.join(map(repr, self.choices))}"
        if isinstance(value, tuple):
            return ""
        if self.least is not None and not self.least <= value < math.inf:
            return f"give {self.least:g} or more"
        if self.above is not None and not self.above < value < math.inf:
            return f"give a number above {self.above:g}"
        return ""


def option(default: Any, help: str, **said: Any) -> Any:
    """A field of a dataclass that is an option."""
    return field(default=default, metadata={_KEY: Option(help, **said)})


def stated(kind: type[Any]) -> dict[str, tuple[Any, Option]]:
    """The fields of a dataclass that are options, by name, each with what is said of it."""
    return {field.name: (field, field.metadata[_KEY]) for field in fields(kind) if _KEY in field.metadata}


def check(options: Any) -> None:
    """Raises for the first option with a value that makes no sense.

    Raises:
        UsageError: which one, and what does.
    """
    for name in stated(type(options)):
        require(type(options), name, getattr(options, name))


def require(kind: type[Any], name: str, value: Any) -> None:
    """Raises where one option of a dataclass may not have a value.

    Raises:
        UsageError: what may be given in its place.
    """
    if wrong := stated(kind)[name][1].wrong(value):
        raise UsageError(f"{called(name)} is {value!r}", remedy=wrong)


def several(texts: str | Iterable[str]) -> tuple[str, ...]:
    """Texts, of which one may be given alone.

    >>> several("hidden"), several(["hidden", "heads"])
    (('hidden',), ('hidden', 'heads'))
    """
    return (texts,) if isinstance(texts, str) else tuple(texts)


def values_of(source: Any, kind: type[Any] | None = None) -> dict[str, Any]:
    """The options of whatever has them, by name; those of a kind, or all."""
    return {field.name: getattr(source, field.name) for field in fields(kind or source)}


def given(
    kind: type[Kind],
    options: Kind | Mapping[str, Any] | None,
    more: Mapping[str, Any] | None = None,
    elsewhere: Mapping[str, type[Any]] | None = None,
) -> Kind:
    """Options as a dataclass of a kind, from one, from names and values, or from none.

    Args:
        elsewhere: other dataclasses of options, by the argument that takes them, for who looks for an option here.

    Raises:
        UsageError: there is no option of that name; the nearest one is named.
    """
    if isinstance(options, kind) and not more:
        return options
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if options is None or isinstance(options, Mapping):
        values = dict(options or {})
    elif isinstance(options, kind):
        values = {name: getattr(options, name) for name in known}
    else:
        raise UsageError(f"{type(options).__name__} are no {kind.__name__}", remedy=f"give {kind.__name__}(...)")
    values |= more or {}
    for name in values:
        if name not in known:
            refuse_unknown(str(name), known, elsewhere or {})
    lists = {field.name for field in fields(kind) if field.type == "tuple[str, ...]"}  # type: ignore[arg-type]
    return kind(**{name: several(value) if name in lists else value for name, value in values.items()})


def check_keywords(function: Callable[..., Any], more: Mapping[str, Any], elsewhere: Mapping[str, type[Any]]) -> None:
    """Raises where a function has no keyword of a name.

    Raises:
        UsageError: naming the nearest one, or the argument that takes an option of that name.
    """
    known = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    ]
    for name in more:
        if name not in known:
            refuse_unknown(name, known, elsewhere)


def refuse_unknown(name: str, known: Sequence[str], elsewhere: Mapping[str, type[Any]]) -> NoReturn:
    """Raises for the name of an option that does not exist.

    Raises:
        UsageError: naming the nearest one, or the argument that takes an option of that name.
    """
    place = next(
        (argument for argument, kind in elsewhere.items() if name in {field.name for field in fields(kind)}), None
    )
    remedy = near(name, known, f"known: {', '.join(known)}")
    if place is not None:
        remedy = f"it is one of {elsewhere[place].__name__}: {place}={{{name!r}: ...}}"
    raise UsageError(f"there is no option {name!r}", remedy=remedy)
