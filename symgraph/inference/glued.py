"""Parameters that are put together before anything else reads them, and act as one tensor.

`cat([a, b])` of parameters that nothing reads by themselves is a parameter in pieces. Read as it stands, each piece has
spaces of its own: less than the whole has where the pieces end inside of a head or of parts that take turns, or are
parts of one stream. Read as one parameter it is like any other; what was found of its entries is then said of the
pieces'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import accumulate

import torch

from symgraph.ir import Graph, Kind, Node
from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.families import Constant, Hop, Share, nested
from symgraph.symmetry.found_families import Families
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Glued
from symgraph.symmetry.terms import Leaf, Term, leaves, over_leaves
from symgraph.tracing.arguments import arguments

_CAT = "aten.cat.default"
_ENTRY = Leaf(-1, -1, False, 1)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Parameters that are put together along an axis, each as long as `sizes` says."""

    members: tuple[str, ...]
    axis: int
    sizes: tuple[int, ...]

    def glued(self, terms: tuple[Term, ...]) -> Glued:
        """The tensor that they are pieces of."""
        return Glued(self.members, self.axis, self.sizes, terms)

    def entry(self, at: int) -> tuple[str, int]:
        """The parameter that a position along the axis belongs to, and the position there."""
        ends = [0, *accumulate(self.sizes)]
        number = next(i for i, end in enumerate(ends[1:]) if at < end)
        return self.members[number], at - ends[number]


def putting_together(graph: Graph) -> frozenset[str]:
    """The calls that put parameters together which nothing else reads."""
    return frozenset(node.name for node in graph.calls if _pieces(node, graph) is not None)


def _pieces(node: Node, graph: Graph) -> Pieces | None:
    """The parameters that a call puts together, if it reads nothing else, and they are read nowhere else."""
    read = [graph.by_name[name] for name in node.refs()] if node.target == _CAT else []
    alone = all(n.kind is Kind.PARAMETER and n.shape and graph.users[n.name] == (node,) for n in read)
    if not alone or not 1 < len(read) == len({n.name for n in read} - {*graph.outputs}):
        return None
    axis = int((arguments(node) or {}).get("dim", 0)) % len(node.shape)
    return Pieces(tuple(n.target for n in read), axis, tuple(n.shape[axis] for n in read))


def with_glued(graph: Graph, calls: frozenset[str]) -> tuple[Graph, dict[str, Pieces]]:
    """The graph with some calls that put parameters together as parameters, and the pieces of each under its name."""
    found, nodes = dict[str, Pieces](), list[Node]()
    for node in graph.nodes:
        own = _pieces(node, graph) if node.name in calls else None
        if own is None:
            nodes.append(node)
            continue
        name = own.glued(()).name
        found[name] = own
        nodes.append(replace(node, kind=Kind.PARAMETER, target=name, args=(), kwargs=()))
    return replace(graph, nodes=tuple(nodes)), found


def is_apart(symmetry: SymmetryGraph) -> bool:
    """Whether nothing but spaces of their own is said of tensors in pieces, nor of frames that they have."""
    families = (getattr(symmetry, family.name) for family in fields(Families))
    said = (*symmetry.gains, *symmetry.stacks, *families, tuple(symmetry.offsets))
    held = {leaf.frame for whole in symmetry.glued for term in whole.terms for leaf in leaves(term)}
    named = {*nested(said, str)}.isdisjoint(whole.name for whole in symmetry.glued)
    return named and held.isdisjoint(_moved_as_a_frame(symmetry))


def _moved_as_a_frame(symmetry: SymmetryGraph) -> Iterator[int]:
    """The frames by which families act on all tensors that have them; those in pieces would be left out."""
    for gain in symmetry.gains:
        yield from gain.frames
    for shear in symmetry.shears:
        yield shear.frame
    for spectral in symmetry.spectral:
        yield from (*spectral.before, *spectral.after, spectral.stream)


# -- constants ---------------------------------------------------------------------------------------------------------


