"""Names for values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Set


def numbering(taken: Set[str]) -> Callable[[str], str]:
    """A function giving `base`, `base_1`, `base_2`, ... in turn, leaving out the names in `taken`."""
    counts: defaultdict[str, int] = defaultdict(int)

    def fresh(base: str) -> str:
        while True:
            number = counts[base]
            counts[base] += 1
            name = f"{base}_{number}" if number else base
            if name not in taken:
                return name

    return fresh
