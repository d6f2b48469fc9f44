"""The words of every report and what they mean, from `glossary.yaml` beside this file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from symgraph.errors import UsageError
from symgraph.io.decode import decode, parse
from symgraph.symmetry.dimension import Dimension, Family
from symgraph.symmetry.fold import wrapped
from symgraph.symmetry.structure import Structure

_FILE = Path(__file__).with_name("glossary.yaml")


@dataclass(frozen=True, slots=True)
class Entry:
    """One term: what it means, an example, the other words for it, and the terms that lead on from it."""

    term: str
    words: str
    example: str = ""
    also: tuple[str, ...] = ()
    see: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield self.term + (f" (also {', '.join(self.also)})" if self.also else "")
        yield from wrapped(self.words, "  ")
        if self.example:
            yield from wrapped(self.example, "  ")
        if self.see:
            yield from wrapped(f"see also: {', '.join(self.see)}", "  ")


@cache
def glossary() -> tuple[Entry, ...]:
    """Every entry, in the order of the file."""
    return tuple(decode(tuple[Entry, ...], parse(_FILE.read_text(encoding="utf-8"))))


def entry(term: str) -> Entry:
    """The entry for a term, by any of its words.

    Raises:
        UsageError: there is none; near words are suggested.

    >>> print(entry("fibred over").term)
    fibre
    """
    known = {word.lower(): one for one in glossary() for word in (one.term, *one.also)}
    wanted = " ".join(term.lower().split())
    if wanted in known:
        return known[wanted]
    near = get_close_matches(wanted, known, n=3, cutoff=0.6)
    remedy = f"did you mean {', '.join(near)}?" if near else "`symgraph explain glossary` lists every term"
    raise UsageError(f"the glossary has no {term!r}", remedy=remedy)


def legend(symmetry: Structure, counted: Dimension) -> tuple[Entry, ...]:
    """The entries for what the table of a graph speaks of: its columns, its classes and its families."""
    words = {str(space.group) for space in symmetry.spaces}
    words |= {str(part.family) for part in counted.parts if part.family is not Family.SPACE}
    columns = ("space", "size", "class", "dimension", "parameter", "fibre", "splits/merges", "rigid", "family")
    wanted = {*columns, *words} | ({"uncovered operator"} if symmetry.uncovered else set())
    return tuple(one for one in glossary() if one.term in wanted)


def printed(entries: Iterable[Entry]) -> str:
    """Entries as text, one below the other."""
    return "\n\n".join(map(str, entries))
