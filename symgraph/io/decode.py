"""Plain data, as JSON and YAML give it, as dataclasses and back: every key and every type is checked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import msgspec
import yaml

from symgraph.errors import near

Kind = TypeVar("Kind")


class Malformed(ValueError):
    """Something of the wrong kind or name, and where it stands."""


def parse(text: str) -> Any:
    """What a text of JSON or YAML says.

    Raises:
        Malformed: it is neither.
    """
    # Not all JSON means the same in YAML: 1e-07 is a number in one and a text in the other.
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        # PyYAML lets the errors of its constructors through (an impossible date, an empty number).
        raise Malformed(" ".join(f"{type(error).__name__}: {error}".split())[:300]) from error


def decode(kind: type[Kind], plain: Any) -> Kind:
    """A value of the type, a dataclass for instance, from plain data.

    Raises:
        Malformed: a key is unknown or missing, or a value is of another type.
    """
    try:
        made = msgspec.convert(plain, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        what, _, place = str(error).partition(" - at `$")
        raise Malformed(f"{place.strip('.`')}: {what}" if place else what) from error
    _check_keys(plain, made, "")
    return made


def encode(value: Any) -> Any:
    """A value as plain data that `decode` takes."""
    return msgspec.json.decode(msgspec.json.encode(value))


def brief(value: Any) -> Any:
    """The same without the fields of dataclasses that say nothing: those that are empty by default, and are."""
    if isinstance(value, tuple) and value and all(map(is_dataclass, value)):
        return [brief(item) for item in value]
    if not is_dataclass(value):
        return encode(value)
    every = {field.name: (getattr(value, field.name), field.default) for field in fields(value)}
    return {name: brief(own) for name, (own, default) in every.items() if own != default or own not in ("", None, ())}


def _check_keys(plain: Any, made: Any, at: str) -> None:
    """Every key that was given must be a field of the dataclass that was made of it."""
    if is_dataclass(made):
        check_names(plain, [field.name for field in fields(made)], at)
        for key, value in plain.items():
            _check_keys(value, getattr(made, key), f"{at}.{key}" if at else key)
    elif isinstance(made, dict):
        for key in made.keys() & plain.keys():
            _check_keys(plain[key], made[key], f"{at}.{key}" if at else str(key))
    elif isinstance(made, tuple):
        for number, (one, other) in enumerate(zip(plain, made, strict=True)):
            _check_keys(one, other, f"{at}[{number}]")


def check_names(given: Iterable[Any], known: Iterable[str], at: str = "") -> None:
    """Raises for a name that is none of those known.

    Raises:
        Malformed: with the nearest one that is.
    """
    known = list(known)
    for name in given:
        if name not in known:
            what = near(str(name), known, f"known: {', '.join(known)}")
            raise Malformed(f"{at}: {name!r} is unknown ({what})" if at else f"{name!r} is unknown ({what})")
