"""Names for the sizes of spaces, so that a dimension can be a formula: `residual`, `heads`, `query_key`, `hidden`.

Spaces of repeated layers share a symbol. Where one name stands for several sizes they are numbered in the order of the
program: `hidden_1`, `hidden_2`.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

from symgraph.symmetry.structure import Space, Structure

if TYPE_CHECKING:
    from sympy import Expr


class Sizes:
    """The size of every space, as a number and as a symbol, by the id of the space."""

    def __init__(self, symmetry: Structure) -> None:
        self.numbers: dict[int, int] = {space.id: space.size for space in symmetry.spaces}
        self._words = _distinct([(_role(space), space.size) for space in symmetry.spaces])

    @property
    def legend(self) -> tuple[tuple[str, int], ...]:
        """Every symbol's name with its value, in the order of the spaces."""
        return tuple(dict.fromkeys(zip(self._words, self.numbers.values(), strict=True)))

    @cached_property
    def symbols(self) -> dict[int, Expr]:
        """The symbol of every space."""
        from sympy import Symbol

        # Without assumptions, so that `expression.subs({"residual": 8})` finds them by their names.
        return {space: Symbol(word) for space, word in zip(self.numbers, self._words, strict=True)}


def _role(space: Space) -> str:
    """What a space is, without where: the last word of its name, two for the axes of a parameter."""
    words = [word for word in space.name.split(".") if not word.isdigit()] or [f"size{space.name}"]
    last = words[-2:] if "[" in words[-1] else words[-1:]
    word = re.sub(r"\W+", "_", "_".join(last)).strip("_")
    return word if word.isidentifier() else f"n_{word}"


def _distinct(roles: list[tuple[str, int]]) -> list[str]:
    sizes: dict[str, list[int]] = {}
    for role, size in roles:
        known = sizes.setdefault(role, [])
        if size not in known:
            known.append(size)
    taken = {role for role, known in sizes.items() if len(known) == 1}
    words: dict[tuple[str, int], str] = {}
    for role, known in sizes.items():
        for number, size in enumerate(known, 1):
            word = role if len(known) == 1 else f"{role}_{number}"
            while len(known) > 1 and word in taken:
                word += "_"
            taken.add(word)
            words[role, size] = word
    return [words[role] for role in roles]
