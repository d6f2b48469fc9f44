"""Resolved terms: what one axis is made of, once inference is done (design section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod


def prime(dual: int) -> str:
    """The mark of what transforms by the inverse transpose, in all texts."""
    return "'" if dual else ""


def factors(scale: tuple[int, ...], sign: tuple[int, ...]) -> Iterator[str]:
    """Free scales and signs to their powers: `s`, `s2^-1`, `e`."""
    for number, power in enumerate(scale):
        if power:
            yield numbered("s", number) + (f"^{power}" if power != 1 else "")
    yield from (numbered("e", number) for number, power in enumerate(sign) if power % 2)


def numbered(letter: str, number: int) -> str:
    """The k-th of several scales or signs: `s`, `s2`, `s3`."""
    return letter if number == 0 else f"{letter}{number + 1}"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One occurrence of a space.

    `frame` tells occurrences of one space apart that carry different scales (the gate of a gated MLP and its `up`
    branch share their units but only `up` is scaled); `dual` marks axes that transform by the inverse transpose.
    """

    space: int
    frame: int
    dual: bool
    size: int

    def __str__(self) -> str:
        return f"f{self.frame}{prime(self.dual)}" if self.frame >= 0 else str(self.size)


@dataclass(frozen=True, slots=True)
class Product:
    """Row-major flattening of its factors; sizes multiply."""

    factors: tuple[Term, ...]

    def __str__(self) -> str:
        return f"({' x '.join(map(str, self.factors))})"

    @property
    def size(self) -> int:
        """Length of the axis."""
        return prod(factor.size for factor in self.factors)


@dataclass(frozen=True, slots=True)
class Concat:
    """Concatenation of its parts; sizes add."""

    parts: tuple[Term, ...]

    def __str__(self) -> str:
        return f"({' + '.join(map(str, self.parts))})"

    @property
    def size(self) -> int:
        """Length of the axis."""
        return sum(part.size for part in self.parts)


Term = Leaf | Product | Concat


def leaves(term: Term) -> Iterator[Leaf]:
    """Every leaf of a term from left to right."""
    if isinstance(term, Leaf):
        yield term
        return
    for child in term.factors if isinstance(term, Product) else term.parts:
        yield from leaves(child)


def blocks(axes: tuple[Term, ...]) -> Iterator[tuple[Leaf, ...]]:
    """The leaf tuples of each block of a tensor: products are flattened, concatenations enumerated."""
    for i, term in enumerate(axes):
        if isinstance(term, Product):
            yield from blocks((*axes[:i], *term.factors, *axes[i + 1 :]))
            return
        if isinstance(term, Concat):
            for part in term.parts:
                yield from blocks((*axes[:i], part, *axes[i + 1 :]))
            return
    yield tuple(leaf for leaf in axes if isinstance(leaf, Leaf))
