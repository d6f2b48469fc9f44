"""What was inferred about a graph as compact JSON and back, whole and fast: for what is kept beside the graph itself.

Every distinct record (a leaf, a bound, a reason) is written once, in a table, and named by its place there. Unlike the
JSON for readers (`symmetry.serialise`) it has the terms of all values, and is not checked: whoever keeps it has a
checksum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from symgraph.groups.lattice import Bound, SymmetryClass
from symgraph.ir import Graph
from symgraph.symmetry.structure import Structure

Found = TypeVar("Found", bound=Structure)
_TERMS = ("terms", "values")
_WRITTEN = tuple(field.name for field in fields(Structure) if field.name != "graph")
_PLAIN = (bool, int, float, str)


def dump(symmetry: Structure) -> bytes:
    """All that was inferred, without the graph.

    Raises:
        TypeError: something is of a kind that has no place here.
    """
    table = _Table({}, [])
    parts: dict[str, Any] = {}
    for name in _WRITTEN:
        value = getattr(symmetry, name)
        if name in _TERMS:
            parts[name] = {key: table.place(axes) for key, axes in value.items()}
        else:
            parts[name] = table.plain(dict(value) if isinstance(value, dict) else value)
    return msgspec.json.encode({"table": table.rows, "parts": parts})


def load(text: bytes, graph: Graph, kind: type[Found]) -> Found:
    """What `dump` wrote, as a structure of this kind on its graph.

    Raises:
        ValueError, TypeError, KeyError, IndexError: it did not.
    """
    plain = msgspec.json.decode(text, type=dict[str, Any])
    records: list[Any] = []
    for kind_name, *values in plain["table"]:
        records.append(_makers()[kind_name](*[_read(value, records) for value in values]))
    parts: dict[str, Any] = plain["parts"]
    given: dict[str, Any] = {name: {key: records[at] for key, at in parts.pop(name).items()} for name in _TERMS}
    return kind(graph, **given, **{name: _read(value, records) for name, value in parts.items()})


@dataclass(frozen=True, slots=True)
class _Table:
    """Distinct records, each after those that it has in it."""

    places: dict[Any, int]
    rows: list[list[Any]]

    def place(self, value: Any) -> int:
        """Where a record stands; equal ones of one kind stand in one place."""
        key = (type(value), value)
        if key not in self.places:
            row = [type(value).__name__, *map(self.plain, _parts(value))]
            self.places[key] = len(self.rows)
            self.rows.append(row)
        return self.places[key]

    def plain(self, value: Any) -> Any:
        """A value as JSON; of a record its place, in an object of its own, as nothing else is one."""
        if value is None or type(value) in _PLAIN:
            return value
        if type(value) is tuple and not value:
            return []
        if type(value) is dict:
            return {"items": [[key, self.plain(item)] for key, item in value.items()]}
        if type(value) is tuple and not any(is_dataclass(item) or type(item) is tuple for item in value):
            return list(map(self.plain, value))
        if type(value).__name__ in _makers():
            return {"at": self.place(value)}
        raise TypeError(f"{type(value).__name__} has no place in a symmetry graph")


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        yield from value
    elif isinstance(value, Bound):
        yield from sorted(value.largest)
    elif isinstance(value, SymmetryClass):
        yield str(value)
    else:
        yield from (getattr(value, entry.name) for entry in fields(value))


def _read(plain: Any, records: list[Any]) -> Any:
    if type(plain) is dict:
        if "at" in plain:
            return records[plain["at"]]
        return {key: _read(value, records) for key, value in plain["items"]}
    return tuple(_read(value, records) for value in plain) if type(plain) is list else plain


@cache
def _makers() -> dict[str, Callable[..., Any]]:
    """What makes a record of each kind: of those that the fields of a structure may have in them."""
    makers: dict[str, Callable[..., Any]] = {"tuple": lambda *parts: parts, "SymmetryClass": SymmetryClass}
    makers["Bound"] = lambda *names: Bound(frozenset(map(SymmetryClass, names)))
    left: list[Any] = [get_type_hints(Structure)[name] for name in _WRITTEN]
    while left:
        hint = left.pop()
        if isinstance(hint, type) and is_dataclass(hint) and hint.__name__ not in makers:
            makers[hint.__name__] = hint
            left += get_type_hints(hint).values()
        left += get_args(hint)
    return makers
