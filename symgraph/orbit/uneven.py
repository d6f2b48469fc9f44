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
        weight, found = state[name], dict(state)
        if not linear:
            found[name] = turned(weight, self.lean.rows, plane, state, self.constant)
        if sink:
            found[sink] = state[sink] - self.constant.to(weight) * plane.height(state, weight)
        return found

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
        leans = {x.place: x for x in symmetry.leans}
        return Slant(leans[tuple(plain[k] for k in _PLACE)], tensors["constant"])


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
        slope, shift = affine(self.graph, s, state)
        new_slope, new_shift = affine(self.graph, s, changed)
        ratio = slope / new_slope
        changed[s.gain] = ratio * state[s.gain]
        changed[s.bias] = state[s.bias] + state[s.gain] * (shift - ratio * new_shift)
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


def affine(graph: Graph, s: Statistics, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Slope and shift of each channel before gain and bias: the operator is affine, so two points say all."""
    given = {k: state[t] for k, t in zip(s.operands, s.tensors, strict=True)}
    zero, one = (_channels(graph, s, given, x) for x in (0.0, 1.0))
    return one - zero, zero


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
