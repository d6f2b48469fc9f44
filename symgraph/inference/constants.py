"""All families of constants as one null space (design section 7).

*Sources* are the entries of biases and of added tables, the constants that all rows of a table get where it is looked
up, and for each reader of a centred norm without a bias of its own the bias that it has by the plane it reads from.
They are carried through the graph; where something sees what arrives, its sum must vanish. A reader with a bias,
its own or by a plane, takes whatever constant reaches it. The solutions of all these equations are the families.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from symgraph.inference.carrying import Carrier
from symgraph.inference.common_constants import differences, in_common
from symgraph.inference.constant_parts import ConstantParts
from symgraph.inference.entry_numbers import Numbers
from symgraph.inference.flow import Flow
from symgraph.inference.matrix_parts import along, numbered_along
from symgraph.inference.null_space import Axes, Row, Solution, Summand, Unknown, Windows, equations, read_by_one, solve
from symgraph.inference.planes import PlaneReader, has_height, is_in_a_space, may_tie, whole
from symgraph.inference.summed import difference, gathered, merged, sums
from symgraph.inference.table_entries import covered, entries, row_axis
from symgraph.inference.uses import Chosen, Passed, Read, Seen, Spot, Uneven, Use
from symgraph.ir import Kind, Node
from symgraph.symmetry.axis_parts import Piece, Place
from symgraph.symmetry.families import Constant, Hop, Plane, Port, Share
from symgraph.symmetry.terms import leaves

Lent = Mapping[str, tuple[str, ...]]
Calls = tuple[str, ...]
# Constants that a call reads: by which value, a matrix or a part of one, and by which piece of it.
_Readings = dict[tuple[str, Piece], list[Spot]]


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a bias, its own or by a plane, takes of a constant that reaches the matrix in front of it."""

    term: Summand
    hop: Hop
    port: Port


