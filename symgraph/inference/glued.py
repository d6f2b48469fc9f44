"""Parameters that the group acts on in another form: several put together as one tensor, one by its parts.

`cat([a, b])` of parameters that nothing reads by themselves is a parameter in pieces. Read as it stands, each piece has
spaces of its own: less than the whole has where the pieces end inside of a head or of parts that take turns, or are
parts of one stream. Read as one parameter it is like any other; what was found of its entries is then said of the
pieces'.

A parameter whose parts along an axis are picked by all that reads it, `w[0], w[1], w[2]` of a stack of maps to queries,
keys and values, has in each part an axis of its own: it is read as one with the parts side by side along that axis.
Which of its axes that is nothing tells beforehand, so that each is tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import accumulate
from typing import Any, TypeVar

import torch

from symgraph.ir import Graph, Kind, Node, Ref, Tensor, resized
from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.families import Constant, Hop, Share, nested
from symgraph.symmetry.found_families import Families
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.offsets import Offset
from symgraph.symmetry.part_by_part import Glued, Layout
from symgraph.symmetry.structure import AbsorbedGain
from symgraph.symmetry.terms import Leaf, Term, leaves, over_leaves
from symgraph.tracing.arguments import arguments
from symgraph.tracing.normalize import without_dead_calls
from symgraph.tracing.picks import Picked, picked

_CAT = "aten.cat.default"
_RESHAPES = frozenset({"aten.view.default", "aten.reshape.default", "aten.flatten.using_ints"})
_Found = TypeVar("_Found")
_ENTRY = Leaf(-1, -1, False, 1)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Parameters that are put together along an axis, each as long as `sizes` says."""

    members: tuple[str, ...]
    axis: int
    sizes: tuple[int, ...]
    laid: Layout | None = None

    def glued(self, terms: tuple[Term, ...]) -> Glued:
        """The tensor that they are pieces of."""
        return Glued(self.members, self.axis, self.sizes, terms, self.laid)

    def terms_of_member(self, terms: tuple[Term, ...], rigid: tuple[Term, ...]) -> tuple[Term, ...]:
        """The terms of a parameter part by part along its own axes, of those of the whole; others are rigid."""
        own = {} if self.laid is None else self.laid.own
        return tuple(terms[own[axis]] if axis in own else term for axis, term in enumerate(rigid))

    def entry(self, at: int) -> tuple[str, int]:
        """The parameter that a position along the axis belongs to, and the position there."""
        ends = [0, *accumulate(self.sizes)]
        number = next(i for i, end in enumerate(ends[1:]) if at < end)
        return self.members[number], at - ends[number]


# What is read in another form: calls that put parameters together, and parameters, with the form.
Ways = Mapping[str, Pieces]


def putting_together(graph: Graph) -> Ways:
    """The calls that put parameters together which nothing else reads."""
    found = ((node.name, _pieces(node, graph)) for node in graph.calls)
    return {name: pieces for name, pieces in found if pieces is not None}


def in_parts(graph: Graph) -> Iterator[Ways]:
    """Parameters of which all that reads them picks parts along one axis, with each axis that these may stand along."""
    flattened = ((node.name, _flattened(node, graph)) for node in graph.parameters.values())
    yield {name: way for name, way in flattened if way is not None}
    axes = {node.name: axis for node in graph.parameters.values() if (axis := _parts(node, graph)) is not None}
    ranks = max((len(graph.by_name[name].shape) for name in axes), default=0)
    for inside in range(1, max(ranks - 1, 2)):
        for last in (False, True):
            ways = {name: _laid(graph.by_name[name], axis, inside, last) for name, axis in axes.items()}
            yield {name: way for name, way in ways.items() if way is not None}


def _parts(node: Node, graph: Graph) -> int | None:
    """The axis along which parts of a parameter are picked one by one, if nothing else is done with it."""
    picks = [found for user in graph.users[node.name] for found in _picks(user, graph)]
    axes = {pick.axis for pick in picks if pick is not None and pick.count == 1}
    alone = picks and None not in picks and node.name not in graph.outputs and len(node.shape) > 1
    return axes.pop() if alone and len(axes) == 1 and all(pick.count == 1 for pick in picks if pick) else None


