"""A rule as the YAML that it would be read from, one key a line in the order of the shipped files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import yaml

from symgraph.groups.lattice import Bound, maximal
from symgraph.rules.schema import DEFAULTS, KEYS, REQUIRED, Example, Rule

_PLAIN_EXAMPLE = Example()


def as_yaml(rule: Rule) -> str:
    """The text of a rule; reading it gives an equal one."""
    lines = [f"{key}: {value}" for key, value in _keys(rule)]
    return "\n".join([f"- {lines[0]}", *(f"  {line}" for line in lines[1:])]) + "\n"


def _keys(rule: Rule) -> Iterator[tuple[str, str]]:
    for key in KEYS:
        value = getattr(rule, key.name)
        if key.name in REQUIRED or value != DEFAULTS[key.name]:
            yield key.name, _flow(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Bound):
        names = [str(symmetry_class) for symmetry_class in maximal(value)]
        return names[0] if len(names) == 1 else names
    if isinstance(value, Example):
        changed = [
            field.name for field in fields(value) if getattr(value, field.name) != getattr(_PLAIN_EXAMPLE, field.name)
        ]
        return {name: _plain(getattr(value, name)) for name in changed}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, int | float) else str(value)


def _flow(value: Any) -> str:
    """A value on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
