"""Readers of centred norms: what they read lies in a plane, so that one direction of them adds a constant alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod

from symgraph.inference.applied import Applied
from symgraph.inference.carrying import Carrier
from symgraph.inference.flow import Flow
from symgraph.inference.matrix_parts import Part, line_of, numbered_along
from symgraph.inference.uses import Passed, Read, Spot
from symgraph.ir import Node
from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.families import Hop, Plane, Port
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, leaf_keys, leaves, multiplied


@dataclass(frozen=True, slots=True)
class PlaneReader:
    """A matrix that reads a norm's output by one leaf, of this frame, or by several of which this is the first.

    `nodes` are the calls that read from this plane, in the order of the program, and `elsewhere` all others that use
    the matrix; `bias` is its own at each of them, or ''. Where calls read parts of the matrix, or add different biases,
    there are no `nodes` and no `bias`, but `elsewhere` are still those alone that read from anywhere else.
    """

    nodes: tuple[str, ...]
    plane: Plane
    axis: int
    bias: str
    elsewhere: tuple[str, ...]
    frame: int

    @property
    def is_even(self) -> bool:
        """Whether the plane is that of means along leaves side by side: neither a gain nor a bias tilts it."""
        plain = not any(isinstance(part, Product) for part in _parts(self.plane.reader.term))
        return plain and not self.plane.named and not self.plane.level


@dataclass(frozen=True, slots=True)
class PlaneReading:
    """One reading of what a centred norm makes, the plane that it lies in, and what the norm's axis is made of."""

    read: Read
    plane: Plane
    made: Term


def find_readings(flow: Flow) -> Iterator[PlaneReading]:
    """Every reading of what a centred norm makes, or of weights that sum to one, in the order of the program."""
    carrier = Carrier(flow)
    for a, (gain, bias), axis in (*norms(flow), *_weights(flow)):
        made, level = flow.d.values[a.node.name][axis], float(a.rule.weights is not None)
        for read, factor in reads_of(carrier, a, axis):
            # Several rows of weights that are read as one sum to as many ones.
            single = not level or read.readers[0].size == made.size
            if single and _is_plain(read.readers[0].term):
                plane = Plane(read.readers[0], gain, bias, factor if bias else 1.0, factor * level)
                yield PlaneReading(read, plane, made)


def find_readers(flow: Flow, readings: Iterable[PlaneReading]) -> list[PlaneReader]:
    """Every matrix that reads what a centred norm makes, in the order of the program."""
    found: dict[Plane, list[Read]] = defaultdict(list)
    for reading in readings:
        plane, term = reading.plane, reading.plane.reader.term
        # A product that is read in another order than the gain's has no normal that the gain alone tells.
        ordered = not plane.gain or len(_parts(term)) > 1 or _factors(term) == _factors(reading.made)
        if ordered and not plane.reader.more:
            found[plane].append(reading.read)
    return [reader_of(flow, plane, reads) for plane, reads in found.items()]


def find_window_readers(flow: Flow, readings: Iterable[PlaneReading]) -> Iterator[PlaneReader]:
    """Matrices that read several positions of what a centred norm makes as one, by an axis of their own at each.

    Each position lies in the plane; the bias of such a reader is not told, since what reaches it comes from them all.
    """
    for reading in readings:
        piece, terms = reading.plane.reader, flow.d.terms[reading.plane.reader.parameter]
        entries = prod(terms[axis].size for axis in piece.axes)
        if piece.more and _factors(terms[piece.axis]) == _factors(reading.made) and piece.size == entries:
            own = replace(reading.plane, reader=whole(flow, piece.parameter, piece.axis))
            yield replace(reader_of(flow, own, [reading.read]), nodes=(), bias="")


