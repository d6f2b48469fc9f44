"""Maps over the positions of a product, such as the heads of attention: each position trades a factor with its rows.

Talking heads mix scores of all heads by a map in front of the softmax, and its weights by another one behind it. What
the first reads of a head may be any multiple, if the queries of that head are divided by it; what the second writes for
a head as well, beside its values. The same holds of a gain and a bias for each head, as behind a norm over heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.applied import Applied
from symgraph.inference.carrying import Carrier
from symgraph.inference.entry_numbers import moved
from symgraph.inference.flow import Flow
from symgraph.inference.matrix_parts import MOVING, part_of
from symgraph.inference.planes import whole
from symgraph.inference.radial_parts import LinearMap, ends
from symgraph.ir import Kind, Node
from symgraph.ir import Tensor as Meta
from symgraph.rules.signature import AxisToken
from symgraph.symmetry.axis_parts import Piece, placed
from symgraph.symmetry.lengths import Radial
from symgraph.symmetry.terms import Leaf, leaves


@dataclass(frozen=True, slots=True)
class _Way:
    """Calls without weights, in order, that take what `start` makes to a value, a multiple of it wherever it stands."""

    start: str
    nodes: tuple[Node, ...]

    def along(self, flow: Flow, dim: int) -> Tensor:
        """Which position along an axis of the start stands where in the value."""
        shape = flow.graph.by_name[self.start].shape
        at = torch.arange(shape[dim]).reshape([-1 if i == dim else 1 for i in range(len(shape))]).expand(shape)
        value = self.start
        for moves, several in groupby(self.nodes, partial(_moves, flow)):
            nodes = tuple(several)
            at = moved(flow.graph, nodes, {value: at}) if moves else at
            value = nodes[-1].name
        return at


@dataclass(frozen=True, slots=True)
class _Product:
    """A call that is linear in each of several values, at every position along an axis by itself."""

    flow: Flow
    applied: Applied
    dim: int

    def axis_of(self, value: str) -> int | None:
        """The same axis of one of these values, if the call is linear in it alone.

        It is where any invertible map passes along an axis that no other operand has: what is linear in two operands
        together, as rows put among others are, has the axis of both.
        """
        result, binding = self.applied.binding.results[0], self.applied.binding
        operand = self.flow.operand(self.applied, value)
        if operand is None:
            return None
        _, tokens = binding.operands[operand]
        elsewhere = {token.name for name, (_, held) in binding.operands.items() if name != operand for token in held}
        kept, names = {token.name for token in result}, [token.name for token in tokens]
        own = [t for t in tokens if _is_free(self.applied, t) and t.name in kept and t.name not in elsewhere]
        return names.index(result[self.dim].name) if own and result[self.dim].name in names else None


def find_mixed_positions(flow: Flow) -> Iterator[Radial]:
    """All such maps, in the order of the program."""
    carrier, known = Carrier(flow), set[str]()
    for applied in flow.d.eq.applied:
        for found in (*_reading(carrier, applied), *_writing(carrier, applied)):
            if known.isdisjoint(found.tensors[:1]):
                known.add(found.tensors[0])
                yield found


# -- maps that read a product ------------------------------------------------------------------------------------------


def _reading(carrier: Carrier, a: Applied) -> Iterator[Radial]:
    """A matrix that reads a product along the axis of its positions."""
    for value, dim, parameter, axis in _matrices(carrier.flow, a):
        way = _back(carrier.flow, value)
        made = carrier.flow.applied.get(way.start)
        if made is None or not _has_axes(made) or _is_scaled(carrier.flow, value, dim):
            continue
        if not all(_is_read_once(carrier.flow, name) for name in (way.start, *(node.name for node in way.nodes))):
            continue
        size, shape = carrier.graph.state[parameter].shape[axis], made.node.shape
        products = (_Product(carrier.flow, made, d) for d, n in enumerate(shape) if n == size)
        alike = (p for p in products if _is_alone(p) and _is_line(way.along(carrier.flow, p.dim), dim))
        product = next(alike, None)
        if product is not None:
            yield from _traded(carrier, product, (parameter,), (axis,), "")


def _matrices(flow: Flow, a: Applied) -> Iterator[tuple[str, int, str, int]]:
    """The parameters by which a call multiplies values along an axis that it sums over, with both axes."""
    if a.rule.structure is not None or not a.binding.results:
        return
    kept = {token.name for result in a.binding.results for token in result}
    for ref, tokens in a.binding.operands.values():
        for dim, token in enumerate(tokens):
            if token.name in kept or not _is_free(a, token):
                continue
            others = [(r.name, [t.name for t in ts]) for r, ts in a.binding.operands.values() if r != ref]
            facing = [_own(flow, name, names.index(token.name)) for name, names in others if token.name in names]
            if len(facing) == 1 and facing[0] is not None:
                yield ref.name, dim, *facing[0]


# -- maps that write a factor of it ------------------------------------------------------------------------------------


def _writing(carrier: Carrier, a: Applied) -> Iterator[Radial]:
    """A map, or a gain with a bias, that writes one of the values that are multiplied, along that axis."""
    flow, found = carrier.flow, _written(carrier.flow, a) or _gains(carrier.flow, a)
    way = _onward(flow, a.node) if found is not None else None
    if found is None or way is None or _is_scaled(flow, way.start, found.dim):
        return
    value = way.nodes[-1].name if way.nodes else way.start
    product = _product_of(flow, way, value, found.dim)
    if product is not None:
        yield from _traded(carrier, product, found.tensors, found.axes, value)


def _product_of(flow: Flow, way: _Way, value: str, dim: int) -> _Product | None:
    """The product by which a value is read, along the axis where positions of what it is made of stand."""
    made = flow.applied.get(flow.graph.users[value][0].name)
    if made is None or not _has_axes(made):
        return None
    size = flow.graph.by_name[way.start].shape[dim]
    products = (_Product(flow, made, d) for d, n in enumerate(made.node.shape) if n == size)
    there = ((product, product.axis_of(value)) for product in products if _is_alone(product))
    return next((p for p, own in there if own is not None and _is_line(way.along(flow, dim), own)), None)


def _gains(flow: Flow, a: Applied) -> LinearMap | None:
    """What multiplies and what is added along the last axis of a norm, if both are read by it alone."""
    operands = [a.binding.operands[name][0].name for name in (a.rule.gain, a.rule.adds) if name in a.binding.operands]
    if a.rule.gain not in a.binding.operands or a.node.name in flow.gain_of or not isinstance(a.node.result, Meta):
        return None
    known = [_own(flow, name, 0) for name in operands if len(flow.graph.by_name[name].shape) == 1]
    tensors = tuple(one[0] for one in known if one is not None)
    (token, *_), names = a.binding.operands[str(a.rule.gain)][1], [token.name for token in a.binding.results[0]]
    if len(tensors) != len(operands) or token.name not in names:
        return None
    return LinearMap(a, names.index(token.name), tensors, (0,) * len(tensors))


# -- what trades -------------------------------------------------------------------------------------------------------


def _traded(
    carrier: Carrier, product: _Product, tensors: tuple[str, ...], axes: tuple[int, ...], value: str
) -> Iterator[Radial]:
    """A factor for each position, between these tensors and the rows that write the first other value."""
    for ref in dict.fromkeys(product.applied.node.refs()):
        dim, size = product.axis_of(ref) if ref != value else None, product.applied.node.shape[product.dim]
        every = dim is not None and carrier.graph.by_name[ref].shape[dim] == size
        rows = _rows(carrier, ref, dim, product) if dim is not None and every else None
        if rows is not None:
            names, pieces = rows
            own = tuple(whole(carrier.flow, name, axis) for name, axis in zip(tensors, axes, strict=True))
            powers = (-1,) * len(tensors) + (1,) * len(names)
            beside = tuple(piece.axis for piece in pieces)
            if not {*tensors} & {*names}:
                yield Radial((*tensors, *names), powers, size, (*axes, *beside), (*own, *pieces))
            return


def _rows(carrier: Carrier, value: str, dim: int, product: _Product) -> tuple[tuple[str, ...], list[Piece]] | None:
    """The rows of a map that write a value, those of each position along an axis together, if all are read here."""
    flow, way = carrier.flow, _back(carrier.flow, value, shared=True)
    writer = flow.applied.get(way.start)
    made = _written(flow, writer) if writer is not None else None
    if made is None:
        return None
    at = way.along(flow, made.dim)
    rows = [torch.unique(own) for own in at.movedim(dim, 0).reshape(at.shape[dim], -1)]
    order = [int(row) for own in rows for row in own]
    through = {product.applied.node.name, *(node.name for node in way.nodes)}
    for user, _, numbers in ends(carrier, made):
        if user not in through and not set(order).isdisjoint((torch.unique(numbers) - 1).tolist()):
            return None
    if len({len(own) for own in rows}) != 1 or len(set(order)) != len(order):
        return None
    axes = zip(made.tensors, made.axes, strict=True)
    likes = (Piece(name, axis, 0, len(order), Leaf(-1, -1, False, len(order))) for name, axis in axes)
    pieces = [placed(like, order) for like in likes]
    known = [piece for piece in pieces if piece is not None]
    return (made.tensors, known) if len(known) == len(pieces) else None


# -- ways --------------------------------------------------------------------------------------------------------------


def _back(flow: Flow, value: str, *, shared: bool = False) -> _Way:
    """From what is more than another value, moved, or a multiple of it; parts may be `shared` with other calls."""
    nodes: list[Node] = []
    node = flow.graph.by_name[value]
    while (moves := _moves(flow, node)) or _multiplies(flow, node):
        # Behind a multiple nobody follows what else reads it.
        read = [node] if moves else [node, *nodes]
        if not (shared and moves) and not all(_is_read_once(flow, n.name) for n in read):
            break
        nodes.append(node)
        node = flow.graph.by_name[next(iter(node.refs()))]
    return _Way(node.name, tuple(reversed(nodes)))


def _onward(flow: Flow, node: Node) -> _Way | None:
    """From a value to one that a call with several operands reads; None where it is read more than once."""
    nodes: list[Node] = []
    here = node
    while len(flow.graph.users[here.name]) == 1 and here.name not in flow.graph.outputs:
        (user,) = flow.graph.users[here.name]
        if not (_moves(flow, user) or _multiplies(flow, user)):
            return _Way(node.name, tuple(nodes))
        nodes.append(user)
        here = user
    return None


def _is_read_once(flow: Flow, value: str) -> bool:
    return len(flow.graph.users[value]) == 1 and value not in flow.graph.outputs


def _moves(flow: Flow, node: Node) -> bool:
    applied = flow.applied.get(node.name)
    return applied is not None and applied.rule.structure in MOVING and len(list(node.refs())) == 1


def _multiplies(flow: Flow, node: Node) -> bool:
    """Whether a call multiplies each entry of its one operand by a fixed number, wherever it stands."""
    applied = flow.applied.get(node.name)
    if applied is None or applied.rule.structure is not None or len(list(node.refs())) != 1:
        return False
    (_, tokens), *_ = applied.binding.operands.values()
    entrywise = list(applied.binding.results) == [tokens] and all(token.axis == "*" for token in tokens)
    return entrywise and SymmetryClass.INVERTIBLE in applied.rule.admits.get("*", ())


def _is_line(at: Tensor, dim: int) -> bool:
    """Whether numbers are those of the positions along an axis, in order."""
    line = torch.arange(at.shape[dim]).reshape([-1 if i == dim else 1 for i in range(at.dim())])
    return bool((at == line).all())


def _has_axes(a: Applied) -> bool:
    """Whether the rule of a call names the axes of its one result."""
    named = a.rule.structure is None and len(a.binding.results) == 1 and isinstance(a.node.result, Meta)
    return named and a.node.is_floating and len(a.binding.results[0]) == len(a.node.shape)


def _is_alone(product: _Product) -> bool:
    """Whether a call does the same at each position by itself, so that a factor stays where it is."""
    token = product.applied.binding.results[0][product.dim]
    bound = product.applied.rule.admits.get("..." if token.batch else token.axis)
    return token.batch or (bound is not None and SymmetryClass.SEMI_PERMUTATION in bound)


def _is_free(a: Applied, token: AxisToken) -> bool:
    bound = a.rule.admits.get("..." if token.batch else token.axis, ())
    return token.claimed and SymmetryClass.INVERTIBLE in bound


def _own(flow: Flow, name: str, dim: int) -> tuple[str, int] | None:
    """The parameter that one call reads, also with its axes seen otherwise, and which of its own one of these is."""
    node = flow.graph.by_name[name]
    if len(flow.graph.users[name]) != 1:
        return None
    if node.kind is Kind.PARAMETER:
        return (node.target, dim) if node.target in flow.d.terms else None
    part = part_of(flow, name)
    if part is None or not part.is_all or len(part.axes[dim]) > 1 or len(flow.graph.users[part.parameter.name]) > 1:
        return None
    return part.parameter.target, part.axes[dim][0]


def _written(flow: Flow, a: Applied) -> LinearMap | None:
    """The map by which a call makes its result along an axis of parameters that nothing else reads."""
    if not _has_axes(a):
        return None
    for dim, token in enumerate(a.binding.results[0]):
        both = [(r.name, [t.name for t in ts]) for r, ts in a.binding.operands.values()]
        held = [_own(flow, name, names.index(token.name)) for name, names in both if token.name in names]
        known = [one for one in held if one is not None]
        if known and len(known) == len(held) and _is_free(a, token):
            return LinearMap(a, dim, tuple(name for name, _ in known), tuple(axis for _, axis in known))
    return None


def _is_scaled(flow: Flow, value: str, dim: int) -> bool:
    """Whether a space has scales for the positions along an axis already."""
    frames = {leaf.frame for leaf in leaves(flow.d.values[value][dim]) if leaf.frame >= 0}
    return any(SymmetryClass.POSITIVE_MONOMIAL in flow.bound(frame) for frame in frames)
