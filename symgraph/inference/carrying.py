"""Constants on their way through the graph: which entry of a constant stands at which position of a value.

A constant is carried by the laws that rules declare: `adds` and `shift: output` pass it on, `shift: none`, `blind` and
`centred` end it, a weight multiplies it. Whatever else it meets sees it. Positions are kept as numbers, so that views
and transpositions are simply carried out on them, and two constants agree only where their entries stand in one order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.applied import Applied
from symgraph.inference.entry_numbers import Numbers, Window, dims_in, moved
from symgraph.inference.flow import BLANK, Flow
from symgraph.inference.learned_gains import LearnedGain, LearnedGains
from symgraph.inference.matrix_parts import Axes, Part, along, numbered_along, part_of
from symgraph.inference.relays import Relay
from symgraph.inference.uses import Chosen, Outlet, Passed, Read, Seen, Spot, Uneven, Use
from symgraph.ir import Node
from symgraph.ir import Tensor as Meta
from symgraph.rules.signature import Tokens
from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.families import Hop
from symgraph.symmetry.terms import Concat, Term, in_order_met, over_leaves
from symgraph.tracing.interpreter import call


@dataclass(frozen=True, slots=True)
class _Met:
    """A matrix, or a part of one, that meets an operand by an axis: where it writes what it makes of that.

    `axis` is the part's, `dim` the operand's, and `beside` are the others of that.
    """

    part: Part
    axis: int
    dim: int
    beside: tuple[int, ...]
    outlet: Outlet


class Carrier:
    """What each operator does to a constant; `equal` gathers rows of tables that an operator does not tell apart."""

    def __init__(self, flow: Flow) -> None:
        self.flow, self.graph = flow, flow.graph
        self.equal: list[tuple[int, Window]] = []
        self.gains = LearnedGains(flow)

    def uses(self, value: str, user: Node, spot: Spot) -> Iterator[Use]:
        """What a node does with a constant in a value that it reads: one use for each time that it reads it."""
        a = self.flow.applied.get(user.name)
        relay = self.flow.d.eq.prepared.relays.get((value, user.name))
        # Of a value without entries nothing tells what becomes of it.
        if a is None or user.name in self.flow.d.eq.slots or not spot.numbers.at.numel():
            yield Seen()
        elif relay is not None and relay.end in self.graph.by_name and spot.numbers.is_constant(relay.dim):
            yield self._relayed(relay, spot)
        elif a.rule.structure:
            yield from self._moved(value, a, spot)
        else:
            operands = [k for k, (r, _) in a.binding.operands.items() if r.name == value]
            if len(operands) != list(user.refs()).count(value):
                yield Seen()
            for k in operands:
                yield from self.operand(a, k, spot)

    def read_unseen(self, value: str, user: Node, spot: Spot) -> Iterator[Read]:
        """The matrices by which a call reads a value of which it does not see a constant: learned queries."""
        a = self.flow.applied.get(user.name)
        operands = a.binding.operands if a is not None and not a.rule.structure else {}
        for operand, (ref, _) in operands.items():
            law = a.rule.shift.get(operand) if a is not None and ref.name == value else None
            if a is not None and law in operands and operand in a.rule.blind:
                use = self._read(a, operand, law, spot)
                yield from [use] if isinstance(use, Read) else []

    def _relayed(self, relay: Relay, spot: Spot) -> Use:
        alike, shape = self._alike(spot, [relay.dim]), self.graph.by_name[relay.end].shape
        if alike is None:
            return Seen()
        return Passed(relay.end, alike.at(alike.numbers.narrowed(relay.dim, 0, 1).spread(shape)))

    # -- operators that move entries ---------------------------------------------------------------------------------

    def _moved(self, value: str, a: Applied, spot: Spot) -> Iterator[Use]:
        structure, node = a.rule.structure, a.node
        if structure in BLANK:
            return
        picked = self._picked(value, node, spot) if structure == "index" else spot
        if structure == "rigid" or picked is None or "complex" in str(node.result):
            yield Seen()
        elif isinstance(node.result, Meta):
            yield from self._arrived(value, picked, (node,))
        else:
            for user in self.graph.users[node.name]:
                part = self.flow.applied.get(user.name)
                if part is None or part.rule.structure != "getitem":
                    yield Seen()
                else:
                    yield from self._arrived(value, picked, (node, user))

    def _arrived(self, value: str, spot: Spot, nodes: tuple[Node, ...]) -> Iterator[Use]:
        role = list(nodes[0].refs()).index(value)
        numbers = spot.numbers.once(
            (role, self.graph.form(nodes[0]), *(node.form for node in nodes[1:])),
            lambda: spot.numbers.moved(partial(self.carried_out, value, nodes)),
        )
        if numbers.stands_anywhere():
            yield Passed(nodes[-1].name, spot.at(numbers))

    def carried_out(self, value: str, nodes: tuple[Node, ...], numbers: Tensor) -> Tensor:
        """What operators that are linear in a value make of it, if all else is zero."""
        given = {ref: numbers if ref == value else self._zero(ref) for ref in nodes[0].refs()}
        nothing = {**given, value: torch.zeros_like(numbers)} if "pad" in nodes[0].target else None
        found = moved(self.graph, nodes, given)
        return found if nothing is None else found - moved(self.graph, nodes, nothing)

    def _zero(self, value: str) -> Tensor:
        meta = self.graph.by_name[value].result
        kind = getattr(torch, meta.dtype) if isinstance(meta, Meta) else torch.float64
        kind = torch.float64 if kind.is_floating_point else kind
        return torch.zeros((), dtype=kind).expand(self.graph.by_name[value].shape)

    def _picked(self, value: str, node: Node, spot: Spot) -> Spot | None:
        """The spot if it is the same at all positions that computed indices may pick."""
        if next(iter(node.refs())) != value:
            return None
        index = node.args[1] if len(node.args) > 1 else None
        dims = [i for i, x in enumerate(index) if x is not None] if isinstance(index, list | tuple) else None
        return None if dims is None else self._alike(spot, dims)

    # -- operators with a signature ----------------------------------------------------------------------------------

    def operand(self, a: Applied, operand: str, spot: Spot) -> Iterator[Use]:
        """What a call does with a constant in one of its operands."""
        uses = list(self._operand(a, operand, spot))
        uneven = list(self._uneven(a, operand, spot)) if Seen() in uses and not spot.even else []
        yield from uneven[:1] or uses

    def _uneven(self, a: Applied, operand: str, spot: Spot) -> Iterator[Uneven]:
        for dim in range(spot.numbers.at.dim()):
            everywhere = spot.numbers.one_everywhere(dim)
            if everywhere is not None and Seen() not in self._operand(a, operand, spot.at(everywhere)):
                yield Uneven(a, operand, dim, spot)

    def _operand(self, a: Applied, operand: str, spot: Spot) -> Iterator[Use]:
        rule, binding = a.rule, a.binding
        tokens = binding.operands[operand][1]
        law = "output" if operand == rule.adds else rule.shift.get(operand)
        unseen = rule.blind.get(operand)
        if rule.centred and operand == next(iter(binding.operands)):
            unseen = rule.centred
        if unseen is not None or law == "none":
            dims = [i for i, token in enumerate(tokens) if token.axis in unseen.split()] if unseen else _mixed(tokens)
            if self._alike(spot, dims) is None:
                yield Seen()
        elif law in ("output", "minus"):
            yield self._added(a, operand, spot if law == "output" else replace(spot, factor=-spot.factor))
        elif operand in (*rule.chooses, *rule.differs):
            yield self._compared(a, operand, spot)
        elif law is not None:
            yield self._read(a, operand, law, spot)
        else:
            yield from self._multiplied(a, operand, spot)

    def _added(self, a: Applied, operand: str, spot: Spot) -> Seen | Passed:
        made = self._one_result(a)
        if made is None:
            return Seen()
        tokens, result = a.binding.operands[operand][1], a.binding.results[0]
        kept = {token.name for token in result}
        gone = [i for i, token in enumerate(tokens) if token.name not in kept and spot.numbers.at.shape[i] > 1]
        alike = self._alike(spot, gone)
        if alike is None:
            return Seen()
        return Passed(made.name, alike.at(alike.numbers.laid_out(dims_in(result, tokens), made.shape)))

    def _one_result(self, a: Applied) -> Node | None:
        """The value that a call makes, or the first of several where nothing asks for the others."""
        if isinstance(a.node.result, Meta):
            return a.node
        picked = self.graph.users[a.node.name]
        first = len(picked) == 1 and picked[0].target == "getitem" and picked[0].args[1] == 0
        return picked[0] if first and len(a.binding.results) == 1 else None

    def _compared(self, a: Applied, operand: str, spot: Spot) -> Seen | Chosen:
        arrived, rule = self._added(a, operand, spot), a.rule
        if isinstance(arrived, Seen):
            return arrived
        passes = operand in rule.chooses
        return Chosen(a.node.name, arrived.spot, operand == (rule.chooses if passes else rule.differs)[0], passes)

    def _multiplied(self, a: Applied, operand: str, spot: Spot) -> Iterator[Use]:
        """What a number makes of a constant, one that the code holds or one that is learned, or a gain."""
        gain = self.flow.once((LearnedGain, a.node.name, operand), lambda: self.gains.of(a, operand))
        if gain is None:
            yield self._scaled(a, spot)
        elif gain.number is not None:
            (index, path), factor = spot.name, self._hop(gain.number, gain.number)
            # Numbers commute with matrices: in front of these their order says nothing.
            numbers = sorted([factor, *(hop for hop in path if hop.is_number)], key=lambda h: h.reader.place)
            way = (*numbers, *(hop for hop in path if not hop.is_number))
            yield Passed(a.node.name, replace(spot, name=(index, way)))
        else:
            yield from self._gained(a, gain, spot)

    def _gained(self, a: Applied, gain: LearnedGain, spot: Spot) -> Iterator[Use]:
        """What a gain makes of a constant along its axis, part by part."""
        others = [i for i in range(spot.numbers.at.dim()) if i != gain.dim]
        alike = self._alike(spot, others)
        if alike is None:
            yield self._gained_within(a, gain, spot)
            return
        alike = self.told_apart(alike, gain.dim)
        line, (index, path) = spot.numbers.line(gain.dim), spot.name
        for reader, rows in gain.parts:
            place = reader.shifted(-gain.start).run
            if not line.of(place).stands_anywhere():
                continue
            # A part of one entry is no number that multiplies all of them.
            if reader.size == 1 or not _is_held(line.of(place), spot, reader.term):
                yield Seen()
                return
            name = index, (*path, self._hop(reader, rows))
            numbers = numbered_along(self.flow, rows.shifted(-gain.start).run, gain.dim, a.node.shape)
            made = replace(alike, name=name, term=rows.term, numbers=numbers, window=spot.span, even=False)
            yield Passed(a.node.name, made)

    def _gained_within(self, a: Applied, gain: LearnedGain, spot: Spot) -> Use:
        """What a gain for each head makes of a constant that has an entry for each position inside of heads as well."""
        (reader, rows), *more = gain.parts
        shape, numbers = a.node.shape, spot.numbers
        if more or spot.even or numbers.rows is not None or tuple(numbers.at.shape) != shape:
            return Seen()
        heads = over_leaves(torch.arange(reader.size), reader.term, spot.term)
        if heads is None or len(heads) != spot.entries or reader.size != shape[gain.dim]:
            return Seen()
        along = torch.arange(reader.size).reshape([-1 if i == gain.dim else 1 for i in range(len(shape))]).expand(shape)
        stands = numbers.at > 0
        if not torch.equal(heads[numbers.at[stands].long() - 1], along[stands]):
            return Seen()
        index, path = spot.name
        hop = replace(self._hop(reader, rows), within=spot.term)
        return Passed(a.node.name, replace(spot, name=(index, (*path, hop))))

    def _hop(self, reader: Piece, rows: Piece) -> Hop:
        """What multiplies, by the parameter that it is stored in."""
        stored = self.flow.d.eq.prepared.offsets.get(reader.parameter)
        return Hop(reader, rows, stored is not None and stored.is_positive)

    def _scaled(self, a: Applied, spot: Spot) -> Use:
        """An operator of one operand that admits all maps entry by entry multiplies every entry by one number."""
        refs = list(a.node.refs())
        if len(refs) != 1 or SymmetryClass.INVERTIBLE not in a.rule.admits.get("*", ()):
            return Seen()
        one = {refs[0]: torch.ones(1, dtype=torch.float64)}
        value = self.graph.answers.once((call, a.node.form), partial(call, self.graph, a.node.name, one))
        if value.numel() != 1 or not float(value):
            return Seen()
        return Passed(a.node.name, replace(spot, factor=spot.factor * float(value)))

    def _read(self, a: Applied, operand: str, law: str, spot: Spot) -> Use:
        met = self.flow.once((a.node.name, operand, law), lambda: self._met(a, operand, law))
        alike = self._alike(spot, met.beside) if met is not None else None
        readers = self._readers(met, alike) if met is not None and alike is not None else None
        if met is None or alike is None or not readers:
            return Seen()
        self.told_apart(alike, met.dim)
        return Read(a, met.part, readers, met.outlet)

    def _met(self, a: Applied, operand: str, law: str) -> _Met | None:
        """How a matrix that a law names meets an operand; None where there is none, or where it meets it otherwise."""
        binding = a.binding
        part = part_of(self.flow, binding.operands[law][0].name) if law in binding.operands else None
        if part is None:
            return None
        tokens, others, result = binding.operands[operand][1], binding.operands[law][1], binding.results[0]
        names = [token.name for token in result]
        met = [i for i, t in enumerate(others) if t.name not in names]
        here = [i for i, token in enumerate(tokens) if met and token.name == others[met[0]].name]
        if len(met) != 1 or len(here) != 1 or others[1 - met[0]].name not in names:
            return None
        outlet = self.outlet(a, part.value, part.axes[1 - met[0]])
        beside = tuple(i for i in range(len(tokens)) if i != here[0])
        return None if outlet is None else _Met(part, met[0], here[0], beside, outlet)

    def outlet(self, a: Applied, value: str, axes: Axes) -> Outlet | None:
        """Where what a matrix makes along these axes stands in a call's result; None if it does not, or is read twice.

        Args:
            value: the matrix, or a part of it.
        """
        operand, part = self.flow.operand(a, value), part_of(self.flow, value)
        if operand is None or part is None or axes not in part.axes:
            return None
        dim = part.axes.index(axes)
        names = [token.name for token in a.binding.results[0]]
        name = a.binding.operands[operand][1][dim].name
        return Outlet(axes, names.index(name), part.places[dim]) if name in names else None

    def written(self, reader: Piece, spot: Spot, node: Node, outlet: Outlet) -> Iterator[Spot]:
        """What a matrix makes of a constant that it reads by a piece, in all parts of a call's result that it has."""
        (number, path), across = spot.name, along(self.flow, reader.parameter, outlet.axes)
        length = across[0].length(self.graph.state[reader.parameter].shape)
        for piece in across:
            numbers = numbered_along(self.flow, piece.run, outlet.dim, node.shape, length, outlet.places)
            if numbers.stands_anywhere():
                way = (number, (*path, Hop(reader, piece)))
                yield replace(spot, name=way, term=piece.term, numbers=numbers, window=spot.span, even=False)

    def _readers(self, met: _Met, spot: Spot) -> tuple[Piece, ...] | None:
        """The pieces along an axis where all entries of a constant stand, in the order that their leaves say."""
        part, axes, numbers = met.part, met.part.axes[met.axis], spot.numbers
        name = part.parameter.target
        like = Piece(name, axes[0], 0, part.parameter.shape[axes[0]], spot.term, more=axes[1:])
        line = numbers.line(met.dim).put(part.places[met.axis], like.length(part.parameter.shape))
        if isinstance(spot.term, Concat) and not spot.even:
            return _run(like, line.at)
        found = [piece for piece in along(self.flow, name, axes) if line.of(piece.run).stands_anywhere()]
        return tuple(found) if all(_is_held(line.of(piece.run), spot, piece.term) for piece in found) else None

    def _alike(self, spot: Spot, dims: Iterable[int]) -> Spot | None:
        """The spot if its entries are the same all along these dimensions; rows are it too, or have to be equal."""
        dims = list(dims)
        if not all(map(spot.numbers.is_constant, dims)):
            return None
        for dim in dims:
            spot = self.told_apart(spot, dim)
        return spot

    def told_apart(self, spot: Spot, dim: int) -> Spot:
        """The spot with rows of its table that are the same all along a dimension; else all have to be equal."""
        if not spot.numbers.tells_rows_apart(dim):
            return spot
        span = spot.span
        if span is not None:
            self.equal.append((spot.name[0], span))
        return replace(spot, numbers=spot.numbers.without_rows(), window=span)


