"""Symmetries without a space of their own, each derived from what rules declare (`adds`, `shift`, `centred`, ...)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from math import prod

from symgraph.inference.additions import find_updates
from symgraph.inference.centred import Centring
from symgraph.inference.constants import find_constants
from symgraph.inference.draft import Draft
from symgraph.inference.flow import Flow
from symgraph.inference.mixed_positions import find_mixed_positions
from symgraph.inference.overlooked_parts import find_overlooked
from symgraph.inference.planes import (
    PlaneReader,
    find_readers,
    find_readings,
    find_window_readers,
    has_height,
    part_name,
)
from symgraph.inference.radial import find_radial
from symgraph.inference.radial_parts import find_radial_parts
from symgraph.inference.row_tables import find_blind
from symgraph.inference.shearable import Shearing
from symgraph.inference.statistics import find_statistics
from symgraph.inference.thin_streams import find_thin
from symgraph.inference.traded import find_traded
from symgraph.ir import Graph
from symgraph.symmetry.axis_parts import Piece, Place
from symgraph.symmetry.families import Centred, Constant, Lean, Plane
from symgraph.symmetry.found_families import Families
from symgraph.symmetry.lengths import Radial


def find_families(d: Draft, traced: Graph) -> Families:
    """Every family, in program order."""
    flow = Flow(d)
    centring, shearing, readings = Centring(flow), Shearing(flow), list(find_readings(flow))
    reading, written = find_readers(flow, readings), centring.written()
    means = _places(written)
    blind = _elsewhere(find_blind(flow), means)
    constants = find_constants(flow, reading, centring.tables(), means, _places(blind))
    # Where nothing sees any constant of a bias its mean is none of its own.
    idle = frozenset(c.source.piece.place for c in constants if c.whole and not c.shares)
    blind = _elsewhere(blind, idle)
    # Where a norm's bias has moved on, its readers' plane goes through zero.
    moved = {*_moved(flow, [constant.source.piece for constant in constants if constant.moves])}
    readers = [replace(r, plane=_lowered(r.plane, moved)) for r in (*reading, *find_window_readers(flow, readings))]
    alone = {constant: plane for constant in constants if (plane := _unseen(constant)) is not None}
    # Where the norm's bias has moved on, all readers of the plane have a mean that nothing sees.
    even = {reader.plane.reader.place for reader in readers if _is_plain_mean(reader)}
    tilted = (Lean(plane, "", c.source.piece) for c, plane in alone.items() if plane.reader.place not in even)
    leans = [*_leans(flow, readers), *tilted]
    others = [_lowered_head(constant, moved) for constant in constants if constant not in alone]
    centred = (*written, *_read(readers), *blind)
    covered = {piece.place for c in centred for piece in c.pieces} | _leaning(constants, leans)
    held = _held(constants, centred)
    thin = tuple(find_thin(flow, reading, covered, held))
    return Families(
        constants=tuple(others),
        centred=centred,
        leans=tuple(leans),
        thin=thin,
        overlooked=tuple(find_overlooked(flow, held)),
        shears=tuple(shearing.found(covered, thin)),
        spectral=tuple(centring.spectral(shearing)),
        statistics=tuple(find_statistics(flow, traced)),
        radial=_factors(flow),
        updates=tuple(find_updates(flow, traced)),
    )


def _factors(flow: Flow) -> tuple[Radial, ...]:
    whole = find_radial(flow)
    return (*whole, *find_radial_parts(flow, whole), *find_traded(flow), *find_mixed_positions(flow))


def _places(found: list[Centred]) -> frozenset[Place]:
    return frozenset(piece.place for centred in found for piece in centred.pieces)


def _elsewhere(found: list[Centred], places: frozenset[Place]) -> list[Centred]:
    """Those that have none of these places."""
    return [centred for centred in found if places.isdisjoint(_places([centred]))]


def _held(constants: Collection[Constant], centred: Collection[Centred]) -> set[str]:
    """The parameters of which constants move, and those whose mean nothing sees."""
    ports = {port for constant in constants for port in (constant.source, *(share.port for share in constant.shares))}
    return {port.piece.parameter for port in ports} | {piece.parameter for c in centred for piece in c.pieces}


def _leaning(constants: list[Constant], leans: list[Lean]) -> set[Place]:
    """The readers of planes that lean by themselves, or for a constant."""
    ports = [port for constant in constants for port in (constant.source, *(share.port for share in constant.shares))]
    planes = [*(lean.plane for lean in leans), *(port.plane for port in ports if port.plane is not None)]
    return {plane.reader.place for plane in planes}


def _moved(flow: Flow, pieces: list[Piece]) -> Iterator[str]:
    """What planes call biases that have moved on: parameters of which all has, and parts."""
    sizes = Counter[str]()
    for piece in pieces:
        sizes[piece.parameter] += piece.size
        yield part_name(piece.parameter, piece.start, piece.size)
    yield from (name for name, size in sizes.items() if size == prod(flow.graph.state[name].shape))


def _lowered(plane: Plane, moved: set[str]) -> Plane:
    return replace(plane, bias="") if plane.bias in moved else plane


def _lowered_head(constant: Constant, moved: set[str]) -> Constant:
    if constant.tied is None:
        return constant
    plane = _lowered(constant.tied, moved)
    return replace(constant, tied=plane, sink=constant.sink if plane.raised else "")


def _read(readers: list[PlaneReader]) -> Iterator[Centred]:
    """Readers of norms that keep neither gain nor bias: their means are not seen."""
    plain: dict[int, dict[Piece, None]] = {}
    for reader in readers:
        if _is_plain_mean(reader):
            plain.setdefault(reader.frame, {})[reader.plane.reader] = None
    return (Centred(frame, tuple(found), False) for frame, found in sorted(plain.items()))


def _is_plain_mean(reader: PlaneReader) -> bool:
    return not reader.elsewhere and reader.is_even


def _leans(flow: Flow, readers: list[PlaneReader]) -> Iterator[Lean]:
    for reader in readers:
        seen = reader.elsewhere or not has_height(flow, reader.plane)
        if not seen and not reader.is_even and (reader.bias or not reader.plane.raised):
            yield Lean(reader.plane, reader.bias if reader.plane.raised else "")


def _unseen(constant: Constant) -> Plane | None:
    """The plane of a bias by a plane that nothing sees."""
    return None if constant.shares or constant.through is not None else constant.source.plane