def reader_of(flow: Flow, plane: Plane, reads: list[Read]) -> PlaneReader:
    """A matrix with all calls that use it: those that read from a plane, and the others."""
    users = [user.name for user in flow.graph.users[reads[0].part.parameter.name]]
    here = {read.part.first or read.applied.node.name for read in reads if _is_read_here(flow, read.part, reads)}
    nodes, elsewhere = (tuple(user for user in users if (user in here) == inside) for inside in (True, False))
    biases, frame = {flow.bias(read.applied) for read in reads}, leaf_keys(plane.reader.term)[0][0]
    bias = biases.pop()
    (first, *more) = reads
    if not more and not elsewhere and first.part.first and first.part.is_all:
        nodes = (first.applied.node.name,)
    elif biases or any(read.part.first for read in reads):
        nodes, bias = (), None
    name = bias.target if bias is not None else ""
    return PlaneReader(nodes, plane, plane.reader.axis, name, elsewhere, frame)


def has_height(flow: Flow, plane: Plane) -> bool:
    """Whether the plane's bias says how high it lies: a reader of several positions at once reads it more than once.

    What is a part of a parameter has no name in a state, so that it says nothing until it has moved on.
    """
    bias = flow.graph.state.get(plane.bias)
    return not plane.bias or (bias is not None and bias.shape == (plane.reader.size,))


def may_tie(flow: Flow, reader: PlaneReader) -> bool:
    """Whether a table that reads a norm's output as well may get multiples of the normal in all its rows."""
    plane = reader.plane
    shape = flow.graph.state[plane.reader.parameter].shape
    whole_axis = len(shape) == 2 and (plane.reader.axis, plane.reader.size) == (1, shape[1])
    alone = bool(reader.nodes) and bool(reader.elsewhere)
    known = bool(reader.bias) and has_height(flow, plane)
    return whole_axis and alone and (known or not plane.raised)


def _is_read_here(flow: Flow, part: Part, reads: list[Read]) -> bool:
    """Whether a part of a matrix is made and read for these readings alone; a whole one may be read elsewhere."""
    calls = {read.applied.node.name for read in reads if read.part.value == part.value}
    return not part.first or (part.alone and calls >= {user.name for user in flow.graph.users[part.value]})


def reads_of(carrier: Carrier, a: Applied, axis: int) -> Iterator[tuple[Read, float]]:
    """The matrices that what a call makes reaches, along an axis, by operators of one operand, or beside others.

    Each with the number that the operators on the way multiply by.
    """
    flow = carrier.flow
    term = flow.d.values[a.node.name][axis]
    made = numbered_along(flow, (0, term.size, 1, 0), axis, a.node.shape)
    todo = [(a.node.name, Spot((-1, ()), term, made))]
    while todo:
        value, spot = todo.pop(0)
        for user in flow.graph.users[value]:
            applied = flow.applied.get(user.name)
            keeps = applied is not None and _keeps_plane(flow, applied, value, term)
            for use in (*carrier.uses(value, user, spot), *carrier.read_unseen(value, user, spot)):
                if isinstance(use, Read) and len(use.readers) == 1:
                    yield use, spot.factor
                elif isinstance(use, Passed) and keeps:
                    todo.append((use.value, use.spot))


def _keeps_plane(flow: Flow, applied: Applied, value: str, term: Term) -> bool:
    """Whether what a call makes of a value lies in the same plane: it moves entries, is linear, or makes means of rows.

    What adds a number leaves the plane. Weights that sum to one, as those of attention do, pass on a constant.
    """
    if applied.rule.structure in ("cat", "index") or flow.is_one(applied):
        return True
    # What passes on a constant by several calls, as a relay does, may add something on the way.
    if (value, applied.node.name) in flow.d.eq.prepared.relays:
        return False
    if set(applied.node.refs()) == {value}:
        return applied.rule.structure is not None or flow.is_linear(applied)
    operand, rule = flow.operand(applied, value), applied.rule
    passing = [name for name, law in rule.shift.items() if law in ("output", "minus")]
    if operand is None or passing != [operand] or rule.adds in applied.binding.operands:
        return False
    # Whatever else is read has no part of the axis: it says how the rows are mixed, and adds nothing to them.
    others = [tokens for name, (_, tokens) in applied.binding.operands.items() if name != operand]
    elsewhere = {token.name for tokens in others for token in tokens}
    free = [flow.free(applied, operand, leaf.frame) for leaf in leaves(term)]
    return None not in free and elsewhere.isdisjoint(free)


