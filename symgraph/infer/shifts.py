"""Symmetries that act on parameters without a space of their own (design section 5).

- a *move*: a bias whose constant reaches only linear readers can go into their biases (norm bias into the next bias,
  value bias into the output bias);
- a *null*: a bias that nothing sees (the key bias, since softmax ignores a constant);
- a *translation*: a constant that moves between summed terms (token and position embeddings);
- a *centred stream*: every reader subtracts the mean, so the mean of whatever is written is invisible, and so are the
  row means of whatever reads the centred values.

Everything is derived from what rules declare: `adds`, `shift`, `centred`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from symgraph.axes.store import Ref
from symgraph.axes.terms import Concat, Leaf, Product, Term, leaves
from symgraph.groups.classes import SymmetryClass
from symgraph.infer.equations import Applied
from symgraph.infer.resolve import Draft
from symgraph.ir import Kind, Node

Key = tuple[int, bool]
MAX_ALTERNATIVES = 8
# Structural operators that keep every entry, so that a constant added before is the same constant after.
PASSING = frozenset(
    {"reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "movedim", "expand", "identity"}
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A contiguous part of one axis of a parameter."""

    parameter: str
    axis: int
    start: int
    stop: int
    term: Term


@dataclass(frozen=True, slots=True)
class Sink:
    """Where a moved constant arrives: through `reader` into `bias` (each a piece, contracted resp. added)."""

    reader: Piece
    bias: str


@dataclass(frozen=True, slots=True)
class Move:
    """The constant in `source` may go to all `sinks` together; without sinks nothing sees it."""

    source: Piece
    sinks: tuple[Sink, ...]


@dataclass(frozen=True, slots=True)
class Translation:
    """Adding c to every parameter of one set and -c to every parameter of another changes nothing."""

    sets: tuple[tuple[tuple[str, int], ...], ...]


@dataclass(frozen=True, slots=True)
class Centred:
    """A frame along which a multiple of the ones vector in these pieces is invisible."""

    frame: int
    pieces: tuple[Piece, ...]
    written: bool


@dataclass(frozen=True, slots=True)
class Shifts:
    """All families found in one graph."""

    moves: tuple[Move, ...] = ()
    translations: tuple[Translation, ...] = ()
    centred: tuple[Centred, ...] = ()


def find_shifts(d: Draft) -> Shifts:
    """Every family, in program order."""
    finder = _Finder(d)
    moves = tuple(finder.moves())
    return Shifts(moves, tuple(finder.translations()), tuple(finder.centred(moves)))


def pieces(parameter: str, axis: int, term: Term, start: int = 0) -> list[Piece]:
    """The parts of an axis: one for each part of a concatenation."""
    if not isinstance(term, Concat):
        return [Piece(parameter, axis, start, start + term.size, term)]
    found = []
    for part in term.parts:
        found += pieces(parameter, axis, part, start)
        start += part.size
    return found


def _is_one_block(term: Term) -> bool:
    """Whether no concatenation is inside a product (heads over query, key and value): its parts are no intervals."""
    return isinstance(term, Leaf) or (isinstance(term, Product) and all(map(_is_one_block, term.factors)))


