"""Steps that add constants: in one place and what makes up for it in others, or along the ones vector."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.orbit.step import Dumped, Step
from symgraph.orbit.tensor_blocks import spread
from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.families import Constant, Hop, Plane, Port, Share, ones
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Term, over_leaves

State = dict[str, Tensor]
_PLACE = ("parameter", "axis", "start", "window")


@dataclass(frozen=True, slots=True)
class Shift(Step):
    """Adds a constant at its source, and at every other place what makes up for it.

    Shapes: constant has that of its family: (n,), the size of the source, if it may be anything.
    """

    symmetry: SymmetryGraph
    family: Constant
    constant: Tensor
    kind: ClassVar[str] = "shift"

    def act(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; of a difference of two models only what its matrices make of the constant.

        Parameters that are not given are left alone.

        Raises:
            UsageError: one is given without what says how much it takes.
        """
        if linear:
            return self._linear(state)
        self._check_given(state)
        if not any(name in state for name in self._needs()):
            return state
        changed, vector = dict(state), self._vector(state)
        shares = [share for share in self.family.shares if share.port.piece.parameter in state]
        ports = [(self.family.source, vector)] if self.family.source.piece.parameter in state else []
        ports += [(share.port, arriving(state, self.family, share, vector)) for share in shares]
        for port, added in ports:
            if port.plane is None:
                changed[port.piece.parameter] = port.added(changed[port.piece.parameter], added)
        # Biases first: the planes are those behind the new ones.
        for port, added in ports:
            if port.plane is not None:
                weight = changed[port.piece.parameter]
                height = port.plane.height(changed, weight)
                # A plane through zero adds nothing, so that there is no such element.
                if not height:
                    return state
                changed[port.piece.parameter] = turned(weight, port.piece, port.plane, changed, added / height)
        tied, sink = self.family.tied, self.family.sink
        if tied is not None and sink in changed:
            height = tied.height(state, changed[sink])
            changed[sink] = changed[sink] - self.constant.to(changed[sink]) * height
        return changed

    def _check_given(self, state: State) -> None:
        for name, others in self._needs().items():
            missing = [other for other in others if other not in state] if name in state else []
            if missing:
                remedy = "give the whole state, or with a bias the matrices in front of it"
                raise UsageError(f"`{missing[0]}` is missing beside `{name}`", remedy=remedy)

    def _needs(self) -> dict[str, list[str]]:
        """The parameters that a constant is added to, and which others say how much each takes."""
        family, source = self.family, self.family.source
        vector = [family.through.reader.parameter] if family.through is not None else []
        if family.tied is not None:
            vector += [name for name in (source.piece.parameter, family.tied.gain) if name]
        needs = {family.sink: [*vector, *family.tied.named]} if family.tied is not None and family.sink else {}
        for port, path in ((source, ()), *((share.port, share.path) for share in family.shares)):
            beside = [*vector, *(hop.reader.parameter for hop in path), *(port.plane.named if port.plane else ())]
            needs.setdefault(port.piece.parameter, []).extend(beside)
        return needs

    def _linear(self, state: State) -> State:
        if not self.family.settled:
            return state
        changed = dict(state)
        for share in self.family.shares:
            name = share.port.piece.parameter
            if name in changed and share.path and all(hop.reader.parameter in changed for hop in share.path):
                changed[name] = share.port.added(changed[name], arriving(state, self.family, share, self.constant))
        return changed

    def _vector(self, state: State) -> Tensor:
        tied, source = self.family.tied, self.family.source.piece.parameter
        if tied is not None:
            return self.constant * tied.normal(state, state[source])
        if self.family.through is not None:
            made = lost if self.family.lost else evened
            return made(state, self.family.source, self.family.through) @ self.constant.reshape(-1)
        return self.constant.expand(self.family.source.piece.size) if self.family.even else self.constant

    @property
    def moves(self) -> Collection[str]:
        """All that a constant is added to."""
        return self._needs()

    def needs(self, name: str) -> Collection[str]:
        """What says how much of the constant arrives there, and what that takes itself."""
        needs, reached = self._needs(), dict.fromkeys((name,))
        waiting = [name]
        while waiting:
            new = [name for name in needs.get(waiting.pop(), ()) if name not in reached]
            reached |= dict.fromkeys(new)
            waiting += new
        return reached

    def inverse(self) -> Shift:
        """The step that undoes this one."""
        return replace(self, constant=-self.constant)

    @property
    def takes(self) -> object:
        """The constant of this family."""
        return self.family.place

    def fitted(self, state: Mapping[str, Tensor]) -> Shift:
        """Another model's constant, where readers make up for it."""
        raised = self.symmetry.raised(state)
        if not self.family.moves or self.family.source.piece.parameter not in raised:
            return self
        return replace(self, constant=-self.family.source.mean(raised))

    def dump(self) -> Dumped:
        """Where it is taken out, and the constant."""
        place = dict(zip(_PLACE, self.family.place, strict=True))
        return {**place, "window": list(self.family.source.window)}, {"constant": self.constant}

    @classmethod
    def load(cls, symmetry: SymmetryGraph, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Shift:
        """What `dump` gave."""
        families = {constant.place: constant for constant in symmetry.constants}
        place = tuple(tuple(plain[key]) if key == "window" else plain[key] for key in _PLACE)
        return Shift(symmetry, families[place], tensors["constant"])  # type: ignore[index]


def arriving(state: State, family: Constant, share: Share, constant: Tensor) -> Tensor:
    """What a constant of the source comes to at the place of a share; shapes: (n,), the size of that place."""
    amount, term = share.factor * constant, family.source.piece.term
    if family.even:
        # A learned number multiplies as many entries as there are.
        first = next((hop.reader for hop in share.path if not hop.is_number), share.port.piece)
        amount, term = amount[:1].expand(first.size), first.term
    for hop in share.path:
        amount, term = _after(state[hop.reader.parameter], hop, amount, term)
    place = share.port.piece
    everywhere = amount if len(amount) == place.size else over_leaves(amount, term, place.term)
    if everywhere is None:
        raise ValueError(f"{place.parameter} lacks an axis of what reaches it")
    return everywhere


def _after(tensor: Tensor, hop: Hop, constant: Tensor, term: Term) -> tuple[Tensor, Term]:
    """What a matrix, or entries that multiply, make of a constant."""
    if hop.is_number:
        return constant.to(tensor) * tensor.reshape(()), term
    part = replace(hop.reader, axis=0, more=()).of(tensor.reshape(-1)) if hop.multiplies else hop.reader.of(tensor)
    read = hop.reader.term if hop.within is None else hop.within
    spread_out = over_leaves(constant.to(part), term, read)
    factors = part if hop.within is None else over_leaves(part, hop.reader.term, hop.within)
    if spread_out is None or factors is None:
        raise ValueError(f"{hop.reader.parameter} does not read what reaches it")
    if hop.multiplies:
        return factors * spread_out, hop.made
    written = torch.tensordot(part, spread_out, dims=([hop.reader.joint], [0]))
    # Of a convolution with one tap all further axes are of size one.
    return hop.rows.within(hop.reader.across(tensor.dim())).of(written).flatten(), hop.rows.term


def evened(state: State, source: Port, hop: Hop) -> Tensor:
    """What a matrix makes equal entries of: the first column ones, all others nothing.

    Shapes: (size of the source, its coordinates).
    """
    matrix = _of_source(state, source, hop)
    square, others = matrix[:, : len(matrix)], matrix[:, len(matrix) :]
    made = torch.linalg.solve(square, torch.cat([square.new_ones(len(matrix), 1), -others], 1))
    chosen = torch.eye(others.shape[1] + 1, dtype=made.dtype, device=made.device)[1:]
    return torch.cat([made, chosen])


def lost(state: State, source: Port, hop: Hop) -> Tensor:
    """An orthonormal basis of what a matrix makes nothing of; shapes: (size of the source, its coordinates)."""
    matrix = _of_source(state, source, hop)
    basis: Tensor = torch.linalg.svd(matrix)[2][len(matrix) :]
    return basis.T


def _of_source(state: State, source: Port, hop: Hop) -> Tensor:
    """A matrix by the entries of a source; shapes: (entries that it writes, size of the source)."""
    tensor = state[hop.reader.parameter]
    part = hop.reader.of(tensor).movedim(hop.reader.joint, -1)
    rows = hop.rows.within(hop.reader.across(tensor.dim())).of(part).reshape(-1, part.shape[-1])
    entries = over_leaves(torch.arange(source.piece.size), source.piece.term, hop.reader.term)
    if entries is None:
        raise ValueError(f"{hop.reader.parameter} does not read what reaches it")
    matrix: Tensor = rows.new_zeros(len(rows), source.piece.size).index_add(1, entries.to(rows.device), rows)
    return matrix


def turned(weight: Tensor, rows: Piece | None, plane: Plane, state: State, constant: Tensor) -> Tensor:
    """A reader of a plane with u times its normal added, in some of its rows or in all.

    Shapes: constant (n,), one number for each row.
    """
    axis, normal = plane.reader.axis, plane.normal(state, weight)
    amounts = weight.new_zeros([size for dim, size in enumerate(weight.shape) if dim != axis])
    if rows is None:
        amounts = constant.to(weight).expand(amounts.shape)
    else:
        amounts = Port(rows.within(plane.reader.across(weight.dim()))).added(amounts, constant.to(weight))
    return plane.reader.add(weight, amounts.unsqueeze(axis) * spread(normal, weight.dim(), [axis]))


@dataclass(frozen=True, slots=True)
class Lift(Step):
    """Adds a multiple of the ones vector along a frame of a piece, another one for each position beside it.

    Shapes: constant has that of the means along the frame.
    """

    symmetry: SymmetryGraph
    piece: Piece
    frame: int
    constant: Tensor
    kind: ClassVar[str] = "lift"

    def act(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; nothing changes for a difference of two models."""
        if linear or self.piece.parameter not in state:
            return state
        tensor = state[self.piece.parameter]
        return {**state, self.piece.parameter: self.piece.add(tensor, ones(self.piece, self.frame, self.constant))}

    @property
    def moves(self) -> Collection[str]:
        """The parameter."""
        return (self.piece.parameter,)

    def inverse(self) -> Lift:
        """The step that undoes this one."""
        return replace(self, constant=-self.constant)

    def dump(self) -> Dumped:
        """The piece and the constant."""
        piece = self.piece
        return {"parameter": piece.parameter, "axis": piece.axis, "start": piece.start}, {"constant": self.constant}

    @classmethod
    def load(cls, symmetry: SymmetryGraph, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Lift:
        """What `dump` gave."""
        pieces = {
            (piece.parameter, piece.axis, piece.start): (piece, centred.frame)
            for centred in symmetry.centred
            for piece in centred.pieces
        }
        return Lift(symmetry, *pieces[plain["parameter"], plain["axis"], plain["start"]], tensors["constant"])