def norms(flow: Flow) -> Iterator[tuple[Applied, tuple[str, str], int]]:
    """Every centring node with its gain and bias (each may be ''), and where the axis stands in its result."""
    for applied in flow.d.eq.applied:
        i = flow.centred_axis(applied)
        if i is None or len(applied.binding.results) != 1:
            continue
        axis = next(j for j, token in enumerate(applied.binding.results[0]) if token.name == applied.rule.centred)
        gain = "" if flow.absorbed(applied) else named(flow, applied, applied.rule.gain)
        bias = _bias(flow, applied)
        if gain is not None and bias is not None and _is_plain(flow.d.values[applied.node.name][axis]):
            yield applied, (gain, bias), axis


def _weights(flow: Flow) -> Iterator[tuple[Applied, tuple[str, str], int]]:
    """Every call whose entries sum to one along an axis, without gain and bias, and where this stands in its result."""
    for applied in flow.d.eq.applied:
        if applied.rule.weights is None or len(applied.binding.results) != 1:
            continue
        names = [token.name for token in applied.binding.results[0]]
        axis = names.index(applied.rule.weights)
        if _is_plain(flow.d.values[applied.node.name][axis]):
            yield applied, ("", ""), axis


def _is_plain(term: Term) -> bool:
    """Whether an axis is made of leaves alone, side by side or one within another."""
    return all(isinstance(factor, Leaf) for part in _parts(term) for factor in multiplied(part))


def _factors(term: Term) -> list[tuple[int, int]]:
    return [(leaf.frame, leaf.size) for leaf in multiplied(term) if isinstance(leaf, Leaf)]


def _parts(term: Term) -> tuple[Term, ...]:
    return term.parts if isinstance(term, Concat) else (term,)


def _bias(flow: Flow, a: Applied) -> str | None:
    """The parameter that a norm adds, or what tells the part of one; None where it is anything else."""
    found = named(flow, a, a.rule.adds)
    if found is not None:
        return found
    node = flow.graph.by_name[a.binding.operands[str(a.rule.adds)][0].name]
    line = line_of(flow, node.name)
    return None if line is None or len(node.shape) != 1 else part_name(*line)


def part_name(parameter: str, start: int, size: int) -> str:
    """What tells a part of a parameter of one axis."""
    return f"{parameter}[{start}:{start + size}]"


def named(flow: Flow, a: Applied, operand: str | None) -> str | None:
    """Parameter of an optional operand; '' where it is left out, None where it is more than one vector."""
    if operand not in a.binding.operands:
        return ""
    node: Node = flow.graph.by_name[a.binding.operands[operand][0].name]
    known = node.target in flow.graph.state and len(node.shape) == 1
    return node.target if known else None


def whole(flow: Flow, parameter: str, axis: int) -> Piece:
    """All entries along one axis of a parameter."""
    term = flow.d.terms[parameter][axis]
    return Piece(parameter, axis, 0, term.size, term)


def is_in_a_space(source: Port, hop: Hop) -> bool:
    """Whether a space that is wide enough moves the source alone in some direction that the matrix behind makes even.

    What is written has to depend on no more directions than the space has: those of the plane.
    """
    width = max((leaf.size for leaf in leaves(source.piece.term)), default=1)
    copies = hop.reader.size // source.piece.size
    determined = source.plane is None or width >= source.plane.reader.size
    return determined and width > copies * (hop.rows.size - 1)
