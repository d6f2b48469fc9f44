"""Records of things that differ in the numbers of layers only, as one record with open places for these.

`layers.3.mlp.hidden` and what is said of it (`model.layers.3.mlp.gate_proj.weight`, `layers.3.mlp.act (net.py:66)`)
becomes one record with a mark in the place of 3, and the list of the numbers that stand there. Nothing is lost: filling
a member's numbers in gives its record to the letter, and where it would not, the members stay apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from symgraph.symmetry.fold import Numbers, fold, numbers, opened, template

# The first of the marks: characters of Unicode's private use, one for each open place.
FIRST_MARK = 0xE000
_MARKS = 64


@dataclass(frozen=True, slots=True)
class Repeated:
    """One record that stands for several: `rows` has, for each of them, the numbers of its open places."""

    name: str
    rows: tuple[Numbers, ...]
    record: Any

    def filled(self, row: Numbers) -> Any:
        """The record of the member with these numbers."""
        return _texts(self.record, lambda text: _filled(text, row))


def repeated(records: Sequence[dict[str, Any]]) -> list[Repeated]:
    """Records, each with its `name`, as few that stand for all, in the order of their first members.

    >>> [one.rows for one in repeated([{"name": "h.0.up"}, {"name": "h.1.up"}, {"name": "head"}])]
    [((0,), (1,)), ((),)]
    """
    alike: dict[str, list[dict[str, Any]]] = {}
    for record in (_texts(record, str) for record in records):
        alike.setdefault(json.dumps(_texts(record, template)), []).append(record)
    grids = [one for members in alike.values() for one in _grids(members)]
    place = {record["name"]: at for at, record in enumerate(records)}
    return sorted(grids, key=lambda one: place[one.filled(one.rows[0])["name"]])


def _grids(members: Sequence[dict[str, Any]]) -> Iterator[Repeated]:
    """Members of one pattern, of which each is told by the numbers in its name, as one record where that is exact."""
    by_name = {record["name"]: record for record in members}
    for folded in fold(by_name):
        inside = [by_name[name] for name in folded.members]
        one = _one(folded.pattern, inside)
        yield from [one] if one else (Repeated(record["name"], ((),), record) for record in inside)


def _one(name: str, members: Sequence[dict[str, Any]]) -> Repeated | None:
    names = [numbers(record["name"]) for record in members]
    columns = [column for column in dict.fromkeys(zip(*names, strict=True)) if len(set(column)) > 1]
    every = [list(_all_texts(record)) for record in members]
    marked = [_marked(texts, columns) for texts in zip(*every, strict=True)]
    if None in marked or len(columns) > _MARKS or any(_has_mark(text) for texts in every for text in texts):
        return None
    rest = iter(marked)
    rows = tuple(zip(*columns, strict=True)) if columns else ((),)
    one = Repeated(name, rows, _texts(members[0], lambda _: next(rest)))
    exact = all(one.filled(row) == record for row, record in zip(rows, members, strict=True))
    return one if exact else None


def _marked(texts: Sequence[str], columns: Sequence[Numbers]) -> str | None:
    """One text of all members with marks for what differs; None where that is no number of their names."""
    marks = []
    for values in zip(*map(numbers, texts), strict=True):
        if len(set(values)) == 1:
            marks.append(str(values[0]))
        elif values in columns:
            marks.append(chr(FIRST_MARK + columns.index(values)))
        else:
            return None
    return opened(texts[0], marks)


def _filled(text: str, row: Numbers) -> str:
    for place, number in enumerate(row):
        text = text.replace(chr(FIRST_MARK + place), str(number))
    return text


def _has_mark(text: str) -> bool:
    return any(FIRST_MARK <= ord(letter) < FIRST_MARK + _MARKS for letter in text)


def _texts(value: Any, change: Any) -> Any:
    """Plain data with every text changed; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [_texts(item, change) for item in value]
    return {key: _texts(item, change) for key, item in value.items()} if isinstance(value, dict) else value


def _all_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _all_texts(item)