def _is_held(line: Numbers, spot: Spot, term: Term) -> bool:
    """Whether a constant stands all along a line that is made of a term: entry by entry, or as the one number it is."""
    return line.stands_everywhere() if spot.even else _is_in_order(line, spot, term)


def _is_in_order(line: Numbers, spot: Spot, term: Term) -> bool:
    """Whether all entries of a constant stand in a line that is made of a term, in the order that the leaves say."""
    return line.once((spot.entries, *in_order_met(spot.term, term)), partial(_stand_in_order, line, spot, term))


def _stand_in_order(line: Numbers, spot: Spot, term: Term) -> bool:
    entries = torch.arange(1, spot.term.size + 1, dtype=line.at.dtype)
    wanted = over_leaves(entries.clamp_max(spot.entries), spot.term, term)
    return wanted is not None and torch.equal(wanted, line.at)


def _run(like: Piece, whole: Tensor) -> tuple[Piece, ...] | None:
    """The run along an axis where entries counted from one stand in order, if they stand nowhere else."""
    start = int(torch.nonzero(whole)[0])
    stop = start + like.term.size
    alone = int((whole > 0).sum()) == like.term.size
    counted = torch.arange(1, like.term.size + 1, dtype=whole.dtype)
    return (replace(like, start=start, stop=stop),) if alone and torch.equal(whole[start:stop], counted) else None


def _mixed(tokens: Tokens) -> list[int]:
    """The axes of an operand along which a constant that a law speaks about does not vary."""
    feature = next((token.name for token in reversed(tokens) if token.claimed and not token.batch), "")
    return [i for i, token in enumerate(tokens) if token.name != feature and not token.batch]
