"""The graph of one draft with what the families ask of it: keys of axes, biases, what is centred."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator
from functools import cache
from math import prod
from typing import TypeVar

from symgraph.groups.lattice import TOP, Bound, SymmetryClass
from symgraph.inference.applied import Applied
from symgraph.inference.claims import Ref
from symgraph.inference.draft import Draft
from symgraph.ir import Answers, Kind, Node, kept
from symgraph.symmetry.axis_parts import Piece, pieces
from symgraph.symmetry.terms import Concat, Leaf, Term, leaves, multiplied
from symgraph.tracing.operators import short_name

Key = tuple[int, bool]
# What an axis is made of: parts side by side, each a product of leaves; mostly a single leaf.
Stretch = tuple[tuple[Key, ...], ...]
# They look at the shape of their operand alone.
BLANK = frozenset({"constant", "zero"})


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


def matrices(a: Applied) -> set[str]:
    """The operands by which a call multiplies others."""
    return a.binding.operands.keys() & a.rule.shift.values()


def alone(key: Key) -> Stretch:
    """A single leaf."""
    return ((key,),)


def keys_of(stretch: Stretch) -> list[Key]:
    """All its leaves, in order."""
    return [key for part in stretch for key in part]


class Flow(Answers):
    """The graph of one draft, with the questions that the families ask."""

    def __init__(self, d: Draft) -> None:
        super().__init__()
        self.d, self.graph = d, d.eq.graph
        self.applied = d.eq.by_node
        keys_of = cache(lambda blocks: {self.key(ref) for block in blocks for ref in block})
        self.keys = {name: keys_of(blocks) for name, blocks in d.blocks.items()}
        self.gain_of = {node: gain.absorbed for gain in d.gains for node in gain.nodes}
        self.by_frame: dict[int, list[Piece]] = {}
        for name, axes in d.terms.items():
            for i, term in enumerate(axes):
                for piece in pieces(name, i, term):
                    for frame in {leaf.frame for leaf in leaves(piece.term)}:
                        self.by_frame.setdefault(frame, []).append(piece)

    def key(self, ref: Ref) -> Key:
        """Frame and orientation of a leaf; a frame that is its own dual has one alone."""
        frame = self.d.frames[ref >> 1]
        return frame, bool(ref & 1) and frame not in self.d.self_dual

    def bias(self, a: Applied) -> Node | None:
        """The one-axis parameter that the node adds, if all that use it do the same with the same matrices."""
        return self._bias(a.node.name)

    @kept
    def _bias(self, call: str) -> Node | None:
        a = self.applied[call]
        if a.rule.adds not in a.binding.operands:
            return None
        node = self.graph.by_name[a.binding.operands[a.rule.adds][0].name]
        floating = node.kind is Kind.PARAMETER and node.is_floating
        if not floating or len(node.shape) != 1:
            return None
        behind = self._behind(a.node, node)
        alike = behind is not None and all(self._behind(user, node) == behind for user in self.graph.users[node.name])
        return node if alike else None

    def is_invertible(self, frame: int) -> bool:
        """Whether every invertible map may act on a frame; none does on entries that are rigid."""
        return frame in self.d.nodes and SymmetryClass.INVERTIBLE in self.bound(frame)

    def turns_alone(self, frame: int, parameters: Collection[str]) -> bool:
        """Whether every invertible map may act on a frame, and moves none but these parameters."""
        return self.is_invertible(frame) and all(piece.parameter in parameters for piece in self.by_frame[frame])

    def bound(self, frame: int) -> Bound:
        """The classes that may act on a frame."""
        return self.d.bounds.get(self.d.root(2 * self.d.nodes[frame]), TOP)

    def takes_constants(self, node: Node) -> bool:
        """Whether a stored buffer is subtracted by all calls that read it, from what may have a constant."""
        stored = node.kind is Kind.BUFFER and node.target not in self.graph.transient
        users = [self.applied.get(user.name) for user in self.graph.users[node.name]] if stored else []
        return bool(users) and all(a is not None and self.operand(a, node.name) in a.rule.differs[1:] for a in users)

    def _behind(self, user: Node, bias: Node) -> tuple[str, ...] | None:
        """Operator and matrices of a call that adds a bias and reads each of them once; None for any other call."""
        a = self.applied.get(user.name)
        if a is None or self.operand(a, bias.name) != a.rule.adds:
            return None
        names = [a.binding.operands[k][0].name for k in sorted(matrices(a))]
        return (user.target, *names) if all(self.operand(a, name) for name in names) else None

    def operand(self, a: Applied, value: str) -> str | None:
        """The operand that a value is, if it is one alone."""
        if list(a.node.refs()).count(value) != 1:
            return None
        return next((k for k, (r, _) in a.binding.operands.items() if r.name == value), None)

    def is_one(self, a: Applied) -> bool:
        """Whether a call does nothing but multiply a value by a gain that is absorbed, which is one."""
        return a.node.name in self.gain_of and short_name(a.node.target) == "mul"

    def is_linear(self, a: Applied) -> bool:
        """Whether any map may act along an axis that a call takes from its one operand to its result (a fixed number).

        A number in the place of an operand with axes, as of a sum, is one that no map acts on.
        """
        if a.rule.signature is None or len(a.binding.results) != 1:
            return False
        if any(operand.axes and operand.name not in a.binding.operands for operand in a.rule.signature.operands):
            return False
        tokens = next(iter(a.binding.operands.values()))[1]
        kept = {t.axis for t in a.binding.results[0] if t in tokens and t.claimed}
        return any(SymmetryClass.INVERTIBLE in a.rule.admits.get(axis, ()) for axis in kept)

    def twice(self, value: str, key: Key) -> bool:
        """Whether two axes of a value carry the key, so that it does not say along which of them something varies."""
        return any(sum(self.key(r) == key for r in block) > 1 for block in self.d.blocks[value])

    # -- centred values ------------------------------------------------------------------------------------------

    def on(self, axis: Ref, frame: int) -> bool:
        """Whether an axis is one leaf, of this frame."""
        return self.d.eq.store.children(axis) is None and self.d.frames.get(axis >> 1) == frame

    def held(self, value: str, frame: int) -> list[int]:
        """The axes of a value with a leaf of this frame."""
        terms = self.d.values.get(value, ())
        return [i for i, term in enumerate(terms) if any(leaf.frame == frame for leaf in leaves(term))]

    def centred_axis(self, a: Applied) -> int | None:
        """Position of the axis that a node centres, in its first operand."""
        if not a.rule.centred:
            return None
        _, tokens = next(iter(a.binding.operands.values()))
        return next(i for i, token in enumerate(tokens) if token.name == a.rule.centred)

    def absorbed(self, a: Applied) -> bool:
        """Whether the gain of a norm is absorbed into what reads the norm."""
        return a.node.name in self.gain_of and self.gain_of[a.node.name].forward

    def centred(self, a: Applied) -> Stretch | None:
        """What the centred axis of the node's first operand is made of, if that is all known."""
        i = self.centred_axis(a)
        if i is None:
            return None
        term = self.d.values[next(iter(a.binding.operands.values()))[0].name][i]
        parts = [
            self._factors(part) for part in (term.parts if isinstance(term, Concat) and not term.order else (term,))
        ]
        return None if None in parts else tuple(part for part in parts if part is not None)

    def _factors(self, term: Term) -> tuple[Key, ...] | None:
        """The leaves that a term is the product of; None where something else is among them."""
        found = [x for x in multiplied(term) if isinstance(x, Leaf) and x.frame >= 0]
        if prod(leaf.size for leaf in found) != term.size or not found:
            return None
        return tuple((leaf.frame, leaf.dual and leaf.frame not in self.d.self_dual) for leaf in found)

    def free(self, a: Applied, operand: str, frame: int) -> str | None:
        """Name of the operand's axis that has `frame` if it is one of the result that admits every invertible map."""
        ref, tokens = a.binding.operands[operand]
        on = [tokens[i] for i in self.held(ref.name, frame)]
        if len(on) != 1 or on[0].mark or not on[0].claimed:
            return None
        if SymmetryClass.INVERTIBLE not in a.rule.admits.get(on[0].axis, ()):
            return None
        return on[0].name if all(on[0] in r for r in a.binding.results) else None