def _flattened(node: Node, graph: Graph) -> Pieces | None:
    """A parameter of which all that reads it makes neighbouring axes one, the others as they are, in one way."""
    users = graph.users[node.name]
    shapes = (
        {user.shape if user.target in _RESHAPES else () for user in users} if node.name not in graph.outputs else set()
    )
    rank = len(node.shape)
    layouts = (Layout(node.shape, at, at, inside) for at in range(rank) for inside in range(1, rank - at))
    found = next((way for way in layouts if shapes == {way.flat}), None)
    return None if found is None else Pieces((node.target,), found.before, (found.flat[found.before],), found)


def _picks(user: Node, graph: Graph) -> list[Picked | None]:
    """What a call picks, or each of its results."""
    return [picked(node, graph.by_name) for node in (graph.users[user.name] if _is_several(user) else (user,))]


def _is_several(node: Node) -> bool:
    return isinstance(node.result, tuple)


def _laid(node: Node, axis: int, inside: int, last: bool) -> Pieces | None:
    """The parts of a parameter side by side along the first of its other axes, so many of them, or along the last."""
    rest = len(node.shape) - 1
    # Rows of a table have one axis beside that of parts.
    if inside >= max(rest, 2) or (rest == 1 and last):
        return None
    way = Layout(node.shape, axis, rest - inside if last else 0, inside)
    return Pieces((node.target,), way.before, (way.flat[way.before],), way)


def _pieces(node: Node, graph: Graph) -> Pieces | None:
    """The parameters that a call puts together, if it reads nothing else, and they are read nowhere else."""
    read = [graph.by_name[name] for name in node.refs()] if node.target == _CAT else []
    alone = all(n.kind is Kind.PARAMETER and n.shape and graph.users[n.name] == (node,) for n in read)
    if not alone or not 1 < len(read) == len({n.name for n in read} - {*graph.outputs}):
        return None
    axis = int((arguments(node) or {}).get("dim", 0)) % len(node.shape)
    return Pieces(tuple(n.target for n in read), axis, tuple(n.shape[axis] for n in read))


def with_glued(graph: Graph, ways: Ways) -> tuple[Graph, dict[str, Pieces]]:
    """The graph with what some calls put together, and parameters part by part, as parameters; these by their names."""
    found, nodes = dict[str, Pieces](), list[Node]()
    for node in graph.nodes:
        own = ways.get(node.name)
        if own is None:
            nodes += _part(node, graph, ways)
            continue
        name = own.glued(()).name
        found[name] = own
        whole = replace(node, kind=Kind.PARAMETER, target=name, args=(), kwargs=())
        if own.laid is None:
            nodes.append(whole)
        else:
            shape = replace(_tensor(node), shape=own.laid.flat)
            nodes += (node, replace(whole, name=_whole_name(node.name), result=shape))
    return without_dead_calls(replace(graph, nodes=tuple(nodes))) if found else graph, found


def _part(node: Node, graph: Graph, ways: Ways) -> Iterator[Node]:
    """A call, or the part of a parameter that it picks as a slice of the parameter with its parts side by side."""
    read = next(node.refs(), "") if node.target in _RESHAPES else ""
    if read in ways and ways[read].laid is not None:
        yield replace(node, args=(Ref(_whole_name(read)), node.shape), target="aten.reshape.default", kwargs=())
        return
    pick = picked(node, graph.by_name) if node.kind is Kind.CALL else None
    layout = ways[pick.source.name].laid if pick is not None and pick.source.name in ways else None
    if pick is None or layout is None:
        yield node
        return
    at, size = layout.before, layout.flat[layout.before] // layout.shape[layout.parts]
    args = (Ref(_whole_name(pick.source.name)), at, pick.start * size, (pick.start + 1) * size)
    shape = resized(layout.flat, at, size)
    slice_ = replace(node, target="aten.slice.Tensor", args=args, kwargs=(), name=f"{node.name}_part")
    yield replace(slice_, result=replace(_tensor(node), shape=shape))
    yield replace(node, target="aten.reshape.default", args=(Ref(slice_.name), node.shape), kwargs=())


def _whole_name(name: str) -> str:
    return f"{name}_in_parts"


def _tensor(node: Node) -> Tensor:
    if not isinstance(node.result, Tensor):
        raise TypeError(f"{node.name} is no tensor")
    return node.result


def is_apart(symmetry: SymmetryGraph) -> bool:
    """Whether nothing but spaces of their own is said of tensors in pieces, nor of frames that they have."""
    families = (getattr(symmetry, family.name) for family in fields(Families))
    said = (*symmetry.gains, *symmetry.stacks, *families, tuple(symmetry.offsets))
    pieces = (whole for whole in symmetry.glued if whole.laid is None)
    held = {leaf.frame for whole in pieces for term in whole.terms for leaf in leaves(term)}
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


