"""Unification of axis terms (design section 4).

A `Store` holds one node per axis ever seen, in a union-find that carries the variance as a parity. A node is free, or
it is *defined* as a Product (row-major flattening) or a Concat (concatenation) of other nodes. Equations between axes
are solved by common refinement: two products are cut at the same places, two concatenations at the same offsets; free
nodes take whatever structure the other side has. Where no common refinement exists, everything involved is bounded by
`identity` and the reason is kept. Such an equation waits until all others are in, since they may cut it into parts that
have one: so it does not matter when it comes.

    [6 x 4] = [2 x 12]   is cut into   [2 x 3 x 4]: the first factor of six is (2 x 3), that of twelve (3 x 4)
    [6 + 4] = [10]       makes the free axis of ten (6 + 4)

A node may also be *moved*: another axis in another order, so that a part may stand on both sides of another, or parts
take turns. Two in one order are the same axis if what they move is. The last factor of a product says whose turn it is
as well; where anything else meets a moved axis, that becomes the concatenation of its runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from math import gcd, lcm, prod

from symgraph.groups.lattice import RIGID, Bound, SymmetryClass, down
from symgraph.inference.axis_nodes import AxisNodes, Shape
from symgraph.inference.claims import Claim, Evidence, Ref
from symgraph.symmetry.terms import runs, turn_ends, turn_order, turns_in

SELF_DUAL = down(SymmetryClass.ORTHOGONAL)


class Store(AxisNodes):
    """The axes of one inference run; a stage that solves further equations does so in a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: list[Claim] = []
        self._turned: list[Ref] = []
        self._open: list[tuple[Ref, Ref, Evidence]] = []
        self._why = Evidence("", "", "")

    def copy(self) -> Store:
        """A store in which equations can be solved that this one does not know."""
        other = Store()
        other._parent, other._size, other._shape = self._parent.copy(), self._size.copy(), self._shape.copy()
        other.claims, other._turned = self.claims.copy(), self._turned.copy()
        other._orders, other._open, other._why = self._orders.copy(), self._open.copy(), self._why
        return other

    # -- parts that take turns -----------------------------------------------------------------------------------

    def by_turns(self, ref: Ref, count: int) -> Ref:
        """The axis with every `count`-th position of `ref`: those from the first one on, from the second on, ..."""
        if self.size(ref) <= count:
            return ref
        order = turn_order(self.size(ref), count)
        if self.children(ref) is None:
            self._move(self.find(ref), self.new(self.size(ref)), order)
        found = self._in_turns(ref, count)
        return self.moved(ref, sorted(range(len(order)), key=order.__getitem__)) if found is None else found

    def _in_turns(self, ref: Ref, count: int) -> Ref | None:
        """The same where it is known what takes turns along the axis; None where its factors do not say so."""
        if self._is_moved(ref):
            if turns_in(self.order(ref)):
                return self._in_more_turns(ref, count)
            self._spread(ref)
        if len(self.parts(ref)) > 1:
            return self._turn_by_turn([self.by_turns(piece, count) for piece in self._in_rounds(ref, count)], count)
        *others, last = self.factors(ref)
        if self.size(last) % count == 0 and self.size(last) > count:
            return self._turns_of_product(self.by_turns(last, count), count, lambda turn: [*others, turn])
        several, rest = divmod(count, self.size(last))
        if rest or self.size(ref) % count:
            return None
        if several == 1:
            return self.product([last, *others])
        return self._turns_of_product(self.by_turns(self.product(others), several), several, lambda turn: [last, turn])

    def _turns_of_product(self, turns: Ref, count: int, factors: Callable[[Ref], list[Ref]]) -> Ref:
        """Products with one of equally long turns in each, one after the other."""
        ends = turn_ends(self.size(turns), count)
        return self.concat([self.product(factors(self.narrow(turns, *end))) for end in ends])

    def _in_rounds(self, ref: Ref, count: int) -> list[Ref]:
        """Whole rounds of turns that lie in one part each, and between these the one round that several parts share."""
        size = self.size(ref)
        ends = {0, size}
        for end in accumulate(map(self.size, self.parts(ref)[:-1])):
            ends |= {end - end % count, min(end + -end % count, size)}
        return [self.narrow(ref, start, stop) for start, stop in pairwise(sorted(ends))]

    def _in_more_turns(self, ref: Ref, count: int) -> Ref | None:
        """The parts that take turns along an axis, or parts of these."""
        (inner,), fewer = self.children(ref)[1], turns_in(self.order(ref))  # type: ignore[index]
        if fewer == count:
            return inner
        if count % fewer or self.size(ref) % count:
            return None
        length = self.size(ref) // fewer
        parts = [self.narrow(inner, i * length, (i + 1) * length) for i in range(fewer)]
        apart = [self.by_turns(part, count // fewer) for part in parts]
        return self._turn_by_turn(apart, count // fewer)

    def _turn_by_turn(self, axes: list[Ref], count: int) -> Ref:
        """Axes with their parts one after the other: the first part of each, the second of each, and so on."""
        ends = [(axis, *turn_ends(self.size(axis), count)[i]) for i in range(count) for axis in axes]
        return self.concat([self.narrow(axis, start, stop) for axis, start, stop in ends if start < stop])

    def _cut_turns(self, ref: Ref, size: int) -> None:
        """Makes an axis of parts that take turns three such axes: before a cut, in the round of it, and behind."""
        whole = self.find(ref)
        (inner,), order = self.children(whole)[1], self._orders.pop(whole >> 1)  # type: ignore[index]
        total, count = self.size(whole), turns_in(order)
        places = sorted({0, size - size % count, min(size + -size % count, total), total})
        pieces = []
        for start, stop in pairwise(places):
            turns = zip(turn_ends(total, count), turn_ends(start, count), turn_ends(stop, count), strict=True)
            ends = [(first + a[1] - a[0], first + b[1] - b[0]) for (first, _), a, b in turns]
            parts = self.concat([self.narrow(inner, *end) for end in ends if end[0] < end[1]])
            pieces.append(self.moved(parts, turn_order(stop - start, count)) if stop - start > count else parts)
        self._define(whole, Shape.CONCAT, pieces)

    # -- claims ------------------------------------------------------------------------------------------------

    def because(self, node: str, rule: str, reason: str = "") -> None:
        """Evidence for everything that follows until the next call."""
        self._why = Evidence(node, rule, reason)

    def bound(self, ref: Ref, bound: Bound, reason: str = "") -> None:
        """Meets the class of every space below `ref` with `bound`."""
        why = self._why
        self.claims.append(Claim(ref, bound, Evidence(why.node, why.rule, reason or why.reason)))

    def rigid(self, ref: Ref, reason: str = "") -> None:
        """Bounds everything below `ref` by the identity."""
        self.bound(ref, RIGID, reason)

    def fresh_rigid(self, size: int, reason: str = "") -> Ref:
        """A new node bounded by the identity."""
        ref = self.new(size)
        self.rigid(ref, reason)
        return ref

    # -- solving -----------------------------------------------------------------------------------------------

    def unify(self, axis: Ref, other: Ref) -> None:
        """Makes two axes the same axis."""
        self._walk(axis, other, self._merge)

    def settle(self) -> None:
        """Solves what had no common refinement with the cuts that other equations have made since.

        What has none now either is bounded by the identity.
        """
        before, after = None, self._waiting()
        while before != after:
            waiting, self._open = self._open, []
            for axis, other, why in waiting:
                self._why = why
                self.unify(axis, other)
            before, after = after, self._waiting()
        for axis, other, why in self._open:
            self._why = why
            self._clash([axis, other], "the products have no common refinement")

    def _waiting(self) -> list[tuple[tuple[Ref, ...], ...]]:
        return [tuple(tuple(self.leaves(ref)) for ref in (axis, other)) for axis, other, _ in self._open]

    def align(self, axis: Ref, other: Ref) -> list[tuple[Ref, Ref]]:
        """Gives two axes the same structure without identifying their leaves; returns the pairs of leaves."""
        pairs: list[tuple[Ref, Ref]] = []
        self._walk(axis, other, lambda mine, theirs: pairs.append((mine, theirs)))
        return pairs

    def _merge(self, axis: Ref, other: Ref) -> None:
        if axis == other:
            return
        if axis == other ^ 1:
            self._turned.append(axis)
            self.bound(axis, SELF_DUAL, "the axis meets its own dual: one tensor reads and writes it")
            return
        self._parent[other >> 1] = axis ^ (other & 1)

    def self_dual(self) -> set[int]:
        """Free nodes that have met their own dual, so that which of the two a reference names says nothing."""
        return {leaf >> 1 for ref in self._turned for leaf in self.leaves(ref)}

    def _walk(self, axis: Ref, other: Ref, pair: Callable[[Ref, Ref], None]) -> None:
        axis, other = self.find(axis), self.find(other)
        if self.size(axis) != self.size(other):
            self._clash([axis, other], "the sizes differ")
            return
        if self.size(axis) == 1 or (axis == other and pair == self._merge):
            return
        shape, other_shape = self.children(axis), self.children(other)
        if shape is None and other_shape is None:
            pair(axis, other)
        elif shape is None:
            self._walk_free(axis, other, pair)
        elif other_shape is None:
            self._walk_free(other, axis, lambda mine, theirs: pair(theirs, mine))
        else:
            self._walk_defined(axis, other, pair)

    def _walk_free(self, free: Ref, other: Ref, pair: Callable[[Ref, Ref], None]) -> None:
        if free >> 1 in self._ordered(other):
            self._clash([free], "the axis meets itself in another order")
            return
        if pair == self._merge:
            self._parent[free >> 1] = other ^ (free & 1)
            return
        shape = self.children(other)
        if shape is None:
            pair(free, other)
            return
        if shape[0] is Shape.MOVED:
            self._move(free, self.new(self.size(free)), self.order(other))
            self._walk(self.children(free)[1][0], shape[1][0], pair)  # type: ignore[index]
            return
        # Parts of its own for each part of the other side, also where those repeat one frame beside single positions.
        parts = self.parts(other)
        kind, rest = (Shape.CONCAT, parts) if len(parts) > 1 else (shape[0], list(shape[1]))
        self._define(free, kind, [self.new(self.size(part)) for part in rest])
        for mine, theirs in zip(self.children(free)[1], rest, strict=True):  # type: ignore[index]
            self._walk(mine, theirs, pair)

    def _walk_defined(self, axis: Ref, other: Ref, pair: Callable[[Ref, Ref], None]) -> None:
        moved = [ref for ref in (axis, other) if self._is_moved(ref)]
        if len(moved) == 2 and self.order(axis) == self.order(other):
            self._walk(self.children(axis)[1][0], self.children(other)[1][0], pair)  # type: ignore[index]
            return
        count = max((turns_in(self.order(ref)) for ref in moved), default=0)
        mine, theirs = (self._in_turns(ref, count) if count else None for ref in (axis, other))
        if mine is not None and theirs is not None:
            self._walk(mine, theirs, pair)
            return
        if len(moved) == 1 and count and len(self.parts(other if moved[0] == axis else axis)) == 1:
            # Single positions would cut a product into nothing but these.
            self._wait_or_clash([axis], [other], pair)
            return
        for ref in moved:
            self._spread(ref)
        parts, other_parts = self.parts(axis), self.parts(other)
        if len(parts) > 1 or len(other_parts) > 1:
            self._walk_parts(parts, other_parts, pair)
        else:
            self._walk_factors(self.factors(axis), self.factors(other), pair)

    def _ordered(self, ref: Ref) -> Iterator[int]:
        """The nodes that a moved axis, or one of moved axes, puts into another order."""
        while self._is_moved(ref):
            ref = self.find(self.children(ref)[1][0])  # type: ignore[index]
            yield ref >> 1

    def _is_moved(self, ref: Ref) -> bool:
        return self.find(ref) >> 1 in self._orders

    def _spread(self, ref: Ref) -> None:
        """Makes a moved axis the concatenation of its runs."""
        whole = self.find(ref)
        (inner,), order = self.children(whole)[1], self._orders.pop(whole >> 1)  # type: ignore[index]
        self._define(whole, Shape.CONCAT, [self.narrow(inner, start, stop) for start, stop in runs(order)])

    def _walk_parts(self, left: list[Ref], right: list[Ref], pair: Callable[[Ref, Ref], None]) -> None:
        left, right = left[::-1], right[::-1]
        while left and right:
            mine, theirs = left.pop(), right.pop()
            if self.size(mine) > self.size(theirs):
                mine, rest = self._cut(mine, self.size(theirs))
                left.append(rest)
            elif self.size(mine) < self.size(theirs):
                theirs, rest = self._cut(theirs, self.size(mine))
                right.append(rest)
            self._walk(mine, theirs, pair)

    def _walk_factors(self, left: list[Ref], right: list[Ref], pair: Callable[[Ref, Ref], None]) -> None:
        left, right = left[::-1], right[::-1]
        while left and right:
            mine, theirs = self.size(self._top(left)), self.size(self._top(right))
            # A factor that cannot be divided (a concatenation) may still equal several factors of the other side.
            for size in dict.fromkeys((gcd(mine, theirs), max(mine, theirs))):
                if size > 1 and self._fits(left, size) and self._fits(right, size):
                    self._walk(self._take(left, size), self._take(right, size), pair)
                    break
            else:
                self._wait_or_clash(*self._incomparable(left, right), pair)

    def _wait_or_clash(self, left: list[Ref], right: list[Ref], pair: Callable[[Ref, Ref], None]) -> None:
        """Keeps an equation that has no common refinement until all others are in; where none is solved it is one."""
        if pair == self._merge:
            self._open.append((self.product(left), self.product(right), self._why))
        else:
            self._clash([*left, *right], "the products have no common refinement")

    def _top(self, stack: list[Ref]) -> Ref:
        """The next factor; what has become a product since it was stacked is spread out first."""
        stack.extend(self.factors(stack.pop())[::-1])
        return stack[-1]

    def _fits(self, stack: list[Ref], size: int) -> bool:
        """Whether the leading factors, the last of them divided if it is free, have the given size."""
        for factor in (inner for ref in reversed(stack) for inner in self.factors(ref)):
            length = self.size(factor)
            if size % length:
                return length % size == 0 and self.children(factor) is None
            size //= length
            if size == 1:
                return True
        return False

    def _take(self, stack: list[Ref], size: int) -> Ref:
        """Removes leading factors of the given size in total, where they fit."""
        taken = []
        while size > 1:
            taken.append(self._divide(stack, size))
            size //= self.size(taken[-1])
        return self.product(taken)

    def _divide(self, stack: list[Ref], size: int) -> Ref:
        """Removes the next factor; from a free one, only as much of it as divides `size`."""
        self._top(stack)
        ref = stack.pop()
        length, outer = self.size(ref), gcd(self.size(ref), size)
        if self.children(ref) is not None or outer in (1, length):
            return ref
        self._define(ref, Shape.PRODUCT, [self.new(outer), self.new(length // outer)])
        left, right = self.children(ref)[1]  # type: ignore[index]
        stack.append(right)
        return left

    def _incomparable(self, left: list[Ref], right: list[Ref]) -> tuple[list[Ref], list[Ref]]:
        """Removes factors from both sides up to the first place where both can be cut again."""
        mine, theirs = [left.pop()], [right.pop()]
        while (size := self._length(mine)) != (other := self._length(theirs)):
            end = lcm(size, other)
            if size != end:
                mine.append(self._divide(left, end // size))
            else:
                theirs.append(self._divide(right, end // other))
        return mine, theirs

    def _length(self, factors: list[Ref]) -> int:
        return prod(map(self.size, factors))

    def _cut(self, ref: Ref, size: int) -> tuple[Ref, Ref]:
        """`ref` as two parts, the first of the given size; inside a product, the position that is cut stands alone."""
        parts = self.parts(ref)
        if len(parts) > 1:
            return self._cut_parts(parts, size)
        if self._is_moved(ref):
            if turns_in(self.order(ref)):
                self._cut_turns(ref, size)
            else:
                self._spread(ref)
            return self._cut(ref, size)
        if self.children(ref) is None:
            ref = self.find(ref)
            self._define(ref, Shape.CONCAT, [self.new(size), self.new(self.size(ref) - size)])
            return self.children(ref)[1]  # type: ignore[index, return-value]
        first, *rest = self.factors(ref)
        inner = self.size(ref) // self.size(first)
        if size < inner:
            unit, after = self._cut(ref, inner)
            left, right = self._cut(unit, size)
            return left, self.concat([right, after])
        cut = self._cut(first, size // inner)
        before, after = (self.product([piece, *rest]) for piece in cut)
        if size % inner == 0:
            return before, after
        left, right = self._cut(after, size % inner)
        return self.concat([before, left]), right

    def _cut_parts(self, parts: list[Ref], size: int) -> tuple[Ref, Ref]:
        before: list[Ref] = []
        after = parts[::-1]
        while size:
            part = after.pop()
            if self.size(part) > size:
                part, rest = self._cut(part, size)
                after.append(rest)
            before.append(part)
            size -= self.size(part)
        return self.concat(before), self.concat(after[::-1])

    def narrow(self, ref: Ref, start: int, stop: int) -> Ref:
        """The part of an axis from `start` to `stop`."""
        if start:
            ref = self._cut(ref, start)[1]
        return ref if stop - start == self.size(ref) else self._cut(ref, stop - start)[0]

    def _clash(self, refs: list[Ref], reason: str) -> None:
        for ref in refs:
            self.rigid(ref, reason)
