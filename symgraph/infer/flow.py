"""Following a constant, or a plane of values, from where it is made to whatever reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from symgraph.axes.store import Ref
from symgraph.axes.terms import leaves
from symgraph.groups.classes import SymmetryClass
from symgraph.infer.applied import Applied
from symgraph.infer.families import Piece, is_one_block, leaf_keys, pieces
from symgraph.infer.resolve import Draft
from symgraph.ir import Kind, Node

Key = tuple[int, bool]
# Structural operators that keep every entry, so that a constant added before is the same constant after.
PASSING = frozenset(
    {"reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "movedim", "expand", "identity"}
)
_NARROWING = frozenset({"stack", "rigid", "constant", "zero", "pad", "windows"})


@dataclass(frozen=True, slots=True)
class Reader:
    """A linear reader of a value: the part of its weight that contracts with it, and its own bias or ''.

    `alone` says that nothing else uses the weight.
    """

    piece: Piece
    bias: str
    alone: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """A use that cannot be undone; `other` is what is added there, where it is a sum."""

    other: str = ""


Use = Reader | Seen


class Flow:
    """The graph of one draft, with the questions that the families ask."""

    def __init__(self, d: Draft) -> None:
        self.d, self.graph = d, d.eq.graph
        self.applied: dict[str, Applied] = {a.node.name: a for a in d.eq.applied}
        self.keys = {name: {self.key(r) for b in blocks for r in b} for name, blocks in d.blocks.items()}
        self.by_frame: dict[int, list[Piece]] = {}
        for name, axes in d.terms.items():
            for i, term in enumerate(axes):
                for piece in pieces(name, i, term):
                    for frame in {x.frame for x in leaves(piece.term)}:
                        self.by_frame.setdefault(frame, []).append(piece)

    def key(self, ref: Ref) -> Key:
        """Frame and orientation of a leaf."""
        return self.d.frames[ref >> 1], bool(ref & 1)

    def axes(self, value: str) -> tuple[Ref, ...]:
        """Axes of a value, equal where unification made them one."""
        return tuple(map(self.d.eq.store.find, self.d.found[value]))

    def own(self, value: str) -> Node | None:
        """The parameter behind a value, if this call is its only use."""
        node = self.graph.by_name[value]
        return node if node.kind is Kind.PARAMETER and len(self.graph.users[value]) == 1 else None

    def bias(self, a: Applied) -> Node | None:
        """The one-axis parameter that the node adds, if nothing else uses it."""
        if a.rule is None or a.binding is None or a.rule.adds not in a.binding.operands:
            return None
        node = self.own(a.binding.operands[a.rule.adds][0].name)
        return node if node is not None and len(node.shape) == 1 else None

    def operand(self, a: Applied, value: str) -> str | None:
        """The operand that a value is, if it is one alone."""
        if a.binding is None or list(a.node.refs()).count(value) != 1:
            return None
        return next((k for k, (r, _) in a.binding.operands.items() if r.name == value), None)

    # -- uses of a value -----------------------------------------------------------------------------------------

    def uses(self, value: str, key: Key, *, sums: bool, at: int | None = None) -> Iterator[Use]:
        """Every reader of `value` along `key`; what passes it on is followed, what never sees it is left out.

        Args:
            sums: whether a sum passes it on (a constant) or not (a plane of values).
            at: where the value begins in a concatenation that it has become a part of.
        """
        if value in self.graph.outputs:
            yield Seen()
        for user in self.graph.users[value]:
            yield from self._use(value, user, key, sums, at)

    def _use(self, value: str, user: Node, key: Key, sums: bool, at: int | None) -> Iterator[Use]:
        a = self.applied.get(user.name)
        if a is None or a.rule is None or a.binding is None:
            yield Seen()
            return
        if a.rule.structure:
            yield from self._moved(value, a, key, sums, at)
            return
        operand = self.operand(a, value)
        law = a.rule.shift.get(operand or "")
        if operand is None or law is None:
            yield Seen()
        elif law == "output":
            yield from self._passed(a, value, key, sums, at)
        elif law != "none":
            yield self._reader(a, law, key, at)

    def _passed(self, a: Applied, value: str, key: Key, sums: bool, at: int | None) -> Iterator[Use]:
        others = [r.name for r, _ in a.binding.operands.values() if r.name != value]  # type: ignore[union-attr]
        if (others and not sums) or key not in self.keys[a.node.name]:
            yield Seen()
            return
        found = list(self.uses(a.node.name, key, sums=sums, at=at))
        if len(others) == 1 and any(isinstance(u, Seen) for u in found):
            yield Seen(others[0])
            return
        yield from found

    def _moved(self, value: str, a: Applied, key: Key, sums: bool, at: int | None) -> Iterator[Use]:
        structure, name = a.rule.structure, a.node.name  # type: ignore[union-attr]
        if structure == "cat":
            at = self._offset(value, a, key) if at is None else None
            passes = at is not None
        else:
            passes = structure not in _NARROWING and (at is None or structure == "identity")
        if not passes or list(a.node.refs()).count(value) != 1:
            yield Seen()
        elif key in self.keys[name]:
            yield from self.uses(name, key, sums=sums, at=at)
        elif not self._cut_away(a):
            yield Seen()

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

    def _reader(self, a: Applied, operand: str, key: Key, at: int | None) -> Use:
        if a.binding is None or operand not in a.binding.operands:
            return Seen()
        weight = self.graph.by_name[a.binding.operands[operand][0].name]
        held = self.by_frame.get(key[0], []) if weight.kind is Kind.PARAMETER else []
        found = [p for p in held if p.parameter == weight.target]
        found = [p for p in found if is_one_block(p) and (key[0], not key[1]) in leaf_keys(p.term)]
        found = [p for p in found if at is None or p.start == at]
        bias = self.bias(a)
        if len(found) != 1 or (bias is None and a.rule is not None and a.rule.adds in a.binding.operands):
            return Seen()
        return Reader(found[0], bias.target if bias is not None else "", self.own(weight.name) is not None)

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
        if len(on) != 1 or on[0].batch or on[0].mark or not on[0].claimed:
            return None
        if SymmetryClass.INVERTIBLE not in a.rule.admits[on[0].name]:
            return None
        return on[0].name if all(on[0] in r for r in a.binding.results) else None
