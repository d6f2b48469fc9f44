"""Text for a terminal: repeated layers in one line (`layers.{0..11}.mlp.hidden`), and lines of 120 columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap

WIDTH = 120
# A whole component of a dotted name; ranges in brackets and numbers inside words are no layers.
_NUMBER = re.compile(r"(?<![\w\[:\]-])\d+(?=[.\[\s]|$)")
_BRACES = re.compile(r"\{(\d+(?:\.\.\d+)?(?:,\d+(?:\.\.\d+)?)*)\}")
# More layers than any model has: what a mistyped range may unfold to.
MOST = 10_000
Numbers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Folded:
    """One pattern and the names it stands for."""

    pattern: str
    members: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many names there are."""
        return len(self.members)


def fold(names: Iterable[str]) -> list[Folded]:
    """Names that differ in whole numbers only, as one pattern wherever all combinations of the numbers occur.

    >>> [f.pattern for f in fold(["layers.0.up", "layers.1.up", "head"])]
    ['layers.{0..1}.up', 'head']
    """
    groups: dict[str, dict[Numbers, str]] = {}
    for name in names:
        groups.setdefault(template(name), {})[numbers(name)] = name
    folded = []
    for common, members in groups.items():
        for grid in _grids(sorted(members)):
            names_of = tuple(name for row, name in members.items() if row in grid)
            folded.append(Folded(_fill(common, grid), names_of))
    return folded


def unfold(pattern: str) -> list[str]:
    """The names that a pattern stands for.

    >>> unfold("layers.{0..2,5}.up")
    ['layers.0.up', 'layers.1.up', 'layers.2.up', 'layers.5.up']
    """
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    numbers = (number for run in braces[1].split(",") for number in _run(run))
    return [
        name for number in numbers for name in unfold(f"{pattern[: braces.start()]}{number}{pattern[braces.end() :]}")
    ]


def _run(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), min(int(last or first), int(first) + MOST) + 1)


def template(name: str) -> str:
    """The name without its whole numbers: what names of one pattern have in common."""
    return opened(name, ["\0"] * len(numbers(name)))


def numbers(name: str) -> Numbers:
    """The whole numbers in the name, from left to right."""
    return tuple(int(match) for match in _NUMBER.findall(name))


def opened(name: str, marks: Sequence[str]) -> str:
    """The name with a mark in the place of each of its whole numbers."""
    rest = iter(marks)
    return _NUMBER.sub(lambda _: next(rest), name)


def _grids(rows: Sequence[Numbers]) -> list[list[Numbers]]:
    """Rows cut into full grids: every combination of the values of their independent columns is there."""
    columns = list(dict.fromkeys(zip(*rows, strict=True)))
    cells = 1
    for column in columns:
        cells *= len(set(column))
    if cells == len(rows):
        return [list(rows)]
    at = next(place for place, column in enumerate(zip(*rows, strict=True)) if len(set(column)) > 1)
    slices = ([row for row in rows if row[at] == value] for value in sorted({row[at] for row in rows}))
    return [grid for rows_of_value in slices for grid in _grids(rows_of_value)]


def _fill(common: str, rows: Sequence[Numbers]) -> str:
    text = iter(common.split("\0"))
    return next(text) + "".join(_braces(sorted(set(column))) + next(text) for column in zip(*rows, strict=True))


def _braces(values: Sequence[int]) -> str:
    if len(values) == 1:
        return str(values[0])
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return "{" + ",".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs) + "}"


def wrapped(text: str, margin: str) -> list[str]:
    """A text in lines, cut between words alone."""
    return wrap(
        text, WIDTH, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )
