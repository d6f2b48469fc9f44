"""Steps that depend on the parameters around them: symmetries of every model that no fixed affine map expresses.

They are verified and counted, and left out of the canonical form, whose steps have fixed coefficients so that a line
between two models stays a line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from symgraph.orbit.constant_steps import turned
from symgraph.orbit.norm_call import NormCall
from symgraph.orbit.step import Dumped, Step
from symgraph.symmetry.families import Lean
from symgraph.symmetry.graph import SymmetryGraph

State = dict[str, Tensor]
_PLACE = ("parameter", "start", "rows")


@dataclass(frozen=True, slots=True)
class Slant(Step):
    """Adds u along a plane's normal to its reader, and takes what the plane's height makes of it out of its own bias.

    Shapes: constant (n,), one number for each row of the reader, or of the lean's rows.
    """

    symmetry: SymmetryGraph
    lean: Lean
    constant: Tensor
    kind: ClassVar[str] = "slant"

    def act(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; of two models with one gain also for their difference."""
        plane, sink, name = self.lean.plane, self.lean.sink, self.lean.plane.reader.parameter
        if linear and plane.gain:
            return state
        weight, changed = state[name], dict(state)
        if not linear:
            changed[name] = turned(weight, self.lean.rows, plane, state, self.constant)
        if sink:
            amounts = self.constant.to(weight).reshape(state[sink].shape)
            changed[sink] = state[sink] - amounts * plane.height(state, weight)
        return changed

    @property
    def moves(self) -> Collection[str]:
        """The reader, and its bias."""
        return tuple(filter(None, (self.lean.plane.reader.parameter, self.lean.sink)))

    def needs(self, name: str) -> Collection[str]:
        """Both, and what the plane is made of."""
        return (*self.moves, *self.lean.plane.named)

    def inverse(self) -> Slant:
        """The step that undoes this one."""
        return replace(self, constant=-self.constant)

    def dump(self) -> Dumped:
        """The place of the lean, and the constant."""
        return dict(zip(_PLACE, self.lean.place, strict=True)), {"constant": self.constant}

    @classmethod
    def load(cls, symmetry: SymmetryGraph, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Slant:
        """What `dump` gave."""
        leans = {lean.place: lean for lean in symmetry.leans}
        return Slant(symmetry, leans[tuple(plain[key] for key in _PLACE)], tensors["constant"])


@dataclass(frozen=True, slots=True)
class Restate(Step):
    """Replaces stored statistics and lets gain and bias make up for it, whatever the operator does with them.

    Shapes: changes (operands, n), added to the statistics.
    """

    symmetry: SymmetryGraph
    norm: NormCall
    changes: Tensor

    def act(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; nothing changes for a difference of two models."""
        if linear:
            return state
        statistics = self.norm.statistics
        changed = dict(state)
        for name, change in zip(statistics.tensors, self.changes, strict=True):
            changed[name] = state[name] + change.to(state[name])
        slope, shift = self.norm.affine(state)
        new_slope, new_shift = self.norm.affine(changed)
        ratio = slope / new_slope
        changed[statistics.gain] = ratio * state[statistics.gain]
        changed[statistics.bias] = state[statistics.bias] + state[statistics.gain] * (shift - ratio * new_shift)
        return changed

    @property
    def moves(self) -> Collection[str]:
        """The statistics, the gain and the bias."""
        statistics = self.norm.statistics
        return (*statistics.tensors, statistics.gain, statistics.bias)

    def needs(self, name: str) -> Collection[str]:
        """All of them."""
        return self.moves

    def inverse(self) -> Restate:
        """The step that undoes this one."""
        return replace(self, changes=-self.changes)
