"""Steps that depend on the parameters around them: symmetries of every model that no fixed affine map expresses.

They are verified and counted, and left out of the canonical form, whose steps have fixed coefficients so that a line
between two models stays a line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from symgraph.ir import Graph
from symgraph.orbit.constant_steps import Offset, arriving
from symgraph.orbit.step import Dumped, Step
from symgraph.orbit.tensor_blocks import spread
from symgraph.symmetry.families import Lean, Statistics, Tilt
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.interpreter import call

State = dict[str, Tensor]
_PLACE = ("parameter", "start", "rows")


@dataclass(frozen=True, slots=True)
class Slant(Step):
    """Adds u (1 / gain)^T to a reader of a norm, and takes what that makes of the norm's bias out of the reader's own.

    Shapes: constant has the reader's shape without its contracted axis; (), one number for all, where others give;
    (size of the rows,) where the lean has rows.
    """

    lean: Lean
    constant: Tensor
    kind: ClassVar[str] = "slant"

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; of two models with one gain also for their difference."""
        lean = self.lean
        if linear and (lean.gain or lean.sinks):
            return state
        weight, axis = state[lean.reader.parameter], lean.reader.axis
        plane = 1.0 / (state[lean.gain] + lean.offset) if lean.gain else weight.new_ones(lean.reader.size)
        constant = self._for_all(weight)
        added = constant.unsqueeze(axis) * spread(plane.to(weight), weight.dim(), [axis])
        found = dict(state)
        if not linear:
            found[lean.reader.parameter] = lean.reader.add(weight, added)
            for place in lean.givers:
                found = Offset(place, -self.constant.to(weight) * plane / place.factor).apply(found)
        if lean.sink:
            found[lean.sink] = state[lean.sink] - constant * (plane * state[lean.bias]).sum()
        for sink in lean.sinks if lean.rows is not None and lean.bias in state else ():
            seen = self.constant.to(weight) * (plane * state[lean.bias]).sum()
            found[sink.bias] = found[sink.bias] - arriving(found, lean.rows, sink, seen)  # type: ignore[arg-type]
        return found

    def _for_all(self, weight: Tensor) -> Tensor:
        """The constant for every position of the other axes, zero where it does not act."""
        shape = [n for i, n in enumerate(weight.shape) if i != self.lean.reader.axis]
        constant = self.constant.to(weight)
        if self.lean.rows is None:
            return constant.expand(shape)
        found = weight.new_zeros(shape)
        found[self.lean.rows.entries()] = constant
        return found

    def inverse(self) -> Slant:
        """The step that undoes this one."""
        return Slant(self.lean, -self.constant)

    def dump(self) -> Dumped:
        """The place of the lean, and the constant."""
        return dict(zip(_PLACE, self.lean.place, strict=True)), {"constant": self.constant}

    @classmethod
    def load(cls, symmetry: SymmetryGraph, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Slant:
        """What `dump` gave."""
        leans = {x.place: x for x in symmetry.leans}
        return Slant(leans[tuple(plain[k] for k in _PLACE)], tensors["constant"])


@dataclass(frozen=True, slots=True)
class Turn(Step):
    """Turns a norm's bias by x -> x + v mean(x) and all its readers back.

    Shapes: direction (n,), with a mean above -1.
    """

    tilt: Tilt
    direction: Tensor

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state."""
        bias = state[self.tilt.bias]
        v = self.direction.to(bias)
        found = {**state, self.tilt.bias: bias + v * bias.mean()}
        for reader in self.tilt.readers:
            part = reader.of(state[reader.parameter])
            met = torch.tensordot(part, v, dims=([reader.axis], [0])) / (len(v) * (1 + v.mean()))
            found[reader.parameter] = reader.add(found[reader.parameter], -met.unsqueeze(reader.axis))
        return found

    def inverse(self) -> Turn:
        """The step that undoes this one."""
        return Turn(self.tilt, -self.direction / (1 + self.direction.mean()))


@dataclass(frozen=True, slots=True)
class Restate(Step):
    """Replaces stored statistics and lets gain and bias make up for it, whatever the operator does with them.

    Shapes: changes (operands, n), added to the statistics.
    """

    graph: Graph
    statistics: Statistics
    changes: Tensor

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; nothing changes for a difference of two models."""
        if linear:
            return state
        s = self.statistics
        changed = dict(state)
        for name, change in zip(s.tensors, self.changes, strict=True):
            changed[name] = state[name] + change.to(state[name])
        slope, shift = self._affine(state)
        new_slope, new_shift = self._affine(changed)
        ratio = slope / new_slope
        changed[s.gain] = ratio * state[s.gain]
        changed[s.bias] = state[s.bias] + state[s.gain] * (shift - ratio * new_shift)
        return changed

    def _affine(self, state: State) -> tuple[Tensor, Tensor]:
        """Slope and shift of each channel before gain and bias: the operator is affine, so two points say all."""
        s = self.statistics
        given = {k: state[t] for k, t in zip(s.operands, s.tensors, strict=True)}
        zero, one = (_channels(self.graph, s, given, x) for x in (0.0, 1.0))
        return one - zero, zero

    def inverse(self) -> Restate:
        """The step that undoes this one."""
        return Restate(self.graph, self.statistics, -self.changes)


def _channels(graph: Graph, s: Statistics, given: dict[str, Tensor], x: float) -> Tensor:
    """What the call makes of a constant input in each channel, with unit gain and no bias."""
    names = {graph.state[t].name: k for t, k in zip(s.tensors, s.operands, strict=True)}
    tail = {graph.state[s.gain].name: 1.0, graph.state[s.bias].name: 0.0}
    inputs: dict[str, Tensor] = {}
    for ref in graph.by_name[s.node].refs():
        flat = torch.full(graph.by_name[ref].shape, tail.get(ref, x), dtype=torch.float64)
        inputs[ref] = given[names[ref]] if ref in names else flat
    found = call(graph, s.node, inputs)
    return found.movedim(s.axis, -1).reshape(-1, found.shape[s.axis])[0]
