"""How two matched models came into one basis: what leads to canonical form, from there together, and to their gauge."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.io.models import Model
from symgraph.orbit.action import GroupElement
from symgraph.orbit.blend import Blend
from symgraph.orbit.step import Step
from symgraph.orbit.steps import Act, State, Transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.tracing import state_of
from symgraph.tracing.deferred import later_in_float64, made
from symgraph.tracing.sampling import in_dtype


@dataclass(frozen=True)
class PairBasis:
    """Two models as they were matched, and the transforms of each, A first.

    `canonical` leads from the weights of a model to its canonical form, `basis` from there to the common basis, and
    `gauge` from the common basis to where the models are used (nowhere, if that is in canonical form). `weighting` is
    what the match weighed distances with.
    """

    symmetry: SymmetryGraph
    models: tuple[Model, Model]
    canonical: tuple[Transform, Transform]
    basis: tuple[Transform, Transform]
    gauge: Transform
    weighting: str | Mapping[str, float]

    def before(self, model: int) -> State:
        """A model in canonical form, float32; buffers that the graph does not read are left out."""
        return self._moved(model, self.canonical[model])

    def after(self, model: int) -> State:
        """A model in canonical form and in the common basis, float32."""
        return self._moved(model, self.canonical[model].then(self.basis[model]))

    def _moved(self, model: int, transform: Transform) -> State:
        done = transform.carried(self.given(model))
        names = self.symmetry.graph.parameters
        with torch.no_grad():
            return in_dtype({name: done.alone(name) for name in names if name in done}, torch.float32)

    def given(self, model: int) -> State:
        """The weights of a model that the graph reads, in float64 where they are needed."""
        held = {
            name: tensor.detach()
            for name, tensor in state_of(self.models[model].module).items()
            if name in self.symmetry.terms
        }
        return later_in_float64(held)

    @cached_property
    def element(self) -> GroupElement:
        """The element that brings B to A, in canonical form; what is blended stays out of it."""
        first, second = (_acts(self.symmetry, t) for t in self.basis)
        return first.inverse().after(second) if first.elements else second

    def moved_spaces(self) -> list[Space]:
        """The spaces on which anything was found, outer ones first."""
        ids = {i for t in self.basis for step in t.steps for i in _spaces(step)}
        return [space for space in self.symmetry.active if space.id in ids]

    def _with_inside(self, space: Space) -> set[int]:
        """A space, and what is fibred over it."""
        return {space.id, *(inner.id for inner in self.symmetry.active if space.id in inner.fibre)}

    def without(self, space: Space) -> PairBasis:
        """The same with one space, and what is fibred over it, left as it was."""
        left = self._with_inside(space)
        first, second = (Transform(tuple(s for step in t.steps for s in _left(step, left))) for t in self.basis)
        return replace(self, basis=(first, second))

    def used(self, model: int, names: Collection[str]) -> dict[str, Tensor]:
        """Some tensors of a model as it is used, in its own dtypes."""
        whole = self.canonical[model].then(self.basis[model]).then(self.gauge)
        done, like = whole.carried(self.given(model)), state_of(self.models[model].module)
        with torch.no_grad():
            return {name: made(done.alone(name)).to(like[name].dtype) for name in names if name in done}

    def own_states(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> tuple[State, State]:
        """States of the two as results hold them, of those tensors alone that the matched models have in that shape."""
        like = [state_of(model.module) for model in self.models]
        one, other = (
            {name: tensor for name, tensor in s.items() if name in known and tensor.shape == known[name].shape}
            for s, known in zip((first, second), like, strict=True)
        )
        return one, other

    def affected(self, space: Space) -> set[str]:
        """The tensors that are others where a space is left as it was."""
        left = self._with_inside(space)
        found = {name for i in left for name in self.symmetry.parameters_of[i]}
        # Constants arrive at biases by way of matrices, which are others now.
        for step in self.gauge.steps:
            found |= {name for name in step.touched if found & set(step.beside(name))}
        return found


def _acts(symmetry: SymmetryGraph, transform: Transform) -> GroupElement:
    found = GroupElement(symmetry, {})
    for step in transform.steps:
        if isinstance(step, Act):
            found = step.element.after(found)
    return found


def _spaces(step: Step) -> Collection[int]:
    if isinstance(step, Act):
        return step.element.elements.keys()
    return (step.space,) if isinstance(step, Blend) else ()


def _left(step: Step, spaces: Collection[int]) -> tuple[Step, ...]:
    """A step without what it does on some spaces."""
    if isinstance(step, Blend):
        return () if step.space in spaces else (step,)
    if not isinstance(step, Act):
        return (step,)
    kept = {i: element for i, element in step.element.elements.items() if i not in spaces}
    return (Act(GroupElement(step.element.symmetry, kept)),) if kept else ()


def require_basis(found: PairBasis | None) -> PairBasis:
    """The basis of an alignment.

    Raises:
        UsageError: it was not kept.
    """
    if found is None:
        raise UsageError("the alignment does not say how it was found", remedy="take what `symgraph.align` gives")
    return found