class _Finder:
    def __init__(self, d: Draft) -> None:
        self.d, self.graph = d, d.eq.graph
        self.applied: dict[str, Applied] = {a.node.name: a for a in d.eq.applied}
        self.unseen: dict[tuple[str, Key], bool] = {}
        self.keys = {name: {self._key(r) for b in blocks for r in b} for name, blocks in d.blocks.items()}
        self.by_frame: dict[int, list[Piece]] = {}
        for name, axes in d.terms.items():
            for i, term in enumerate(axes):
                for piece in pieces(name, i, term):
                    for leaf in {x.frame: x for x in leaves(piece.term)}.values():
                        self.by_frame.setdefault(leaf.frame, []).append(piece)

    def _key(self, ref: Ref) -> Key:
        return self.d.frames[ref >> 1], bool(ref & 1)

    def _own(self, value: str) -> Node | None:
        """The parameter behind a value, if this call is its only use."""
        node = self.graph.by_name[value]
        return node if node.kind is Kind.PARAMETER and len(self.graph.users[value]) == 1 else None

    # -- moves and nulls ---------------------------------------------------------------------------------------

    def moves(self) -> list[Move]:
        found = []
        for a in self.d.eq.applied:
            bias = self._bias(a)
            if bias is None:
                continue
            for piece in pieces(bias.target, 0, self.d.terms[bias.target][0]):
                sinks = self._follow_all(a.node, piece)
                if sinks is not None:
                    found.append(Move(piece, tuple(sinks)))
        return found

    def _bias(self, a: Applied) -> Node | None:
        """The one-axis parameter that the node adds, if nothing else uses it."""
        if a.rule is None or a.binding is None or a.rule.adds not in a.binding.operands:
            return None
        node = self._own(a.binding.operands[a.rule.adds][0].name)
        return node if node is not None and len(node.shape) == 1 else None

    def _follow_all(self, node: Node, piece: Piece) -> list[Sink] | None:
        keys = [(x.frame, x.dual) for x in leaves(piece.term) if x.frame >= 0 and _is_one_block(piece.term)]
        sinks: list[Sink] = []
        return sinks if keys and self._follow(node.name, keys[-1], sinks) else None

    def _follow(self, value: str, key: Key, sinks: list[Sink]) -> bool:
        """Collects the sinks of a constant along `key` in `value`; False where something else sees it."""
        if value in self.graph.outputs:
            return False
        for user in self.graph.users[value]:
            outcome = self._step(value, user, key)
            if outcome is None:
                return False
            if isinstance(outcome, Sink):
                sinks.append(outcome)
            elif outcome and not self._follow(user.name, key, sinks):
                return False
        return True

    def _step(self, value: str, user: Node, key: Key) -> bool | Sink | None:
        """True: the constant passes; False: it ends unseen; a sink; None: it is seen."""
        a = self.applied.get(user.name)
        if a is None or a.rule is None or a.binding is None or list(user.refs()).count(value) != 1:
            return None
        if a.rule.structure:
            return self._structural(user, a.rule.structure, key)
        operand = next(k for k, (r, _) in a.binding.operands.items() if r.name == value)
        law = a.rule.shift.get(operand)
        if law is None:
            return None
        if law in ("output", "none"):
            return law == "output"
        return self._sink(a, law, key)

    def _structural(self, user: Node, structure: str, key: Key) -> bool | None:
        if structure in ("cat", "stack", "rigid"):
            return None
        return key in self.keys[user.name]

    def _sink(self, a: Applied, operand: str, key: Key) -> Sink | None:
        bias = self._bias(a)
        if bias is None or a.binding is None or operand not in a.binding.operands:
            return None
        reader = self.graph.by_name[a.binding.operands[operand][0].name]
        for piece in self.by_frame.get(key[0], []) if reader.kind is Kind.PARAMETER else []:
            met = _is_one_block(piece.term) and any((x.frame, not x.dual) == key for x in leaves(piece.term))
            if piece.parameter == reader.target and met:
                return Sink(piece, bias.target)
        return None

    # -- translations ------------------------------------------------------------------------------------------

    def translations(self) -> list[Translation]:
        """Sets of parameters whose constants add up in one value before anything else sees them."""
        found: dict[str, list[frozenset[tuple[str, int]]]] = {}
        carried: set[str] = set()
        for a in self.d.eq.applied:
            sets = self._alternatives(a, found)
            if sets and a.node.name not in self.graph.outputs:
                found[a.node.name] = sets[:MAX_ALTERNATIVES]
                carried.update(r for r in a.node.refs() if self._flows(r, found, sets))
        return [
            Translation(tuple(tuple(sorted(s)) for s in sorted(sets, key=lambda s: (-len(s), sorted(s)))))
            for name, sets in found.items()
            if len(sets) > 1 and name not in carried and len({p for s in sets for p in s}) == sum(map(len, sets))
        ]

    def _flows(
        self, value: str, found: dict[str, list[frozenset[tuple[str, int]]]], sets: list[frozenset[tuple[str, int]]]
    ) -> bool:
        """Whether the constants in a value reach this one place alone, so that its sets say all about them."""
        return len(self.graph.users[value]) == 1 and any(s <= t for s in found.get(value, ()) for t in sets)

    def _alternatives(
        self, a: Applied, found: dict[str, list[frozenset[tuple[str, int]]]]
    ) -> list[frozenset[tuple[str, int]]]:
        if a.rule is None or a.binding is None:
            return []
        if a.rule.structure:
            return self._carried(a, found)
        sets: list[frozenset[tuple[str, int]]] = []
        for operand, (ref, _) in a.binding.operands.items():
            if operand == a.rule.adds and self._bias(a) is not None:
                sets.append(frozenset({(self.graph.by_name[ref.name].target, 0)}))
            elif a.rule.shift.get(operand) == "output":
                sets += self._operand_sets(ref.name, found)
        return sets

    def _operand_sets(
        self, value: str, found: dict[str, list[frozenset[tuple[str, int]]]]
    ) -> list[frozenset[tuple[str, int]]]:
        own = self._own(value)
        if own is not None and len(own.shape) >= 1:
            return [frozenset({(own.target, len(own.shape) - 1)})]
        return found.get(value, []) if len(self.graph.users[value]) == 1 else []

    def _carried(
        self, a: Applied, found: dict[str, list[frozenset[tuple[str, int]]]]
    ) -> list[frozenset[tuple[str, int]]]:
        """Through a structural operator: unchanged, or one alternative from each concatenated operand."""
        each = [self._operand_sets(r, found) for r in a.node.refs()]
        structure = a.rule.structure if a.rule is not None else None
        if structure in PASSING:
            return each[0] if each else []
        if structure != "cat" or not all(each):
            return []
        return [frozenset().union(*choice) for choice in list(product(*each))[:MAX_ALTERNATIVES]]

    # -- centred streams ---------------------------------------------------------------------------------------

    def centred(self, moves: tuple[Move, ...]) -> list[Centred]:
        """What is written into a stream that every reader centres, then what reads from a centred norm."""
        found: dict[Key, list[Piece]] = {
            key: [] for a in self.d.eq.applied if (key := self._centred_key(a)) is not None
        }
        for (frame, dual), kept in found.items():
            for p in self.by_frame.get(frame, []):
                if isinstance(p.term, Leaf) and p.term.dual == dual and self._unseen(self._value(p), (frame, dual)):
                    kept.append(p)
        return [Centred(frame, tuple(p), True) for (frame, _), p in found.items() if p] + self._read(moves)

    def _value(self, piece: Piece) -> str:
        return self.graph.state[piece.parameter].name

    def _centred_key(self, a: Applied) -> Key | None:
        """Frame of the centred axis of the node's first operand, if it is a single leaf."""
        if a.binding is None or a.rule is None or not a.rule.centred:
            return None
        ref, tokens = next(iter(a.binding.operands.values()))
        i = next(i for i, t in enumerate(tokens) if t.name == a.rule.centred)
        axis = self.d.found[ref.name][i]
        return self._key(axis) if self.d.eq.store.children(axis) is None else None

    def _unseen(self, value: str, key: Key) -> bool:
        """Whether multiples of the ones vector along `key` in a value end in norms that remove them."""
        if (value, key) not in self.unseen:
            users = self.graph.users[value]
            seen = value in self.graph.outputs or not users or not all(self._passes_ones(value, u, key) for u in users)
            self.unseen[value, key] = not seen
        return self.unseen[value, key]

    def _passes_ones(self, value: str, user: Node, key: Key) -> bool:
        a = self.applied.get(user.name)
        if a is None or a.rule is None or a.binding is None or list(user.refs()).count(value) != 1:
            return False
        if a.rule.structure:
            passes = a.rule.structure != "rigid"
        else:
            operand = next(k for k, (r, _) in a.binding.operands.items() if r.name == value)
            if operand == next(iter(a.binding.operands)) and self._centred_key(a) == key:
                return True
            passes = a.rule.shift.get(operand) == "output" or self._writes(a, operand, key)
        return passes and key in self.keys[user.name] and self._unseen(user.name, key)

    def _writes(self, a: Applied, operand: str, key: Key) -> bool:
        """Whether the operand's axis with `key` is one of the result that admits every invertible map.

        By continuity such an operator commutes with the projection that removes the mean, so that what multiples of
        ones in the operand add to the result is a multiple of ones.
        """
        if a.rule is None or a.binding is None:
            return False
        ref, tokens = a.binding.operands[operand]
        on = [t for t, axis in zip(tokens, self.d.found[ref.name], strict=True) if self._on(axis, key[0])]
        free = len(on) == 1 and not on[0].batch and not on[0].mark
        return (
            free
            and SymmetryClass.INVERTIBLE in a.rule.admits[on[0].name]
            and all(on[0] in r for r in a.binding.results)
        )

    def _on(self, axis: Ref, frame: int) -> bool:
        return self.d.eq.store.children(axis) is None and self.d.frames.get(axis >> 1) == frame

    def _read(self, moves: tuple[Move, ...]) -> list[Centred]:
        """Readers of a centred norm's output, once its gain is absorbed and its bias has moved on."""
        moved = {m.source.parameter for m in moves if m.sinks}
        found = []
        for gain in self.d.gains:
            nodes = [self.applied[n] for n in gain.nodes]
            if not gain.forward or not all(self._centring(a, moved) for a in nodes):
                continue
            sides = [p for p in self.by_frame.get(gain.frame, []) if isinstance(p.term, Leaf)]
            readers = tuple(p for p in sides if len(self.d.terms[p.parameter]) > 1)
            others = {p.parameter for p in sides} - {p.parameter for p in readers} - moved
            if readers and others <= {gain.parameter}:
                found.append(Centred(gain.frame, readers, False))
        return found

    def _centring(self, a: Applied, moved: set[str]) -> bool:
        if a.rule is None or a.binding is None or not a.rule.centred:
            return False
        if a.rule.adds not in a.binding.operands:
            return True
        return self.graph.by_name[a.binding.operands[a.rule.adds][0].name].target in moved