def entry_by_entry(constants: tuple[Constant, ...], glued: Mapping[str, Pieces]) -> tuple[Constant, ...]:
    """The constants with those that meet tensors in pieces as one for each entry, which is an entry of a piece."""
    if not glued:
        return constants
    return tuple(single for constant in constants for single in _Apart(glued).constants(constant))


@dataclass(frozen=True, slots=True)
class _Apart:
    """Says of pieces what was found of the tensors that they are pieces of; what cannot be said so stays."""

    whole: Mapping[str, Pieces]

    def constants(self, constant: Constant) -> Iterator[Constant]:
        source = constant.source
        firsts = [_way(share)[0].reader if _way(share) else share.port.piece for share in constant.shares]
        if not any(map(self._is_cut, (source.piece, *firsts))):
            yield replace(constant, shares=tuple(self._shares(constant.shares)))
        elif not constant.whole or source.plane is not None:
            yield constant
        else:
            for number, at in enumerate(source.piece.entries()):
                split = [single for share in constant.shares for single in _share(share, source.piece.term, number)]
                port = replace(source, piece=self._own(_entry(source.piece.parameter, source.piece.axis, at)))
                yield replace(constant, source=port, shares=tuple(self._shares(split)))

    def _is_cut(self, piece: Piece) -> bool:
        return piece.parameter in self.whole and piece.axis == self.whole[piece.parameter].axis

    def _shares(self, shares: Iterable[Share]) -> Iterator[Share]:
        for share in shares:
            for single in self._arriving(share):
                path = tuple(Hop(*map(self._own, (hop.reader, hop.rows), (hop, hop))) for hop in single.path)
                yield replace(single, port=replace(single.port, piece=self._own(single.port.piece)), path=path)

    def _arriving(self, share: Share) -> Iterator[Share]:
        """A share with what arrives entry by entry, where the matrix in front of it or the place is in pieces."""
        piece, way = share.port.piece, _way(share)
        if not way or way[-1].rows.size == 1 or not (self._is_cut(piece) or self._is_cut(way[-1].rows)):
            yield share
            return
        rows = way[-1].rows
        for number, at in enumerate(rows.entries()):
            last = replace(way[-1], rows=_entry(rows.parameter, rows.axis, at))
            path = tuple(last if hop is way[-1] else hop for hop in share.path)
            for place in _standing(rows.term, piece, number):
                port = replace(share.port, piece=_entry(piece.parameter, piece.axis, place))
                yield replace(share, port=port, path=path)

    def _own(self, piece: Piece, hop: Hop | None = None) -> Piece:
        """A piece of a tensor in pieces as one of the parameter that its entry belongs to, as that of its hop says."""
        if piece.parameter not in self.whole:
            return piece
        own = self.whole[piece.parameter]
        along = next((p for p in (piece, *((hop.reader, hop.rows) if hop else ())) if p.axis == own.axis), None)
        if along is None or along.size > 1:
            return piece
        member, at = own.entry(along.start)
        if piece.axis != own.axis:
            return replace(piece, parameter=member)
        return _entry(member, piece.axis, at)


def _way(share: Share) -> list[Hop]:
    """The matrices and gains of a path, without its numbers."""
    return [hop for hop in share.path if not hop.is_number]


def _share(share: Share, term: Term, number: int) -> Iterator[Share]:
    """What one entry of a constant with this term makes up for."""
    way = _way(share)
    meets = way[0].reader if way else share.port.piece
    for at in _standing(term, meets, number):
        entry = _entry(meets.parameter, meets.axis, at)
        if not way:
            yield replace(share, port=replace(share.port, piece=entry))
        else:
            first = Hop(entry, entry if way[0].multiplies else way[0].rows)
            yield replace(share, path=tuple(first if hop is way[0] else hop for hop in share.path))


def _standing(term: Term, piece: Piece, number: int) -> list[int]:
    """Where an entry of what has this term stands along the axis of a piece."""
    order = over_leaves(torch.arange(term.size), term, piece.term)
    entries = [] if order is None else order.tolist()
    return [place for place, entry in zip(piece.entries(), entries, strict=bool(entries)) if entry == number]


def _entry(parameter: str, axis: int, at: int) -> Piece:
    return Piece(parameter, axis, at, at + 1, _ENTRY)
