"""What an alignment does to the values of a model: x' = L x + c along one axis of a value that has a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symgraph.errors import UsageError, VerifyError
from symgraph.io.models import Model
from symgraph.io.shown import Shown
from symgraph.match.named_values import named_value
from symgraph.orbit.alignment import Alignment
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Term, leaves
from symgraph.tracing import state_of
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import float64, random_inputs

# Of a value's size: what rounding in float64 leaves after a whole model.
TOLERANCE = 1e-7
_BATCHES = 4


@dataclass(frozen=True, repr=False)
class ValueMap(Shown):
    """How a value of one model is found in another basis: x' = `matrix` x + `constant`, along `axis` of `value`.

    Shapes: matrix (d, d), constant (d,), float64. `terms` are what the axis is made of. `centred` says that the mean
    along the axis is not carried: only norms that take it out read the value, so that each basis has a mean of its own.
    """

    value: str
    axis: int
    matrix: Tensor
    constant: Tensor
    terms: str
    centred: bool = False

    def about(self, before: Tensor, after: Tensor) -> ValueMap:
        """The same map about the means of the value, (d,) before and after, which the constant takes to one another."""
        constant = after - self.matrix @ before
        return replace(self, constant=_without_mean(constant) if self.centred else constant)

    def directions(self, vectors: Tensor) -> Tensor:
        """Vectors that are added to the value, or differences of it: (..., d)."""
        return vectors.double() @ self.matrix.T

    def points(self, vectors: Tensor) -> Tensor:
        """Values themselves: (..., d)."""
        return self.directions(vectors) + self.constant

    def readers(self, weight: Tensor) -> Tensor:
        """Rows that read the value, w . x: (..., d)."""
        given = _without_mean(weight.double()) if self.centred else weight.double()
        found: Tensor = torch.linalg.solve(self.matrix.T, given.unsqueeze(-1)).squeeze(-1)
        return _without_mean(found) if self.centred else found

    def __str__(self) -> str:
        moved = "moved" if bool(self.constant.abs().max() > TOLERANCE) else "as it is"
        return f"{self.value}, axis {self.axis} ({self.terms}): a map of {len(self.matrix)} numbers, the origin {moved}"


def value_map(base: Model, there: Alignment, at: str) -> ValueMap:
    """What an alignment makes of a value of `base`, measured in the model before and after.

    Args:
        there: from `base` to the other model's basis.
        at: a value of the graph (`symgraph.infer(base).edges()` lists them), or a module, whose result is meant.

    Raises:
        UsageError: there is no such value, or it moves along no axis or along several.
        VerifyError: the value after the alignment is not that map of the value before.
    """
    symmetry = there.symmetry
    node, axis, term = axis_at(symmetry, at)
    wide = float64(state_of(base.module))
    fitted = there.transform.fitted(wide)
    eye = torch.eye(term.size, dtype=torch.float64)
    # Column j of L is what becomes of the j-th unit.
    matrix = fitted.on_value(eye, (term,))
    constant, centred = _constant(there, node, axis, matrix, wide)
    return ValueMap(node, axis, matrix, constant, _words(symmetry, term), centred)


def axis_at(symmetry: SymmetryGraph, at: str) -> tuple[str, int, Term]:
    """The name of a value, the one axis along which it moves, and what that is made of.

    Raises:
        UsageError: there is no such value, or it moves along no axis or along several.
    """
    node = named_value(symmetry.graph, at)
    axes = symmetry.values.get(node) or symmetry.terms.get(node) or ()
    axis = _moving(symmetry, at, axes)
    return node, axis, axes[axis]


def _words(symmetry: SymmetryGraph, term: Term) -> str:
    """The spaces that an axis is made of."""
    return " x ".join(dict.fromkeys(symmetry.spaces[leaf.space].name for leaf in leaves(term)))


def _moving(symmetry: SymmetryGraph, at: str, axes: Sequence[Term]) -> int:
    active = {space.id for space in symmetry.active}
    moving = [i for i, term in enumerate(axes) if {leaf.space for leaf in leaves(term)} & active]
    if len(moving) == 1:
        return moving[0]
    if not moving:
        remedy = "what belongs to it needs no carrying: use it as it is"
        raise UsageError(f"nothing acts on the value {at!r}", remedy=remedy)
    cause = f"the group acts on {len(moving)} of its axes"
    remedy = "name the value before it is cut, or after"
    raise UsageError(f"{at!r} moves along several axes", cause=cause, remedy=remedy)


def _constant(
    there: Alignment, node: str, axis: int, matrix: Tensor, wide: Mapping[str, Tensor]
) -> tuple[Tensor, bool]:
    """What is left of the value after the map, on random inputs: it must be the same everywhere, but for the mean."""
    graph = there.symmetry.graph
    after, run = there.apply(wide), Interpreter(graph)
    rows, largest = [], 0.0
    generator = torch.Generator().manual_seed(0)
    for _ in range(_BATCHES):
        inputs = random_inputs(graph, generator)
        before, moved = (run.run(state, inputs, [node])[1][node].movedim(axis, -1).double() for state in (wide, after))
        rows.append((moved - before @ matrix.T).reshape(-1, len(matrix)))
        largest = max(largest, float(moved.abs().max()))
    whole = torch.cat(rows)
    errors = []
    for centred, left in ((False, whole), (True, _without_mean(whole))):
        constant = left.mean(0)
        errors.append(float((left - constant).abs().max()) / (largest or 1.0))
        if errors[-1] <= TOLERANCE:
            return constant, centred
    raise VerifyError(
        f"{node} after the alignment is not a map of {node} before: they differ by {errors[0]:.1e} of its size",
        cause="the alignment moves a constant into it that differs by position",
        remedy="name another value: the result of a whole block",
    )


def _without_mean(rows: Tensor) -> Tensor:
    return rows - rows.mean(-1, keepdim=True)
