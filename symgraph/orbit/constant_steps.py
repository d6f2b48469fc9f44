"""Steps that add constants: to a bias and what its readers make of it, along one axis, along the ones vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from symgraph.io.decode import decode
from symgraph.orbit.step import Dumped, Step
from symgraph.orbit.tensor_blocks import spread
from symgraph.symmetry.families import Piece, Place, Sink
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Term, leaves

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Push(Step):
    """Takes a constant out of a bias and adds what its readers make of it to theirs."""

    source: Piece
    sinks: tuple[Sink, ...]
    constant: Tensor
    kind: ClassVar[str] = "push"

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state."""
        found = dict(state)
        for sink in self.sinks:
            if sink.bias in found and (not linear if sink.reader is None else sink.reader.parameter in found):
                found[sink.bias] = found[sink.bias] + arriving(found, self.source, sink, self.constant)
        if not linear and self.source.parameter in found:
            found[self.source.parameter] = self.source.add(found[self.source.parameter], -self.constant)
        return found

    def inverse(self) -> Push:
        """The step that undoes this one."""
        return Push(self.source, self.sinks, -self.constant)

    @property
    def takes(self) -> object:
        """The constant of this piece of a bias."""
        return self.source

    def fitted(self, state: State) -> Push:
        """Another model's constant, where readers make up for it."""
        if not self.sinks or self.source.parameter not in state:
            return self
        return replace(self, constant=self.source.of(state[self.source.parameter]).clone())

    def dump(self) -> Dumped:
        """Where it is taken out, and the constant."""
        return {"parameter": self.source.parameter, "start": self.source.start}, {"constant": self.constant}

    @classmethod
    def load(cls, symmetry: SymmetryGraph, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Push:
        """What `dump` gave."""
        moves = {(m.source.parameter, m.source.start): m for m in symmetry.moves}
        move = moves[plain["parameter"], plain["start"]]
        return Push(move.source, move.sinks, tensors["constant"])


def arriving(state: State, source: Piece, sink: Sink, constant: Tensor) -> Tensor:
    """What a constant of a piece makes of the bias where it arrives."""
    reader = sink.reader
    if reader is None:
        return constant.to(state[sink.bias])
    part = reader.of(state[reader.parameter])
    spread_out = broadcast_leaves(constant.to(part), source.term, reader.term)
    found: Tensor = torch.tensordot(part, spread_out, dims=([reader.axis], [0]))
    return found


def broadcast_leaves(vector: Tensor, source: Term, target: Term) -> Tensor:
    """A vector over the leaves of `source` as one over those of `target`, constant along the leaves it lacks."""
    have, want = ([x for x in leaves(t) if x.size != 1] for t in (source, target))
    shaped = vector.reshape([x.size for x in have])
    dims: list[int] = []
    for leaf in have:
        dims.append(next(i for i, x in enumerate(want) if x.frame == leaf.frame and i not in dims))
    return spread(shaped, len(want), dims).expand([x.size for x in want]).reshape(-1)


@dataclass(frozen=True, slots=True)
class Offset(Step):
    """Adds a constant vector along one axis of a parameter, equal along all others, within the place's window.

    Shapes: constant (n,), the size of the axis.
    """

    place: Place
    constant: Tensor
    kind: ClassVar[str] = "offset"

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; nothing changes for a difference of two models."""
        if linear or self.place.parameter not in state:
            return state
        tensor = state[self.place.parameter].clone()
        window(tensor, self.place).add_(spread(self.constant.to(tensor), tensor.dim(), [self.place.axis]))
        return {**state, self.place.parameter: tensor}

    def inverse(self) -> Offset:
        """The step that undoes this one."""
        return Offset(self.place, -self.constant)

    def dump(self) -> Dumped:
        """The place and the constant."""
        return asdict(self.place), {"constant": self.constant}

    @classmethod
    def load(cls, symmetry: SymmetryGraph, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Offset:
        """What `dump` gave."""
        place = decode(Place, plain)
        if place.parameter not in symmetry.terms:
            raise ValueError(f"there is no parameter {place.parameter}")
        return Offset(place, tensors["constant"])


def window(tensor: Tensor, place: Place) -> Tensor:
    """The part of a tensor that lies in the place's window, as a view."""
    if not place.window:
        return tensor
    axis, start, stop = place.window
    return tensor.narrow(axis, start, stop - start)


@dataclass(frozen=True, slots=True)
class Lift(Step):
    """Adds a multiple of the ones vector along a piece, another one for each position of the other axes.

    Shapes: constant has the parameter's shape without the piece's axis.
    """

    piece: Piece
    constant: Tensor
    kind: ClassVar[str] = "lift"

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; nothing changes for a difference of two models."""
        if linear or self.piece.parameter not in state:
            return state
        tensor = state[self.piece.parameter]
        return {**state, self.piece.parameter: self.piece.add(tensor, self.constant.unsqueeze(self.piece.axis))}

    def inverse(self) -> Lift:
        """The step that undoes this one."""
        return Lift(self.piece, -self.constant)

    def dump(self) -> Dumped:
        """The piece and the constant."""
        p = self.piece
        return {"parameter": p.parameter, "axis": p.axis, "start": p.start}, {"constant": self.constant}

    @classmethod
    def load(cls, symmetry: SymmetryGraph, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Lift:
        """What `dump` gave."""
        pieces = {(p.parameter, p.axis, p.start): p for c in symmetry.centred for p in c.pieces}
        return Lift(pieces[plain["parameter"], plain["axis"], plain["start"]], tensors["constant"])