@dataclass
class System:
    """Sources, and what becomes of them: sums that something sees, constants that biases take.

    With `even` constants have equal entries, so that `centred` and `blind` end them; the places named there, in which
    they are means that nothing sees anyway, are left out.
    """

    flow: Flow
    readers: list[PlaneReader]
    lent: Lent
    even: frozenset[Place] | None = None
    ports: list[Port] = field(default_factory=list)
    numbers: dict[Port, int] = field(default_factory=dict)
    acts: list[int] = field(default_factory=list)
    tied: dict[int, PlaneReader] = field(default_factory=dict)
    sums: list[tuple[Summand, ...]] = field(default_factory=list)
    taken: list[_Taken] = field(default_factory=list)
    carrier: Carrier = field(init=False)
    parts: ConstantParts = field(init=False)
    by_plane: dict[str, PlaneReader] = field(init=False)
    order: dict[str, int] = field(init=False)
    used: set[tuple[str, str]] = field(default_factory=set)
    chosen: dict[str, list[Spot]] = field(default_factory=lambda: defaultdict(list))
    shared: dict[str, Calls] = field(default_factory=dict)
    read: dict[str, _Readings] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def __post_init__(self) -> None:
        self.carrier = Carrier(self.flow)
        self.parts = self.flow.once(ConstantParts, lambda: ConstantParts(self.flow))
        self.order = {node.name: i for i, node in enumerate(self.flow.graph.nodes)}
        free = {
            reader.plane.reader.parameter: reader
            for reader in self.readers
            if reader.plane.raised and not reader.bias and not reader.elsewhere and has_height(self.flow, reader.plane)
        }
        self.by_plane = {node: reader for reader in free.values() for node in reader.nodes}

    def carried(self) -> System:
        """The same, once all sources have been followed to their ends."""
        arriving: dict[str, list[Spot]] = defaultdict(list)
        for node in self.flow.graph.nodes:
            if differing := gathered(self.chosen.pop(node.name, [])):
                self.sums += sums(differing)
            here = gathered([*arriving.pop(node.name, []), *self._sources(node), *self._left_over(node)])
            for use in self._left(node, here) if here else ():
                arriving[use.value].append(use.spot)
        return self

    # -- sources -----------------------------------------------------------------------------------------------------

    def _sources(self, node: Node) -> Iterator[Spot]:
        if node.kind is Kind.PARAMETER or self.flow.takes_constants(node):
            yield from self._of_parameter(node)
        elif node.name in self.by_plane:
            yield from self._of_plane(self.by_plane[node.name], node)

    def _of_parameter(self, node: Node) -> Iterator[Spot]:
        if not node.is_floating or not node.shape or 0 in node.shape or not self.flow.graph.users[node.name]:
            return
        heads = self.reading[node.target] if node.target not in self.lent else []
        # A mean is no multiple of the normal.
        tie = heads[0] if heads and self.even is None else None
        self.used.update((node.name, u) for u in self._exempt(node, tie))
        for piece in self.parts.of(node, even=self.even is not None, alike=node.target in self.lent):
            if self._is_absorbed(piece):
                continue
            if tie is not None:
                self.tied[len(self.ports)] = tie
            numbers = entries(self.flow, piece.axes, piece.run, node.shape)
            yield from self._source(self._first(node), Port(piece), numbers)

    @cached_property
    def reading(self) -> dict[str, list[PlaneReader]]:
        """Tables that may get multiples of a plane's normal in all their rows, with what they read by."""
        found: dict[str, list[PlaneReader]] = defaultdict(list)
        for reader in self.readers:
            if may_tie(self.flow, reader):
                found[reader.plane.reader.parameter].append(reader)
        return found

    def _is_absorbed(self, piece: Piece) -> bool:
        """Whether a gain that is absorbed has these entries: a constant that moved on would leave zeros in it."""
        return any(piece.start <= start < piece.stop for start in self.absorbed[piece.parameter])

    @cached_property
    def absorbed(self) -> dict[str, list[int]]:
        """Where in each parameter gains begin that are absorbed."""
        found: dict[str, list[int]] = defaultdict(list)
        for gain in self.flow.d.gains:
            found[gain.absorbed.parameter].append(gain.absorbed.start)
        return found

    def _exempt(self, node: Node, tie: PlaneReader | None) -> Iterator[str]:
        """The uses of a table that see nothing of what is done to it."""
        if tie is not None:
            yield from tie.nodes
        for user in self.flow.graph.users[node.name] if node.target in self.lent else ():
            if user.name not in self.lent[node.target]:
                yield user.name

    def _of_plane(self, reader: PlaneReader, node: Node) -> Iterator[Spot]:
        name, rank = reader.plane.reader.parameter, len(self.flow.graph.state[reader.plane.reader.parameter].shape)
        across = reader.plane.reader.across(rank)
        outlets = (self.carrier.outlet(self.flow.applied[node.name], value, across) for value in node.refs())
        outlet = next((found for found in outlets if found is not None), None)
        if outlet is None:
            return
        for piece in along(self.flow, name, across):
            numbers = numbered_along(self.flow, piece.run, outlet.dim, node.shape)
            yield from self._source(self.order[reader.nodes[0]], Port(piece, (), reader.plane), numbers)

    def _first(self, node: Node) -> int:
        """When a parameter is first used."""
        return min(self.order[user.name] for user in self.flow.graph.users[node.name])

    def _source(self, acts: int, port: Port, numbers: Numbers) -> Iterator[Spot]:
        if self.even is not None and port.piece.place in self.even:
            return
        if port not in self.numbers:
            self.numbers[port] = len(self.ports)
            self.ports.append(port)
            self.acts.append(acts)
        name, even = (self.numbers[port], ()), self.even is not None
        yield Spot(name, port.piece.term, numbers.even() if even else numbers, even=even)

    # -- uses --------------------------------------------------------------------------------------------------------

    def _left(self, node: Node, here: list[Spot]) -> Iterator[Passed]:
        """What goes on from a value: a sum that something sees is nothing, and goes no further."""
        seen = set(range(len(here))) if node.name in self.flow.graph.outputs else set()
        passed: list[tuple[int, Use]] = []
        uneven: dict[tuple[str, str, int], list[tuple[int, Uneven]]] = defaultdict(list)
        for user in self.flow.graph.users[node.name]:
            if (node.name, user.name) in self.used:
                continue
            uses = [(i, use) for i, spot in enumerate(here) for use in self.carrier.uses(node.name, user, spot)]
            sees = any(isinstance(use, Seen) for _, use in uses)
            for i, use in uses:
                if isinstance(use, Seen) or (sees and isinstance(use, Uneven)):
                    seen.add(i)
                elif isinstance(use, Uneven):
                    uneven[user.name, use.operand, use.dim].append((i, use))
                else:
                    passed.append((i, use))
        if seen:
            self.sums += sums([here[i] for i in sorted(seen)])
        for i, use in passed:
            if i not in seen:
                yield from self._passed(use, here[i])
        for several in uneven.values():
            if not (together := [use for i, use in several if i not in seen]):
                continue
            self.sums += (terms for spots in differences(self.carrier, together) for terms in sums(spots))
            for use, everywhere in in_common(self.carrier, together):
                yield from self._passed(use, everywhere)

    def _passed(self, use: Use, spot: Spot) -> Iterator[Passed]:
        if isinstance(use, Read):
            yield from self._through(use, spot)
        elif isinstance(use, Chosen):
            yield from self._choice(use)
        elif isinstance(use, Passed):
            yield use
        else:
            self.sums += sums([spot])

    def _choice(self, use: Chosen) -> Iterator[Passed]:
        """The constant of the first operand goes on, or is seen by nothing; that of the other must be equal to it."""
        sign = 1.0 if use.first else -1.0
        self.chosen[use.value].append(replace(use.spot, factor=sign * use.spot.factor))
        if use.first and use.passes:
            yield Passed(use.value, use.spot)

    def _through(self, read: Read, spot: Spot) -> Iterator[Passed]:
        node = read.applied.node
        taking, calls = self._taking(read)
        for reader in read.readers:
            if not calls:
                yield from (Passed(node.name, made) for made in self.carrier.written(reader, spot, node, read.outlet))
                continue
            self.shared |= dict.fromkeys(calls, calls)
            self.read[node.name][read.part.value, reader].append(spot)
            if node.name == calls[0]:
                term = Summand(spot.name, spot.span, spot.factor)
                self.taken += [_Taken(term, Hop(reader, part), port) for part, port in taking]

    def _taking(self, read: Read) -> tuple[list[tuple[Piece, Port]], Calls]:
        """What takes the constants that a matrix reads, for which part of what it writes, and all calls that add it."""
        bias, plane = self.flow.bias(read.applied), self.by_plane.get(read.applied.node.name)
        name, out = read.part.parameter.target, read.outlet.axes
        rows = read.part.piece(self.flow, out) if bias is not None else None
        if bias is not None and rows is not None:
            calls = tuple(user.name for user in self.flow.graph.users[bias.name])
            return [(rows, Port(whole(self.flow, bias.target, 0)))], calls
        if plane is None:
            return [], ()
        parts = along(self.flow, name, out)
        return [(piece, Port(piece, (), plane.plane)) for piece in parts], plane.nodes

    def _left_over(self, node: Node) -> Iterator[Spot]:
        """What a bias that is added at several calls, and takes what the first of them reads, leaves at a later one."""
        first = self.shared.get(node.name, (node.name,))[0]
        if first == node.name:
            return
        for value, reader in dict.fromkeys((*self.read[first], *self.read[node.name])):
            across = reader.across(len(self.flow.graph.state[reader.parameter].shape))
            outlet = self.carrier.outlet(self.flow.applied[node.name], value, across)
            if outlet is None:
                raise ValueError(f"{node.where} does not read {reader.parameter} as others do that add its bias")
            for spot in difference(self.read[node.name][value, reader], self.read[first][value, reader]):
                yield from self.carrier.written(reader, spot, node, outlet)


