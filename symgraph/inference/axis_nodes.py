"""Nodes for axes in a union-find: free ones, and ones that are put together of others (design section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from math import prod

from symgraph.inference.claims import Ref
from symgraph.symmetry.terms import prime


class Shape(Enum):
    """How a defined node is put together."""

    PRODUCT = "product"
    CONCAT = "concat"
    MOVED = "moved"


class AxisNodes:
    """One node for each axis: a parent with the parity of the way to it, a size, and how it is put together."""

    def __init__(self) -> None:
        self._parent: list[Ref] = []
        self._size: list[int] = []
        self._shape: list[tuple[Shape, tuple[Ref, ...]] | None] = []
        self._orders: dict[int, tuple[int, ...]] = {}

    # -- construction ------------------------------------------------------------------------------------------

    def new(self, size: int) -> Ref:
        """A free node of the given size."""
        self._parent.append(2 * len(self._size))
        self._size.append(size)
        self._shape.append(None)
        return 2 * len(self._size) - 2

    def product(self, refs: list[Ref]) -> Ref:
        """The row-major flattening of `refs`; factors of size one vanish."""
        kept = [ref for ref in refs if self.size(ref) != 1]
        if len(kept) == 1:
            return kept[0]
        if not kept:
            return self.new(1)
        return self._define(self.new(prod(map(self.size, kept))), Shape.PRODUCT, kept)

    def concat(self, refs: list[Ref]) -> Ref:
        """The concatenation of `refs`; empty parts vanish."""
        kept = [ref for ref in refs if self.size(ref) != 0]
        if len(kept) == 1:
            return kept[0]
        return self._define(self.new(sum(map(self.size, kept))), Shape.CONCAT, kept)

    def moved(self, ref: Ref, order: Sequence[int]) -> Ref:
        """An axis whose position i holds the entry at position `order[i]` of `ref`."""
        return self._move(self.new(self.size(ref)), ref, tuple(order))

    def _move(self, free: Ref, ref: Ref, order: tuple[int, ...]) -> Ref:
        self._orders[free >> 1] = order
        return self._define(free, Shape.MOVED, [ref])

    def _define(self, ref: Ref, shape: Shape, refs: list[Ref]) -> Ref:
        flip = ref & 1
        self._shape[ref >> 1] = (shape, tuple(child ^ flip for child in refs))
        return ref

    def part(self, ref: Ref) -> None:
        """Makes every position of a free axis a part of its own, which stays in its place."""
        ref = self.find(ref)
        if self.children(ref) is None:
            self._define(ref, Shape.CONCAT, [self.new(1) for _ in range(self.size(ref))])

    def forget_cuts(self, nodes: Iterable[int]) -> None:
        """Makes nodes free again that were cut as others are, which nothing was made equal to parts of."""
        for node in nodes:
            self._shape[node] = None
            self._orders.pop(node, None)

    def take_apart(self, ref: Ref) -> list[tuple[Ref, Ref]]:
        """Makes an axis the concatenation of new ones, one for each of its parts; returns each beside its part."""
        parts, ref = self.parts(ref), self.find(ref)
        own = [self.new(self.size(part)) for part in parts]
        self._define(ref, Shape.CONCAT, own)
        return list(zip(own, parts, strict=True))

    # -- reading -----------------------------------------------------------------------------------------------

    def find(self, ref: Ref) -> Ref:
        """The representative of `ref`, with the parity of the way to it."""
        parent = self._parent
        up = parent[ref >> 1] ^ (ref & 1)
        if parent[up >> 1] ^ (up & 1) == up:
            return up
        path = [ref]
        while (above := parent[up >> 1] ^ (up & 1)) != up:
            path.append(up)
            up = above
        for passed in path:
            parent[passed >> 1] = up ^ (passed & 1)
        return up

    def size(self, ref: Ref) -> int:
        """Length of the axis."""
        return self._size[ref >> 1]

    def children(self, ref: Ref) -> tuple[Shape, tuple[Ref, ...]] | None:
        """How the node is defined, None for a free one."""
        ref = self.find(ref)
        shape = self._shape[ref >> 1]
        if shape is None or not ref & 1:
            return shape
        return shape[0], tuple(child ^ 1 for child in shape[1])

    def leaves(self, ref: Ref) -> Iterator[Ref]:
        """Free nodes below `ref`, from left to right."""
        ref = self.find(ref)
        shape = self._shape[ref >> 1]
        if shape is None:
            yield ref
            return
        for child in shape[1]:
            yield from self.leaves(child ^ (ref & 1))

    def nodes(self, ref: Ref) -> Iterator[int]:
        """The node of `ref` and all that it is put together of."""
        ref = self.find(ref)
        yield ref >> 1
        shape = self._shape[ref >> 1]
        for child in shape[1] if shape is not None else ():
            yield from self.nodes(child)

    @property
    def count(self) -> int:
        """How many nodes there are."""
        return len(self._size)

    def factors(self, ref: Ref) -> list[Ref]:
        """`ref` as a flat list of product factors without those of size one."""
        shape = self.children(ref)
        if shape is None or shape[0] is not Shape.PRODUCT:
            return [] if self.size(ref) == 1 else [self.find(ref)]
        return [factor for child in shape[1] for factor in self.factors(child)]

    def parts(self, ref: Ref) -> list[Ref]:
        """`ref` as a flat list of concatenated parts; a product over a concatenation is distributed."""
        shape = self.children(ref)
        if shape is None or shape[0] is Shape.MOVED:
            return [self.find(ref)]
        if shape[0] is Shape.CONCAT:
            return [part for child in shape[1] for part in self.parts(child)]
        first, *rest = self.factors(ref)
        inner = self.parts(first)
        if len(inner) == 1:
            return [self.find(ref)]
        return [cut for part in inner for cut in self.parts(self.product([part, *rest]))]

    def order(self, ref: Ref) -> tuple[int, ...]:
        """The order of a moved axis."""
        return self._orders[self.find(ref) >> 1]

    @property
    def moves(self) -> int:
        """How many axes are moved."""
        return len(self._orders)

    def text(self, ref: Ref) -> str:
        """An axis in words: `a3` for a free node, `a3'` for its dual, `(a3 x a4)` and `(a3 + a4)` for others."""
        shape = self.children(ref)
        if shape is None:
            free = self.find(ref)
            return f"a{free >> 1}{prime(free & 1)}"
        if shape[0] is Shape.MOVED:
            return f"moved {self.text(shape[1][0])}"
        joint = " x " if shape[0] is Shape.PRODUCT else " + "
        return f"({joint.join(map(self.text, shape[1]))})"
