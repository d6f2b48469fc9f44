"""Following a constant, or a plane of values, from where it is made to whatever reads it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.applied import Applied
from symgraph.inference.draft import Draft
from symgraph.inference.store import Ref
from symgraph.inference.structural import KEEPING
from symgraph.ir import Kind, Node
from symgraph.symmetry.families import Piece, is_one_block, leaf_keys, pieces
from symgraph.symmetry.terms import leaves

Key = tuple[int, bool]
Axis = tuple[int, ...]
_NARROWING = frozenset({"stack", "rigid", "pad", "windows"})
# They look at the shape of their operand alone.
BLANK = frozenset({"constant", "zero"})


@dataclass(frozen=True, slots=True)
class Reader:
    """A linear reader of a value: the part of its weight that contracts with it, and its own bias or ''.

    `alone` says that nothing else uses the weight; `value` is the result.
    """

    piece: Piece
    bias: str
    alone: bool
    value: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A use that cannot be undone; `other` is what is added there, where it is a sum."""

    other: str = ""


@dataclass(frozen=True, slots=True)
class Pass:
    """A use that passes the value on, as `value`, `at` an offset in a concatenation; `other` is a second summand."""

    value: str
    at: int | None
    other: str = ""


Use = Reader | Seen
T = TypeVar("T", bound=Hashable)


def holds(start: T, nexts: Callable[[T], Iterator[T | None]], memo: dict[T, bool]) -> bool:
    """Whether no violation (None) can be reached; every place is visited once, however deep the graph.

    Args:
        nexts: the places after one, or None for a violation there.
        memo: what is known already; grows.
    """
    path = [] if start in memo else [(start, nexts(start))]
    while path:
        at, more = path[-1]
        for place in more:
            if place is None or memo.get(place) is False:
                memo.update((known, False) for known, _ in path)
                return False
            if place not in memo:
                path.append((place, nexts(place)))
                break
        else:
            memo[at] = True
            path.pop()
    return memo[start]