# -- families ----------------------------------------------------------------------------------------------------------


def find_constants(
    flow: Flow, readers: list[PlaneReader], lent: Lent, means: frozenset[Place], unseen: frozenset[Place]
) -> list[Constant]:
    """Every family of constants, in the order of the program; those of equal entries alone come last.

    Args:
        lent: a table that something else reads as well, which sees nothing of a constant in it, with the one call that
            it counts in.
        means: where the mean of what is written is not seen in any case.
        unseen: where the mean of a parameter is not seen in any case for other reasons.
    """
    entire = list(_families(System(flow, readers, lent).carried(), means))
    known = {constant.source for constant in entire}
    together = {_ports(constant) for constant in entire if not any(share.path for share in constant.shares)}
    even = _families(System(flow, readers, lent, means | unseen).carried())
    new = (constant for constant in even if constant.source not in known and _ports(constant) not in together)
    return [*entire, *(replace(constant, even=True) for constant in new if _is_own(flow, constant))]


def _ports(constant: Constant) -> frozenset[Port]:
    return frozenset((constant.source, *(share.port for share in constant.shares)))


def _is_own(flow: Flow, constant: Constant) -> bool:
    """Whether a constant of equal entries is no mean of a matrix, which the readers of norms account for."""
    bias = len(flow.graph.state[constant.source.piece.parameter].shape) == 1 and constant.source.plane is None
    return constant.tied is None and bool(constant.shares or bias)


