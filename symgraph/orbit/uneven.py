"""Steps that depend on the parameters around them: symmetries of every model that no fixed affine map expresses.

They are verified and counted, and left out of the canonical form, whose steps have fixed coefficients so that a line
between two models stays a line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from symgraph.ir import Graph
from symgraph.orbit.constant_steps import turned
from symgraph.orbit.step import Dumped, Step
from symgraph.symmetry.families import Lean, Statistics
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.interpreter import call

State = dict[str, Tensor]
_PLACE = ("parameter", "start", "rows")


@dataclass(frozen=True, slots=True)
class Slant(Step):
    """Adds u along a plane's normal to its reader, and takes what the plane's height makes of it out of its own bias.

    Shapes: constant (n,), one number for each row of the reader, or of the lean's rows.
    """

    lean: Lean
    constant: Tensor
    kind: ClassVar[str] = "slant"

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; of two models with one gain also for their difference."""
        plane, sink, name = self.lean.plane, self.lean.sink, self.lean.plane.reader.parameter
        if linear and plane.gain:
            return state
        weight, changed = state[name], dict(state)
        if not linear:
            changed[name] = turned(weight, self.lean.rows, plane, state, self.constant)
        if sink:
            changed[sink] = state[sink] - self.constant.to(weight) * plane.height(state, weight)
        return changed

    @property
    def touched(self) -> Collection[str]:
        """The reader, and its bias."""
        return tuple(filter(None, (self.lean.plane.reader.parameter, self.lean.sink)))

    def beside(self, name: str) -> Collection[str]:
        """Both, and what the plane is made of."""
        return (*self.touched, *self.lean.plane.named)

    def inverse(self) -> Slant:
        """The step that undoes this one."""
        return Slant(self.lean, -self.constant)

    def dump(self) -> Dumped:
        """The place of the lean, and the constant."""
        return dict(zip(_PLACE, self.lean.place, strict=True)), {"constant": self.constant}

    @classmethod
    def load(cls, symmetry: SymmetryGraph, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Slant:
        """What `dump` gave."""
        leans = {lean.place: lean for lean in symmetry.leans}
        return Slant(leans[tuple(plain[key] for key in _PLACE)], tensors["constant"])


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
        statistics = self.statistics
        changed = dict(state)
        for name, change in zip(statistics.tensors, self.changes, strict=True):
            changed[name] = state[name] + change.to(state[name])
        slope, shift = affine(self.graph, statistics, state)
        new_slope, new_shift = affine(self.graph, statistics, changed)
        ratio = slope / new_slope
        changed[statistics.gain] = ratio * state[statistics.gain]
        changed[statistics.bias] = state[statistics.bias] + state[statistics.gain] * (shift - ratio * new_shift)
        return changed

    @property
    def touched(self) -> Collection[str]:
        """The statistics, the gain and the bias."""
        return (*self.statistics.tensors, self.statistics.gain, self.statistics.bias)

    def beside(self, name: str) -> Collection[str]:
        """All of them."""
        return self.touched

    def inverse(self) -> Restate:
        """The step that undoes this one."""
        return Restate(self.graph, self.statistics, -self.changes)


def affine(graph: Graph, statistics: Statistics, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Slope and shift of each channel before gain and bias: the operator is affine, so two points say all."""
    # The call is made on the host, wherever the state is.
    given = {operand: state[name].cpu() for operand, name in zip(statistics.operands, statistics.tensors, strict=True)}
    there = state[statistics.gain].device
    zero, one = (_channels(graph, statistics, given, level).to(there) for level in (0.0, 1.0))
    return one - zero, zero


def _channels(graph: Graph, statistics: Statistics, given: dict[str, Tensor], level: float) -> Tensor:
    """What the call makes of a constant input in each channel, with unit gain and no bias."""
    names = {
        graph.state[name].name: operand for name, operand in zip(statistics.tensors, statistics.operands, strict=True)
    }
    tail = {graph.state[statistics.gain].name: 1.0, graph.state[statistics.bias].name: 0.0}
    inputs: dict[str, Tensor] = {}
    for ref in graph.by_name[statistics.node].refs():
        flat = torch.full(graph.by_name[ref].shape, tail.get(ref, level), dtype=torch.float64)
        inputs[ref] = given[names[ref]] if ref in names else flat
    result = call(graph, statistics.node, inputs)
    return result.movedim(statistics.axis, -1).reshape(-1, result.shape[statistics.axis])[0]