class Flow:
    """The graph of one draft, with the questions that the families ask."""

    def __init__(self, d: Draft) -> None:
        self.d, self.graph = d, d.eq.graph
        self.applied: dict[str, Applied] = {a.node.name: a for a in d.eq.applied}
        self.keys = {name: {self.key(r) for b in blocks for r in b} for name, blocks in d.blocks.items()}
        self.clear: dict[tuple[Key, frozenset[Key]], dict[tuple[str, int | None], bool]] = {}
        self.turns = {d.root(2 * d.nodes[f]) for f in d.self_dual}
        self.by_frame: dict[int, list[Piece]] = {}
        for name, axes in d.terms.items():
            for i, term in enumerate(axes):
                for piece in pieces(name, i, term):
                    for frame in {x.frame for x in leaves(piece.term)}:
                        self.by_frame.setdefault(frame, []).append(piece)

    def key(self, ref: Ref) -> Key:
        """Frame and orientation of a leaf; a frame that is its own dual has one alone."""
        frame = self.d.frames[ref >> 1]
        return frame, bool(ref & 1) and frame not in self.d.self_dual

    def axes(self, value: str) -> tuple[Axis, ...]:
        """Axes of a value, equal where unification made them one: composed axes by their leaves."""
        store = self.d.eq.store

        def leaf(ref: Ref) -> Ref:
            # Axes of size one are never unified: there is nothing to agree on.
            return -1 if store.size(ref) == 1 else ref & ~1 if ref >> 1 in self.turns else ref

        return tuple((store.size(r), *map(leaf, store.leaves(r))) for r in self.d.found[value])

    def own(self, value: str) -> Node | None:
        """The parameter behind a value, if this call is its only use."""
        node = self.graph.by_name[value]
        return node if node.kind is Kind.PARAMETER and len(self.graph.users[value]) == 1 else None

    def bias(self, a: Applied) -> Node | None:
        """The one-axis parameter that the node adds, if nothing else uses it."""
        if a.rule is None or a.binding is None or a.rule.adds not in a.binding.operands:
            return None
        node = self.own(a.binding.operands[a.rule.adds][0].name)
        floating = node is not None and "float" in getattr(node.result, "dtype", "")
        return node if node is not None and floating and len(node.shape) == 1 else None

    def added(self, value: str) -> Node | None:
        """The bias that made a value, through operators that keep constants, if nothing else uses the value."""
        while len(self.graph.users[value]) == 1 and value not in self.graph.outputs:
            a = self.applied.get(value)
            if a is None or a.rule is None or a.binding is None:
                return None
            bias = self.bias(a)
            if bias is not None:
                return bias
            refs = list(a.node.refs())
            unary = len(refs) == 1 and (a.rule.structure in KEEPING or "output" in a.rule.shift.values())
            if not unary:
                return None
            value = refs[0]
        return None

    def operand(self, a: Applied, value: str) -> str | None:
        """The operand that a value is, if it is one alone."""
        if a.binding is None or list(a.node.refs()).count(value) != 1:
            return None
        return next((k for k, (r, _) in a.binding.operands.items() if r.name == value), None)

    def twice(self, value: str, key: Key) -> bool:
        """Whether two axes of a value carry the key, so that it does not say along which of them something varies."""
        return any(sum(self.key(r) == key for r in block) > 1 for block in self.d.blocks[value])

    # -- uses of a value -----------------------------------------------------------------------------------------

    def uses(self, value: str, key: Key, *, sums: bool, beside: frozenset[Key] = frozenset()) -> Iterator[Use]:
        """Every reader of `value` along `key`; what passes it on is followed, what never sees it is left out.

        A sum beyond which something sees it is such a use itself where a bias in its other summand could take it back,
        and names that summand.

        Args:
            sums: whether a sum passes it on (a constant) or not (a plane of values).
            beside: further keys that it varies along; what lacks one of them sees a mean of it.
        """
        stack = [(self._outcomes(value, key, sums, None, beside), False)]
        while stack:
            outcomes, clear = stack[-1]
            outcome = next(outcomes, None)
            if outcome is None:
                stack.pop()
                continue
            if not isinstance(outcome, Pass):
                yield outcome
                continue
            beyond = clear or (bool(outcome.other) and self._clear(outcome, key, beside))
            if outcome.other and not beyond and self.added(outcome.other) is not None:
                yield Seen(outcome.other)
            else:
                stack.append((self._outcomes(outcome.value, key, sums, outcome.at, beside), beyond))

    def _clear(self, start: Pass, key: Key, beside: frozenset[Key]) -> bool:
        """Whether nothing beyond this point sees a constant."""

        def nexts(place: tuple[str, int | None]) -> Iterator[tuple[str, int | None] | None]:
            for outcome in self._outcomes(place[0], key, True, place[1], beside):
                if isinstance(outcome, Seen):
                    yield None
                elif isinstance(outcome, Pass):
                    yield outcome.value, outcome.at

        return holds((start.value, start.at), nexts, self.clear.setdefault((key, beside), {}))

    def _outcomes(
        self, value: str, key: Key, sums: bool, at: int | None, beside: frozenset[Key]
    ) -> Iterator[Use | Pass]:
        if value in self.graph.outputs or self.twice(value, key) or not beside <= self.keys[value]:
            yield Seen()
        for user in self.graph.users[value]:
            outcome = self._use(value, user, key, sums, at)
            if isinstance(outcome, Reader) and not self._meets(outcome, beside):
                outcome = Seen()
            if outcome is not None:
                yield outcome

    def _use(self, value: str, user: Node, key: Key, sums: bool, at: int | None) -> Use | Pass | None:
        a = self.applied.get(user.name)
        if a is None or a.rule is None or a.binding is None or user.name in self.d.eq.slots:
            return Seen()
        if a.rule.structure in BLANK:
            return None
        if a.rule.structure:
            return self._moved(value, a, key, at)
        operand = self.operand(a, value)
        law = a.rule.shift.get(operand or "")
        if operand is None or law is None:
            return Seen()
        if law == "output":
            return self._passed(a, value, key, sums, at)
        return None if law == "none" else self._reader(a, operand, law, key, at)

    def _passed(self, a: Applied, value: str, key: Key, sums: bool, at: int | None) -> Use | Pass:
        others = [r.name for r, _ in a.binding.operands.values() if r.name != value]  # type: ignore[union-attr]
        if (others and not sums) or key not in self.keys[a.node.name]:
            return Seen()
        return Pass(a.node.name, at, others[0] if len(others) == 1 else "")

    def _moved(self, value: str, a: Applied, key: Key, at: int | None) -> Use | Pass | None:
        structure, name = a.rule.structure, a.node.name  # type: ignore[union-attr]
        if structure == "cat":
            at = self._offset(value, a, key) if at is None else None
            passes = at is not None
        else:
            kept = at is None or structure == "identity" or self._keeps(value, name, key)
            passes = structure not in _NARROWING and kept
        if not passes or list(a.node.refs()).count(value) != 1:
            return Seen()
        if key in self.keys[name]:
            return Pass(name, at)
        return None if self._cut_away(a) else Seen()

    def _keeps(self, value: str, name: str, key: Key) -> bool:
        """Whether the axis that holds the key stands in a result as it is, so that offsets along it are the same."""
        axes = zip(self.d.found[value], self.d.inside[value], strict=True)
        held = [axis for axis, inside in axes if key in {self.key(x) for x in inside if x >> 1 in self.d.frames}]
        return len(held) == 1 and self.d.found[name].count(held[0]) == 1

    def _cut_away(self, a: Applied) -> bool:
        """Whether a result without the key lacks these entries; a step would hide their name alone."""
        structure = a.rule.structure if a.rule is not None else None
        steps = a.binding.arguments.get("step", 1) if a.binding is not None else None
        return structure in ("split", "getitem") or (structure == "slice" and steps in (None, 1))

    def _offset(self, value: str, a: Applied, key: Key) -> int | None:
        """Where `value` begins in a concatenation along its axis `key`; None along any other axis."""
        axes = self.d.found[value]
        dim = a.binding.arguments.get("dim", 0) if a.binding is not None else 0
        if not isinstance(dim, int) or not self.on(axes[dim], key[0]):
            return None
        offset = 0
        for ref in a.node.refs():
            if ref == value:
                return offset
            offset += self.graph.by_name[ref].shape[dim]
        return None

    def _reader(self, a: Applied, given: str, operand: str, key: Key, at: int | None) -> Use:
        if a.binding is None or operand not in a.binding.operands:
            return Seen()
        ref, tokens = a.binding.operands[operand]
        weight, met = self.graph.by_name[ref.name], self._tokens(a, given, key)
        held = self.by_frame.get(key[0], []) if weight.kind is Kind.PARAMETER else []
        found = [p for p in held if p.parameter == weight.target]
        found = [p for p in found if tokens[p.axis].name in met and is_one_block(p)]
        found = [p for p in found if self.turned(key) in leaf_keys(p.term)]
        found = [p for p in found if at is None or p.start == at]
        bias = self.bias(a)
        if len(found) != 1 or (bias is None and a.rule is not None and a.rule.adds in a.binding.operands):
            return Seen()
        name = bias.target if bias is not None else ""
        return Reader(found[0], name, self.own(weight.name) is not None, a.node.name)

    def _tokens(self, a: Applied, operand: str, key: Key) -> set[str]:
        """Names of the operand's axes that carry the key."""
        ref, tokens = a.binding.operands[operand]  # type: ignore[union-attr]
        axes = zip(tokens, self.d.inside[ref.name], strict=True)
        return {t.name for t, inside in axes if key in {self.key(x) for x in inside if x >> 1 in self.d.frames}}

    def _meets(self, reader: Reader, keys: frozenset[Key]) -> bool:
        """Whether a reader contracts with all of these."""
        return {self.turned(k) for k in keys} <= set(leaf_keys(reader.piece.term))

    def turned(self, key: Key) -> Key:
        """The key of an axis that contracts with one of this key."""
        return key[0], not key[1] and key[0] not in self.d.self_dual

    # -- centred values ------------------------------------------------------------------------------------------

    def on(self, axis: Ref, frame: int) -> bool:
        """Whether an axis is one leaf, of this frame."""
        return self.d.eq.store.children(axis) is None and self.d.frames.get(axis >> 1) == frame

    def centred_axis(self, a: Applied) -> int | None:
        """Position of the axis that a node centres, if that axis of its first operand is a single leaf."""
        if a.binding is None or a.rule is None or not a.rule.centred:
            return None
        ref, tokens = next(iter(a.binding.operands.values()))
        i = next(i for i, t in enumerate(tokens) if t.name == a.rule.centred)
        return i if self.d.eq.store.children(self.d.found[ref.name][i]) is None else None

    def centred_key(self, a: Applied) -> Key | None:
        """Frame of the centred axis of the node's first operand."""
        i = self.centred_axis(a)
        if i is None or a.binding is None:
            return None
        return self.key(self.d.found[next(iter(a.binding.operands.values()))[0].name][i])

    def free(self, a: Applied, operand: str, frame: int) -> str | None:
        """Name of the operand's axis on `frame` if it is one of the result that admits every invertible map."""
        if a.rule is None or a.binding is None:
            return None
        ref, tokens = a.binding.operands[operand]
        on = [t for t, axis in zip(tokens, self.d.found[ref.name], strict=True) if self.on(axis, frame)]
        if len(on) != 1 or on[0].mark or not on[0].claimed:
            return None
        if SymmetryClass.INVERTIBLE not in a.rule.admits.get(on[0].axis, ()):
            return None
        return on[0].name if all(on[0] in r for r in a.binding.results) else None