def _families(system: System, means: frozenset[Place] = frozenset()) -> Iterator[Constant]:
    named = [term for terms in system.sums for term in terms] + [taken.term for taken in system.taken]
    # Biases that nothing sees are in no equation. Tables that an operator is blind to are found by themselves.
    biases = {number for number, port in enumerate(system.ports) if _is_bias(system, port)}
    met = biases | {term.name[0] for term in named}
    equal = [(number, window) for number, window in system.carrier.equal if number in met]
    equal += _unread(system, named)
    apart = [(term.name[0], term.window) for term in named]
    windows = Windows([*apart, *((number, None) for number in sorted(biases)), *equal])
    rows = equations(system.sums, equal, windows)
    unknowns = [unknown for source in windows.parts for unknown in windows.within(source, None)]
    solution = solve(sorted(unknowns), rows, _rank(system, rows), partial(_layout, system))
    inverted = dict(_inverted(system, rows, means))
    solved = {unknown: row for unknown, row in solution.solved.items() if unknown not in inverted}
    solution = replace(solution, solved=solved)
    shares = _shares(system, windows, solution)
    # In the order in which they act, so that what moves on arrives before its place is emptied.
    for free in sorted(solution.free, key=lambda unknown: (system.acts[unknown[0]], unknown)):
        yield replace(_constant(system, free, shares[free]), through=inverted.get(free))
    for unknown, matrix in _lost(system, rows) if system.even is None else ():
        if unknown in solution.solved and unknown not in inverted:
            yield Constant(_port(system, unknown), through=matrix, lost=True)


def _is_bias(system: System, port: Port) -> bool:
    behind = len(_shape(system, port)) - 1 > port.piece.axis
    return len(_shape(system, port)) == 1 or port.plane is not None or bool(port.piece.more) or behind


def _shares(system: System, windows: Windows, solution: Solution) -> defaultdict[Unknown, list[Share]]:
    """What makes up for each free constant: biases that take what reaches them, and constants that follow from it."""
    shares: defaultdict[Unknown, list[Share]] = defaultdict(list)
    for taken in system.taken:
        _share_out(taken, windows, solution, shares)
    for unknown in solution.unknowns:
        for free, factors in solution.of(unknown).items():
            if unknown != free:
                shares[free] += [Share(_port(system, unknown), factor, path) for path, factor in factors.items()]
    return shares


