"""Centred streams: means that norms remove, in whatever writes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from itertools import product as cartesian
from math import prod

import torch

from symgraph.inference.applied import Applied
from symgraph.inference.carrying import Carrier
from symgraph.inference.entry_numbers import stands_anywhere
from symgraph.inference.flow import BLANK, Flow, Key, Stretch, alone, holds, keys_of
from symgraph.inference.planes import norms
from symgraph.inference.shearable import Shearing
from symgraph.ir import Node, Tensor
from symgraph.symmetry.axis_parts import Piece, Place, pieces
from symgraph.symmetry.families import Centred, Spectral
from symgraph.symmetry.shears import ONES, Normal, Shear
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, leaves

# More entries than are carried out one by one.
LARGEST = 2**26


class Centring:
    """Finds what norms that centre, and operators that are blind along an axis, do not see."""

    def __init__(self, flow: Flow) -> None:
        self.flow, self.d = flow, flow.d
        self.unseen: dict[tuple[str, Stretch], bool] = {}
        self.by_root: dict[int, list[int]] = {}
        for node, frame in self.d.frames.items():
            self.by_root.setdefault(self.d.root(2 * node), []).append(frame)

    # -- what is written -----------------------------------------------------------------------------------------

    def written(self) -> list[Centred]:
        """What is written into a stream that every reader centres; a gain absorbed into its writers is no reader."""
        found: dict[int, list[Piece]] = {}
        streams = [(stream, keys_of(stream)) for stream in self._streams()]
        for _, keys in streams:
            for key in self._alike(keys[0]) if len(keys) == 1 else ():
                if key[0] not in found and (unseen := list(self._unseen_along(key))):
                    found[key[0]] = unseen
        single = [Centred(frame, tuple(unseen), True) for frame, unseen in sorted(found.items())]
        taken = {piece.place for centred in single for piece in centred.pieces}
        several = [stream for stream, keys in streams if len(keys) == len(set(keys)) > 1]
        return [*single, *self._of_several(several, taken)]

    def _alike(self, key: Key) -> Iterator[Key]:
        """The keys, on frames that a centred one is tied to or is, of axes that have its orientation."""
        frame, dual = key
        for other in self.by_root[self.d.root(2 * self.d.nodes[frame])]:
            turned = self._parity(other) != self._parity(frame)
            yield other, dual != turned and other not in self.d.self_dual

    def _unseen_along(self, key: Key) -> Iterator[Piece]:
        """Parts of parameters along a leaf, of which nothing sees multiples of ones."""
        for piece in self.flow.by_frame.get(key[0], ()):
            if _along(piece, (key,)) and self._unseen(self._value(piece), alone(key)):
                yield piece

    def _of_several(self, stretches: list[Stretch], taken: set[Place]) -> Iterator[Centred]:
        """What is written into several frames that a norm centres as one: of a head what is turned, and the rest.

        Where the mean of one frame is unseen at every position of the others, that of all of them is as well.
        """
        for stretch in stretches:
            joined = [piece for piece in _joined(self.flow, stretch) if piece.place not in taken]
            found = [piece for piece in joined if self._unseen(self._value(piece), stretch)]
            taken |= {piece.place for piece in found}
            if found:
                yield Centred(keys_of(stretch)[0][0], tuple(found), True)

    def _streams(self) -> list[Stretch]:
        centred = (self.flow.centred(applied) for applied in self.d.eq.applied)
        blind = (alone(key) for applied in self.d.eq.applied for key in self._blind_keys(applied).values())
        return list(dict.fromkeys(stretch for stretch in (*centred, *blind) if stretch is not None))

    def _blind_keys(self, a: Applied) -> dict[str, Key]:
        """For each operand along an axis of which the node sees no constant: that axis, if it is a single leaf."""
        found: dict[str, Key] = {}
        for operand, name in a.rule.blind.items():
            if operand not in a.binding.operands:
                continue
            ref, tokens = a.binding.operands[operand]
            read = zip(tokens, self.d.found[ref.name], strict=True)
            along = [axis for token, axis in read if token.axis == name]
            if len(along) == 1 and along[0] >> 1 in self.d.frames:
                found[operand] = self.flow.key(along[0])
        return found

    def tables(self) -> dict[str, tuple[str, ...]]:
        """Matrices that some of their uses make of, if a vector is added to every row, what nothing sees (tied logits).

        Each with its other uses.
        """
        found: dict[str, tuple[str, ...]] = {}
        for node in self.flow.graph.parameters.values():
            users = self.flow.graph.users[node.name]
            axes = self.d.found[node.name]
            if len(users) > 1 and len(axes) == 2 and axes[0] >> 1 in self.d.frames:
                key = self.flow.key(axes[0])
                others = tuple(user.name for user in users if not self._ends(node.name, user, alone(key)))
                if len(others) < len(users):
                    found[node.target] = others
        return found

    def _ends(self, value: str, user: Node, stretch: Stretch) -> bool:
        """Whether multiples of ones along a stretch that a node reads are seen by nothing behind it."""
        end = self._after(value, user, stretch)
        return end == () or (end is not None and self._unseen(*end))

    def _parity(self, frame: int) -> bool:
        return bool(self.d.eq.store.find(2 * self.d.nodes[frame]) & 1)

    def _value(self, piece: Piece) -> str:
        return self.flow.graph.state[piece.parameter].name

    def _unseen(self, value: str, stretch: Stretch) -> bool:
        """Whether multiples of the ones vector along a stretch of a value end in norms that remove them."""
        return holds((value, stretch), self._nexts, self.unseen)

    def _nexts(self, place: tuple[str, Stretch]) -> Iterator[tuple[str, Stretch] | None]:
        value, stretch = place
        graph = self.flow.graph
        twice = any(self.flow.twice(value, key) for key in keys_of(stretch))
        if value in graph.outputs or not graph.users[value] or twice:
            yield None
            return
        for user in graph.users[value]:
            after = self._after(value, user, stretch)
            if after is None:
                yield None
            elif after and set(keys_of(after[1])) <= self.flow.keys[after[0]]:
                yield after
            elif after and not self._left_out(value, user, stretch):
                yield None

    def _left_out(self, value: str, user: Node, stretch: Stretch) -> bool:
        """Whether an operator that only moves entries leaves out all that stand along the stretch."""
        read = self.flow.graph.by_name[value]
        if not self.flow.applied[user.name].rule.structure:
            return False
        # One of several results has all that stands along its axes, and nothing of the others.
        if not isinstance(read.result, Tensor):
            return user.target == "getitem"
        frames = {frame for frame, _ in keys_of(stretch)}
        held = {axis for frame in frames for axis in self.flow.held(value, frame)}
        # Which of several parts a later node picks is not known here, nor what becomes of more entries than memory has.
        if not isinstance(user.result, Tensor) or len(held) != 1 or prod(read.shape) > LARGEST:
            return False
        marked = self._marked(value, held.pop(), frames)
        return not stands_anywhere(Carrier(self.flow).carried_out(value, (user,), marked))

    def _marked(self, value: str, axis: int, frames: set[int]) -> torch.Tensor:
        """One at every position of a value that stands on one of the frames along an axis, zero elsewhere."""
        shape = self.flow.graph.by_name[value].shape
        along = torch.zeros(shape[axis], dtype=torch.float64)
        for piece in pieces("", 0, self.d.values[value][axis]):
            along[piece.places()] = float(any(leaf.frame in frames for leaf in leaves(piece.term)))
        return along.reshape([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape)

    def _after(self, value: str, user: Node, stretch: Stretch) -> tuple[str, Stretch] | tuple[()] | None:
        """Where multiples of ones go from here: on, nowhere (), or None where they are seen."""
        a = self.flow.applied.get(user.name)
        if a is None or list(user.refs()).count(value) != 1:
            return None
        if a.rule.structure in BLANK:
            return ()
        if a.rule.structure:
            return (user.name, stretch) if a.rule.structure != "rigid" else None
        operand = self.flow.operand(a, value)
        if operand is None:
            return None
        first = next(iter(a.binding.operands))
        if (operand == first and self.flow.centred(a) == stretch) or self._is_blind(a, operand, stretch):
            return ()
        if user.name in self.flow.gain_of and not self.flow.gain_of[user.name].forward:
            keys = keys_of(stretch)
            after = self._after_gain(a, value, keys[0]) if len(keys) == 1 else None
            return None if after is None else (user.name, alone(after))
        # By continuity an operator that admits every invertible map on an axis commutes with the projection that
        # removes the mean, that of each head where the axis has several, so that what multiples of ones in the operand
        # add to the result is a multiple of ones. What passes on a constant along an axis that it sums over does not
        # pass on multiples that vary along it: each head has weights of its own.
        kept = {token.name for token in a.binding.results[0]}
        entrywise = all(token.name in kept for token in a.binding.operands[operand][1])
        added = operand == a.rule.adds or (a.rule.shift.get(operand) == "output" and entrywise)
        passes = added or all(self.flow.free(a, operand, frame) is not None for frame, _ in keys_of(stretch))
        return (user.name, stretch) if passes else None

    def _is_blind(self, a: Applied, operand: str, stretch: Stretch) -> bool:
        key = self._blind_keys(a).get(operand)
        return key is not None and alone(key) == stretch

    def _after_gain(self, a: Applied, value: str, key: Key) -> Key | None:
        """The key behind a gain that is one once its writers carry it, for the value that it multiplies."""
        axes, result = self.d.found[value], self.d.found[a.node.name]
        at = [i - len(axes) for i, axis in enumerate(axes) if self.flow.on(axis, key[0])]
        parameter = self.flow.gain_of[a.node.name].parameter
        if len(at) != 1 or len(axes) < len(result) or self.flow.graph.state[parameter].name == value:
            return None
        return self.flow.key(result[at[0]])

    def spectral(self, shearing: Shearing) -> list[Spectral]:
        """Gains in place between a stream and another one whose readers all centre it."""
        found = []
        for a, (gain, _), axis in norms(self.flow):
            # Of gains of one spectrum some may be negative.
            stored = self.d.eq.prepared.offsets.get(gain)
            if gain not in self.d.between or (stored is not None and stored.is_positive):
                continue
            key = self.flow.key(self.d.found[a.node.name][axis])
            one = Spectral(gain, *self.d.between[gain])
            if self._unseen(a.node.name, alone(key)):
                found.append(one)
            elif self._may_be_sheared(shearing.of(key[0]), one, flip=key[1]):
                found.append(replace(one, stream=key[0], flip=key[1]))
        return found

    def _may_be_sheared(self, shear: Shear | None, gain: Spectral, *, flip: bool) -> bool:
        """Whether a shear of the stream behind a norm can keep its means, where these are seen."""
        sides = (ONES, Normal(gain.gain))
        return shear is not None and (shear.along, shear.across) == (sides[::-1] if flip else sides)


def _along(piece: Piece, part: tuple[Key, ...]) -> bool:
    """Whether a piece lies along leaves that stand together in it: it is their product, or one with them."""
    every = list(leaves(piece.term))
    if isinstance(piece.term, Concat) or prod(leaf.size for leaf in every) != piece.term.size:
        return False
    found = [(leaf.frame, leaf.dual) for leaf in every]
    places = [start for start in range(len(found)) if tuple(found[start : start + len(part)]) == part]
    frames = [frame for frame, _ in found]
    return len(places) == 1 and all(frames.count(frame) == 1 for frame, _ in part)


def _joined(flow: Flow, stretch: Stretch) -> Iterator[Piece]:
    """Parts of parameters along which the parts of a stretch stand side by side, in this order, each as one piece."""
    parts = [[piece for piece in flow.by_frame.get(part[0][0], ()) if _along(piece, part)] for part in stretch]
    for several in cartesian(*parts):
        term = _side_by_side(several, stretch)
        if term is not None:
            yield replace(several[0], stop=several[-1].stop, term=term)


def _side_by_side(several: tuple[Piece, ...], stretch: Stretch) -> Term | None:
    """What pieces are made of together, if each begins where the one before ends and differs in its leaves alone."""
    for before, after in pairwise(several):
        place = replace(before, start=before.stop, stop=after.stop, term=after.term)
        if place != after:
            return None
    around = [_around(piece, part) for piece, part in zip(several, stretch, strict=True)]
    if any(other[:2] != around[0][:2] for other in around):
        return None
    # Where one product is all that there is, it is a concatenation of one part: its leaves stand together.
    whole = Concat(tuple(inner for _, _, inner in around))
    left, right, _ = around[0]
    return Product((*left, whole, *right)) if left or right else whole


def _around(piece: Piece, part: tuple[Key, ...]) -> tuple[tuple[Leaf, ...], tuple[Leaf, ...], Term]:
    """The factors before some leaves, those after them, and what these are together."""
    every = list(leaves(piece.term))
    at = next(i for i, leaf in enumerate(every) if leaf.frame == part[0][0])
    inner = tuple(every[at : at + len(part)])
    return tuple(every[:at]), tuple(every[at + len(part) :]), inner[0] if len(part) == 1 else Product(inner)
