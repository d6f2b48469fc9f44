"""Resolved terms: what one axis is made of, once inference is done (design section 4)."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

from torch import Tensor

from symgraph.errors import UsageError


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

    @property
    def children(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return self.factors


@dataclass(frozen=True, slots=True)
class Concat:
    """Concatenation of its parts; sizes add.

    Where a part stands on both sides of another one, `order` says of each position which entry of the parts, one after
    the other, stands there.
    """

    parts: tuple[Term, ...]
    order: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"({' + '.join(map(str, self.parts))}){' moved' if self.order else ''}"

    @property
    def size(self) -> int:
        """Length of the axis."""
        return sum(part.size for part in self.parts)

    @property
    def children(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return self.parts

    @property
    def places(self) -> Sequence[int]:
        """Where each entry of the parts stands, these one after the other."""
        return sorted(range(self.size), key=self.order.__getitem__) if self.order else range(self.size)

    def with_parts(self, parts: tuple[Term, ...]) -> Concat:
        """The same of other parts; where these differ in size, what stands apart does so in the same proportion.

        Raises:
            UsageError: a part cannot be cut in that proportion.
        """
        return Concat(parts, self.order_of([part.size for part in parts]))

    def order_of(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The order where the parts have other sizes.

        Raises:
            UsageError: a part cannot be cut in that proportion.
        """
        own = [part.size for part in self.parts]
        if not self.order or list(sizes) == own:
            return self.order
        if count := turns_in(self.order):
            return _turns_of(own, sizes, count)
        number = [part for part, size in enumerate(own) for _ in range(size)]
        starts, before = ([sum(lengths[:part]) for part in range(len(lengths))] for lengths in (sizes, own))
        order: list[int] = []
        for start, stop in runs(self.order, number):
            part = number[start]
            ends = [(at - before[part]) * sizes[part] for at in (start, stop)]
            if any(end % own[part] for end in ends):
                raise UsageError(
                    f"{sizes[part]} positions cannot be put around others as {own[part]} are",
                    remedy="choose a size that is a multiple",
                )
            first, last = (end // own[part] for end in ends)
            order += range(starts[part] + first, starts[part] + last)
        return tuple(order)


Term = Leaf | Product | Concat


def runs(numbers: Sequence[int], kinds: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """Numbers that count up by one and are of one kind, as (first, one past the last)."""
    joined: list[tuple[int, int]] = []
    for number in numbers:
        follows = bool(joined) and joined[-1][1] == number
        if follows and (kinds is None or kinds[number] == kinds[joined[-1][0]]):
            joined[-1] = joined[-1][0], number + 1
        else:
            joined.append((number, number + 1))
    return joined


def turn_order(size: int, count: int) -> tuple[int, ...]:
    """The order in which `count` parts take turns: which entry stands at each position, the parts one after the other.

    >>> turn_order(7, 3)
    (0, 3, 5, 1, 4, 6, 2)
    """
    ends = turn_ends(size, count)
    return tuple(ends[place % count][0] + place // count for place in range(size))


def turn_ends(size: int, count: int) -> tuple[tuple[int, int], ...]:
    """Where each of `count` parts that take turns begins and ends, the parts one after the other.

    >>> turn_ends(7, 3)
    ((0, 3), (3, 5), (5, 7))
    """
    ends = [0, *accumulate(len(range(part, size, count)) for part in range(count))]
    return tuple(pairwise(ends))


def turns_in(order: Sequence[int]) -> int:
    """How many parts take turns in an order; none if it is another one.

    >>> turns_in((0, 3, 5, 1, 4, 6, 2)), turns_in((0, 1, 2)), turns_in((1, 2, 0))
    (3, 0, 0)
    """
    count = order.index(1) if 1 in order else 0
    return count if count > 1 and tuple(order) == turn_order(len(order), count) else 0


def _turns_of(own: Sequence[int], sizes: Sequence[int], count: int) -> tuple[int, ...]:
    """The order in which parts take turns that have other sizes; several may stand in the place of one."""
    ends, other = ([0, *accumulate(lengths)] for lengths in (own, sizes))
    starts, wanted = (turn_order(lengths[-1], count)[:count] for lengths in (ends, other))
    if [other[ends.index(start)] for start in starts if start in ends] != list(wanted):
        raise UsageError(
            f"parts of {', '.join(map(str, own))} positions that take turns cannot have {', '.join(map(str, sizes))}",
            remedy="choose sizes that leave all parts equally long",
        )
    return turn_order(other[-1], count)


def joined(terms: Sequence[Term]) -> Concat:
    """The concatenation of terms, concatenations among them spread out."""
    inner = [term if isinstance(term, Concat) else Concat((term,)) for term in terms]
    parts = tuple(part for concat in inner for part in concat.parts)
    if not any(concat.order for concat in inner):
        return Concat(parts)
    starts = accumulate((concat.size for concat in inner), initial=0)
    placed = zip(starts, inner, strict=False)
    order = [start + entry for start, concat in placed for entry in concat.order or range(concat.size)]
    return Concat(parts, () if order == list(range(len(order))) else tuple(order))


def reordered(term: Term, order: Sequence[int]) -> Concat:
    """A term with the entry at `order[i]` at position i."""
    inner = joined([term])
    before = inner.order or range(inner.size)
    return Concat(inner.parts, tuple(before[place] for place in order))


def leaves(term: Term) -> Iterator[Leaf]:
    """Every leaf of a term from left to right."""
    if isinstance(term, Leaf):
        yield term
        return
    for child in term.children:
        yield from leaves(child)


def multiplied(term: Term) -> Iterator[Term]:
    """What a term is the product of, products among its factors spread out."""
    if not isinstance(term, Product):
        yield term
        return
    for factor in term.factors:
        yield from multiplied(factor)


def blocks(axes: tuple[Term, ...]) -> Iterator[tuple[Leaf, ...]]:
    """The leaf tuples of each block of a tensor: products are flattened, concatenations enumerated."""
    for axis, term in enumerate(axes):
        if isinstance(term, Product):
            yield from blocks((*axes[:axis], *term.factors, *axes[axis + 1 :]))
            return
        if isinstance(term, Concat):
            for part in term.parts:
                yield from blocks((*axes[:axis], part, *axes[axis + 1 :]))
            return
    yield tuple(leaf for leaf in axes if isinstance(leaf, Leaf))


def leaf_keys(term: Term) -> list[tuple[int, bool]]:
    """Frame and orientation of every leaf of a flattened block."""
    if isinstance(term, Leaf):
        return [(term.frame, term.dual)]
    return [key for child in term.children for key in leaf_keys(child)]


def in_order_met(*terms: Term) -> tuple[Hashable, ...]:
    """The terms with their frames numbered as they are met: equal where terms are alike and share leaves alike."""
    frames, spaces = dict[int, int](), dict[int, int]()

    def plain(term: Term) -> Hashable:
        if isinstance(term, Leaf):
            frame, space = frames.setdefault(term.frame, len(frames)), spaces.setdefault(term.space, len(spaces))
            return frame, space, term.dual, term.size
        order = term.order if isinstance(term, Concat) else None
        return order, *map(plain, term.children)

    return tuple(map(plain, terms))


def over_leaves(vector: Tensor, source: Term, target: Term) -> Tensor | None:
    """A vector over the leaves of `source` as one over those of `target`, constant along the leaves it lacks.

    Frames that products tie are others on both sides; then leaves of the same sizes are the same, one by one. None
    where the target lacks one of the source's, and where the source is no product of its leaves, unless both are the
    same.

    Shapes: vector (size of source,) -> (size of target,).
    """
    if source == target and len(vector) == source.size:
        return vector
    have, want = ([leaf for leaf in leaves(term) if leaf.size != 1] for term in (source, target))
    if prod(leaf.size for leaf in have) != len(vector):
        return None
    dims: list[int] = []
    for leaf in have:
        at = next(
            (
                dim
                for dim, other in enumerate(want)
                if (other.frame, other.size) == (leaf.frame, leaf.size) and dim not in dims
            ),
            -1,
        )
        if at < 0:
            return vector if [leaf.size for leaf in have] == [leaf.size for leaf in want] else None
        dims.append(at)
    order = sorted(range(len(dims)), key=dims.__getitem__)
    shape = [leaf.size if dim in dims else 1 for dim, leaf in enumerate(want)]
    spread = vector.reshape([leaf.size for leaf in have]).permute(order).reshape(shape)
    return spread.expand([leaf.size for leaf in want]).reshape(-1)