def _unread(system: System, named: list[Summand]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Tables of which the traced inputs do not reach all rows: all of them have the same constant."""
    windows: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for term in named:
        windows[term.name[0]] |= {term.window} if term.window else set()
    for source, spans in windows.items():
        shape, rows = _shape(system, system.ports[source]), covered(spans)
        axis = row_axis(system.ports[source].piece.axes, shape)
        if rows and axis is not None and rows < shape[axis]:
            yield source, (0, shape[axis])


def _inverted(system: System, rows: list[Row], means: frozenset[Place]) -> Iterator[tuple[Unknown, Hop]]:
    """Constants that are seen behind one matrix alone, where a mean is not seen, with that matrix.

    It reads at least as many entries as it writes, each of which counts once, also if it reads several copies of them
    (queries that share values).
    """
    met: dict[Unknown, set[object]] = defaultdict(set)
    for row in rows:
        for unknown, factors in row.items():
            met[unknown] |= set(factors) if len(row) == 1 else {None}
    for unknown, paths in met.items():
        (path, *more), port = paths, system.ports[unknown[0]]
        if more or not isinstance(path, tuple) or len(path) != 1 or unknown[0] in system.tied:
            continue
        (matrix,) = path
        unseen = not matrix.multiplies and matrix.rows.place in means
        if unseen and port.piece.size >= matrix.rows.size and not is_in_a_space(port, matrix):
            yield unknown, matrix


def _lost(system: System, rows: list[Row]) -> Iterator[tuple[Unknown, Hop]]:
    """Constants that one matrix alone reads, by more entries than it writes: of some of them it makes nothing.

    Where any invertible map acts on these entries the space has them.
    """
    flow, taken = system.flow, [((t.term.name[0], ()), (*t.term.name[1], t.hop)) for t in system.taken]
    for (source, window), matrix in read_by_one(rows, taken):
        port, shape = system.ports[source], flow.graph.state[matrix.reader.parameter].shape
        plain = port.plane is None and not window and source not in system.tied
        alone = matrix.rows.size == matrix.rows.length(shape) and matrix.reader.size == port.piece.size
        apart = not any(flow.is_invertible(leaf.frame) for leaf in leaves(port.piece.term))
        if plain and alone and apart and matrix.reader.size > matrix.rows.size:
            yield (source, window), matrix


def _share_out(taken: _Taken, windows: Windows, solution: Solution, shares: dict[Unknown, list[Share]]) -> None:
    """What a bias takes of every free constant that reaches it."""
    source, after = taken.term.name
    # All parts of the window are equal.
    arriving = windows.within(source, taken.term.window)[0]
    for free, factors in solution.of(arriving).items():
        for path, factor in factors.items():
            shares[free].append(Share(taken.port, -taken.term.factor * factor, (*path, *after, taken.hop)))


def _layout(system: System, unknown: Unknown, path: tuple[Hop, ...]) -> Axes:
    """The axes of a constant behind a path; none where its entries count as one."""
    ways = [hop for hop in path if not hop.is_number]
    if system.even is not None and not ways:
        return ()
    term = ways[-1].made if ways else system.ports[unknown[0]].piece.term
    return tuple((leaf.frame, leaf.size) for leaf in leaves(term) if leaf.size > 1)


def _rank(system: System, rows: list[Row]) -> _Rank:
    moving = {taken.term.name[0] for taken in system.taken}
    count: dict[Unknown, int] = defaultdict(int)
    for row in rows:
        for unknown in row:
            count[unknown] += 1
    return _Rank(system, moving, count)


@dataclass(frozen=True, slots=True)
class _Rank:
    """Which constant an equation is solved for: a parameter's, which goes nowhere else, for as much as possible.

    Among those that others take it is the one that acts last: nothing comes back then to where it has moved on from.
    """

    system: System
    moving: set[int]
    count: Mapping[Unknown, int]

    def __call__(self, unknown: Unknown) -> tuple[object, ...] | None:
        source, window = unknown
        if source in self.system.tied:
            return None
        port = self.system.ports[source]
        moves = source in self.moving
        late = -self.system.acts[source] if moves else 0
        stored = self.system.flow.graph.state[port.piece.parameter].kind is Kind.BUFFER
        return port.plane is not None, moves, not stored, bool(window), self.count[unknown], late, port.place


def _shape(system: System, port: Port) -> tuple[int, ...]:
    return system.flow.graph.state[port.piece.parameter].shape


def _port(system: System, unknown: Unknown) -> Port:
    source, window = unknown
    port = system.ports[source]
    shape = _shape(system, port)
    axis = row_axis(port.piece.axes, shape) if window else None
    if axis is None or window == (0, shape[axis]):
        return port
    return replace(port, window=(axis, *window))


def _constant(system: System, free: Unknown, shares: list[Share]) -> Constant:
    tie = system.tied.get(free[0])
    tied: Plane | None = tie.plane if tie is not None else None
    sink = tie.bias if tie is not None and tie.plane.raised else ""
    return Constant(_port(system, free), merged(shares), tied, sink)
