"""Streams that one map alone writes, from fewer dimensions than they have: along some directions they never vary."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch

from symgraph.inference.applied import Applied
from symgraph.inference.carrying import Carrier
from symgraph.inference.flow import Flow, matrices
from symgraph.inference.matrix_parts import Part, part_of
from symgraph.inference.planes import PlaneReader, has_height, reader_of, reads_of, whole
from symgraph.inference.uses import Read
from symgraph.symmetry.axis_parts import Piece, Place
from symgraph.symmetry.families import Plane
from symgraph.symmetry.terms import over_leaves
from symgraph.symmetry.thin import Thin


@dataclass(frozen=True, slots=True)
class _Writer:
    """A call that makes a value of its input by one whole matrix, along `dim` of its result."""

    applied: Applied
    piece: Piece
    bias: str
    plane: Plane | None
    dim: int

    def is_narrow(self, read: int) -> bool:
        """Whether what it writes has fewer dimensions than it is wide, having read so many entries."""
        return self.piece.size > read - (self.plane is not None)


def find_thin(
    flow: Flow, readers: list[PlaneReader], covered: Collection[Place], held: Collection[str]
) -> Iterator[Thin]:
    """All matrices that read such a stream and nothing else, in the order of the program.

    Args:
        readers: all matrices that read what a centred norm makes.
        covered: pieces of which other families change what nothing sees.
        held: parameters of which they move constants.
    """
    carrier = Carrier(flow)
    known = [reader for reader in readers if has_height(flow, reader.plane)]
    planes = {node: reader.plane for reader in known for node in reader.nodes}
    for applied in flow.d.eq.applied:
        writer = _writer(carrier, applied, planes.get(applied.node.name))
        if writer is None:
            continue
        found: dict[Piece, list[Read]] = defaultdict(list)
        for read, _ in reads_of(carrier, applied, writer.dim):
            if (
                _is_plain(flow, writer, read.readers[0])
                and len(read.part.parameter.shape) == 2
                and read.readers[0].place not in covered
            ):
                found[read.readers[0]].append(read)
        left, here = writer.piece.size, {*held, writer.piece.parameter, *(piece.parameter for piece in found)}
        for piece, reads in found.items():
            reader, rows = reader_of(flow, Plane(piece, "", ""), reads), reads[0].part.parameter.shape[1 - piece.axis]
            # Invertible maps of the stream that leave its values as they are move some rows of its readers already.
            moved = min(rows, left) if flow.turns_alone(reader.frame, here) else 0
            left -= moved
            if moved < rows:
                yield from _thin(writer, reader, moved)


def _is_plain(flow: Flow, writer: _Writer, read: Piece) -> bool:
    """Whether one axis of a matrix reads all that is written; of a product in the order that its leaves say."""
    written, value = writer.piece, flow.d.values[writer.applied.node.name][writer.dim]
    if read.size != written.size or read.more:
        return False
    one, other = (over_leaves(written.places(), term, read.term) for term in (written.term, value))
    return one is not None and other is not None and torch.equal(one, other)


def _thin(writer: _Writer, reader: PlaneReader, moved: int) -> Iterator[Thin]:
    zero = not writer.bias and (writer.plane is None or not writer.plane.raised)
    if reader.nodes and not reader.elsewhere and (reader.bias or zero):
        yield Thin(reader.plane.reader, reader.bias, writer.piece, writer.bias, writer.plane, moved)


def _writer(carrier: Carrier, a: Applied, plane: Plane | None) -> _Writer | None:
    part = _whole_matrix(carrier, a)
    if part is None:
        return None
    kept = {token.name for token in a.binding.results[0]}
    tokens = a.binding.operands[next(iter(matrices(a)))][1]
    dims = [dim for dim, token in enumerate(tokens) if token.name in kept]
    outlet = carrier.outlet(a, part.value, part.axes[dims[0]]) if len(dims) == 1 else None
    bias = carrier.flow.bias(a)
    if outlet is None or len(part.parameter.shape) > 2 or (a.rule.adds in a.binding.operands and bias is None):
        return None
    (axis,) = outlet.axes
    read = part.parameter.shape[1 - axis]
    if plane is not None and (plane.reader.axis, plane.reader.size) != (1 - axis, read):
        plane = None
    piece = whole(carrier.flow, part.parameter.target, axis)
    found = _Writer(a, piece, bias.target if bias is not None else "", plane, outlet.dim)
    return found if found.is_narrow(read) else None


def _whole_matrix(carrier: Carrier, a: Applied) -> Part | None:
    """The one parameter, all of it, by which a call multiplies its input."""
    laws = matrices(a)
    if len(laws) != 1 or len(a.binding.results) != 1:
        return None
    part = part_of(carrier.flow, a.binding.operands[next(iter(laws))][0].name)
    return part if part is not None and not part.first else None
