"""Shears of streams that norms read or write beside linear maps, in the place of the rotations that these allow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.applied import Relation
from symgraph.inference.draft import Draft
from symgraph.inference.flow import Flow, keys_of
from symgraph.inference.planes import norms
from symgraph.symmetry.axis_parts import Piece, Place
from symgraph.symmetry.shears import ONES, Normal, Shear
from symgraph.symmetry.thin import Thin

# The directions that an operator allows: `along` those that it does not see, or `across` those that it never writes.
_Allowed = tuple[str, Normal]


class Shearing:
    """Which frames may be sheared, by what is said of each of them before gains are absorbed."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.draft: Draft = flow.d.unabsorbed or flow.d
        self.products: dict[int, list[Relation]] = defaultdict(list)
        for relation in self.draft.relations:
            for root in {self.draft.root(ref) for ref in relation.refs}:
                self.products[root].append(relation)
        self.read, self.written = dict(self._read()), dict(self._written())

    def found(self, covered: Collection[Place], thin: Collection[Thin]) -> Iterator[Shear]:
        """All shears, less those that change nothing but what other families change.

        Args:
            covered: the pieces of which the means along the frame, or what leans, are not seen by themselves.
            thin: readers of what one map alone writes.
        """
        writers: dict[Place, set[Piece]] = defaultdict(set)
        for one in thin:
            writers[one.reader.place].add(one.writer)
            writers[one.writer.place].add(one.writer)
        state = self.flow.graph.state
        narrow = {one.writer: one.number(state[one.writer.parameter].shape) for one in thin}
        for frame in self.draft.nodes:
            shear, pieces = self.of(frame), self.flow.by_frame.get(frame, ())
            new = [piece.place for piece in pieces if self._is_new(piece, covered)]
            if shear is not None and new:
                shared = set.intersection(*(writers.get(place, set()) for place in new))
                yield shear if shear.single or not shared else replace(shear, idle=narrow[shared.pop()])

    def of(self, frame: int) -> Shear | None:
        """The shear of a frame, if only centring norms and linear maps meet it, and there are any norms."""
        node = self.draft.nodes[frame]
        size = self.draft.eq.store.size(2 * node)
        if size < 2 or frame in self.draft.self_dual:
            return None
        allowed = [*self._by_claims(frame, node), *self._by_products(frame, node)]
        if None in allowed or not allowed:
            return None
        sides = {side: {normal for at, normal in filter(None, allowed) if at == side} for side in ("along", "across")}
        if any(len(normals) > 1 for normals in sides.values()):
            return None
        along, across = (next(iter(normals), None) for normals in sides.values())
        return Shear(frame, size, along, across)

    def _is_new(self, piece: Piece, covered: Collection[Place]) -> bool:
        return len(self.flow.graph.state[piece.parameter].shape) > 1 and piece.place not in covered

    def _by_claims(self, frame: int, node: int) -> Iterator[_Allowed | None]:
        """What those who forbid some linear maps allow; None for any but a norm that reads the frame."""
        for bound, why in self.draft.evidence.get(node, ()):
            if SymmetryClass.INVERTIBLE not in bound:
                yield self.read.get((why.node, frame)) if SymmetryClass.ORTHOGONAL_ONES in bound else None

    def _by_products(self, frame: int, node: int) -> Iterator[_Allowed | None]:
        """What products along the frame allow: a gain of a norm that reads it, or of one that writes it."""
        for relation in self.products[node]:
            known = self.written if self.draft.root(relation.result) == node else self.read
            yield known.get((relation.node, frame))

    def _read(self) -> Iterator[tuple[tuple[str, int], _Allowed]]:
        """Norms that centre a frame, one whole axis of what they read, and make another one of it."""
        for a in self.flow.d.eq.applied:
            keys = keys_of(self.flow.centred(a) or ())
            if len(keys) != 1:
                continue
            (frame, dual), read = keys[0], next(iter(a.binding.operands.values()))[0].name
            if len(self.flow.held(read, frame)) == 1 and not self.flow.held(a.node.name, frame):
                yield (a.node.name, frame), ("across" if dual else "along", ONES)

    def _written(self) -> Iterator[tuple[tuple[str, int], _Allowed]]:
        """Norms that write a frame, one whole axis, with a gain."""
        for a, (gain, _), axis in norms(self.flow):
            found = self.flow.d.found[a.node.name][axis]
            one = self.flow.d.eq.store.children(found) is None and found >> 1 in self.flow.d.frames
            if not one:
                continue
            frame, dual = self.flow.key(found)
            if a.rule.gain in a.binding.operands and len(self.flow.held(a.node.name, frame)) == 1:
                normal = Normal(gain)
                yield (a.node.name, frame), ("along" if dual else "across", normal)