def row_by_row(found: _Found, glued: Mapping[str, Pieces]) -> _Found:
    """What was found of parameters whose rows are read one by one, said of the parameters: their axes are one."""
    return _said_of_parameters(found, {name: own for name, own in _by_parts(glued).items() if own[1].is_line})


def _by_parts(glued: Mapping[str, Pieces]) -> dict[str, tuple[str, Layout]]:
    """The parameters that are read part by part, and how they are laid, under what their tensors are called."""
    return {name: (own.members[0], own.laid) for name, own in glued.items() if own.laid is not None}


def _said_of_parameters(found: _Found, laid: Mapping[str, tuple[str, Layout]]) -> _Found:
    made: _Found = _of_parameters(found, laid) if laid else found
    return made


def _of_parameters(value: Any, laid: Mapping[str, tuple[str, Layout]]) -> Any:
    """The same with the parameters in the place of these tensors."""
    if isinstance(value, Piece) and value.parameter in laid:
        member, way = laid[value.parameter]
        return way.of_parameter(value, member)
    if isinstance(value, AbsorbedGain) and value.parameter in laid:
        return replace(value, parameter=laid[value.parameter][0])
    if isinstance(value, tuple):
        return tuple(_of_parameters(part, laid) for part in value)
    if not is_dataclass(value) or isinstance(value, type) or {*nested(value, str)}.isdisjoint(laid):
        return value
    return replace(value, **{field.name: _of_parameters(getattr(value, field.name), laid) for field in fields(value)})


def of_members(offsets: Mapping[str, Offset], glued: Mapping[str, Pieces]) -> dict[str, Offset]:
    """What is added to tensors in pieces, and to parameters part by part, said of the parameters where it can be."""
    found = dict(offsets)
    for name, own in glued.items():
        offset = found.get(name)
        members = _offsets_of(offset, own) if offset is not None else None
        if members is not None:
            del found[name]
            found |= {
                member: part
                for member, part in zip(own.members, members, strict=True)
                if part.logarithm or any(part.numbers)
            }
    return found


def _offsets_of(offset: Offset, own: Pieces) -> list[Offset] | None:
    """The offset of each piece; of parts one number for each."""
    if offset.logarithm:
        return [Offset.exponential() for _ in own.members]
    if offset.axis != own.axis and offset.number is None:
        return None
    numbers = offset.numbers if offset.number is None else offset.numbers[:1] * sum(own.sizes)
    line = torch.tensor(numbers, dtype=torch.float64)
    if own.laid is None:
        return [Offset.of(own.axis, part) for part in torch.split(line, list(own.sizes))]
    parts = line.reshape(own.laid.shape[own.laid.parts], -1)
    return [Offset.of(own.laid.parts, parts[:, 0])] if bool((parts == parts[:, :1]).all()) else None


# -- constants ---------------------------------------------------------------------------------------------------------


def entry_by_entry(constants: tuple[Constant, ...], glued: Mapping[str, Pieces]) -> tuple[Constant, ...]:
    """The constants with those that meet tensors in pieces as one for each entry, which is an entry of a piece.

    What meets no plane is said of parameters that are read part by part: a part is a run of entries of joined axes.
    """
    laid, apart = _by_parts(glued), _Apart({name: own for name, own in glued.items() if own.laid is None})
    said = (c if _meets_a_plane(c) else _said_of_parameters(c, laid) for c in constants)
    return tuple(single for constant in said for single in apart.constants(constant))


def _meets_a_plane(constant: Constant) -> bool:
    return any(port.plane is not None for port in (constant.source, *(share.port for share in constant.shares)))


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
                path = tuple(
                    replace(hop, reader=self._own(hop.reader, hop), rows=self._own(hop.rows, hop))
                    for hop in single.path
                )
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
            first = replace(way[0], reader=entry, rows=entry if way[0].multiplies else way[0].rows)
            yield replace(share, path=tuple(first if hop is way[0] else hop for hop in share.path))


def _standing(term: Term, piece: Piece, number: int) -> list[int]:
    """Where an entry of what has this term stands along the axis of a piece."""
    order = over_leaves(torch.arange(term.size), term, piece.term)
    entries = [] if order is None else order.tolist()
    return [place for place, entry in zip(piece.entries(), entries, strict=bool(entries)) if entry == number]


def _entry(parameter: str, axis: int, at: int) -> Piece:
    return Piece(parameter, axis, at, at + 1, _ENTRY)
