"""Names of modules as regular expressions: the numbers of layers left open, where that takes in nothing else."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
# What matches nothing at all.
NOTHING = "(?!)"


def patterns(names: Collection[str], among: Iterable[str]) -> list[str]:
    """Regular expressions that these names match, each whole, and no others among those that are given.

    >>> every = ["layers.0.q", "layers.0.k", "layers.1.q", "layers.1.k", "head"]
    >>> patterns(["layers.0.q", "layers.1.q", "layers.1.k", "head"], every)
    ['layers\\\\.\\\\d+\\\\.q', 'layers\\\\.1\\\\.k', 'head']
    """
    others = set(among) - set(names)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[_opened(name)].append(name)
    return [part for opened, group in groups.items() for part in _parts(opened, group, others)]


def pattern(names: Collection[str], among: Iterable[str]) -> str:
    """One regular expression for all of them.

    >>> pattern(["layers.0.q", "head"], ["layers.0.q", "layers.1.q", "head"])
    'layers\\\\.0\\\\.q|head'
    """
    return "|".join(patterns(names, among)) or NOTHING


def _opened(name: str) -> str:
    return r"\d+".join(map(re.escape, _NUMBER.split(name)))


def _parts(opened: str, group: list[str], others: set[str]) -> list[str]:
    if len(group) > 1 and not any(re.fullmatch(opened, name) for name in others):
        return [opened]
    return [re.escape(name) for name in group]
