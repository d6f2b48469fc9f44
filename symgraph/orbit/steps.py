"""Transforms of parameters that keep the function: sequences of exact, invertible steps (design section 10).

A `Transform` is a tuple of steps. Each step is an affine map of the parameters with fixed coefficients. `Act` is a
symmetry where absorbed gains are one and moved constants zero; all other steps are symmetries everywhere. That is what
allows a model to be taken into the gauge of another one, c_A^-1 . g . c_B, and with its own gains and constants taken
out first (`carried`) any other model of the architecture.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from symgraph.errors import CheckpointError, SymgraphError
from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import PARTS, Element
from symgraph.orbit.action import GroupElement, neutral
from symgraph.orbit.on_demand import Carried
from symgraph.orbit.step import Dumped, Step
from symgraph.orbit.tensor_blocks import blocks, on_blocks, spread
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.lengths import Radial
from symgraph.symmetry.structure import AbsorbedGain
from symgraph.symmetry.terms import Concat, Leaf, Term

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Act(Step):
    """A group element on the spaces."""

    element: GroupElement
    kind: ClassVar[str] = "act"

    @property
    def symmetry(self) -> SymmetryGraph:  # type: ignore[override]
        """That of the element."""
        return self.element.symmetry

    def act(self, state: State, *, linear: bool = False) -> State:
        """The transformed state."""
        return {**state, **self.element(state, [name for name in self.element.moves if name in state])}

    def on_value(self, value: Tensor, axes: Sequence[Term]) -> Tensor:
        """The value after the element has acted."""
        return self.element.on(value, axes)

    @property
    def moves(self) -> Collection[str]:
        """Everything on the spaces that it moves."""
        return self.element.moves

    def needs(self, name: str) -> Collection[str]:
        """The same of other branches, which it acts on together with one."""
        return stack.members if (stack := self.element.symmetry.stack_of.get(name)) is not None else ()

    def inverse(self) -> Act:
        """The step that undoes this one."""
        return Act(self.element.inverse())

    def after(self, first: Step) -> Act | None:
        """The product of two group elements."""
        return Act(self.element.after(first.element)) if isinstance(first, Act) else None

    def dump(self) -> Dumped:
        """Its elements by the names of the spaces."""
        named = {self.element.symmetry.spaces[space].name: element for space, element in self.element.elements.items()}
        rotations = [name for name, element in named.items() if element.is_rotation]
        parts = {
            f"{name}.{part}": tensor for name, element in named.items() for part, tensor in element.tensors().items()
        }
        return {"spaces": list(named), "rotations": rotations}, parts

    @classmethod
    def load(cls, symmetry: SymmetryGraph, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Act:
        """What `dump` gave."""
        rotations = plain.get("rotations", ())
        elements = (_element(name, name in rotations, symmetry, tensors) for name in plain["spaces"])
        return Act(GroupElement(symmetry, dict(elements)))


def _element(name: str, rotation: bool, symmetry: SymmetryGraph, tensors: Mapping[str, Tensor]) -> tuple[int, Element]:
    space = symmetry.space(name)
    parts = {part: tensors[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in tensors}
    whole = {part: tensor.shape for part, tensor in neutral(symmetry, space).tensors().items()}
    whole |= {"inverse_transpose": whole["matrix"]} if "matrix" in whole else {}
    fits = all(tensor.shape == whole.get(part) for part, tensor in parts.items())
    if not fits or not parts.keys() & {"index", "matrix"}:
        raise ValueError(f"the element of {name} is incomplete or has other shapes")
    if problem := _problem(parts, rotation or space.group in _COMPACT):
        raise ValueError(f"the element of {name} {problem}")
    return space.id, Element.rotation(parts["matrix"]) if rotation and "matrix" in parts else Element(**parts)


_COMPACT = (SymmetryClass.ORTHOGONAL, SymmetryClass.ORTHOGONAL_ONES, SymmetryClass.PAIRWISE_ROTATIONS)
# What rounding leaves of the identity, in a product of a matrix with its inverse.
_ROUNDED = 1e-6


def _problem(parts: Mapping[str, Tensor], rotation: bool) -> str:
    """What keeps tensors from being an element: permutations are permutations, orthogonal matrices orthogonal."""
    if not all(bool(tensor.isfinite().all()) for tensor in parts.values()):
        return "is not finite"
    if (index := parts.get("index")) is not None:
        count = torch.arange(index.shape[-1], dtype=index.dtype)
        if not bool((index.sort(-1).values == count).all()):
            return "is no permutation"
    if "scale" in parts and bool((parts["scale"] <= 0).any()):
        return "has a scale that is not positive"
    if "sign" in parts and bool((parts["sign"].abs() != 1).any()):
        return "has a sign that is neither 1 nor -1"
    if "matrix" not in parts:
        return ""
    matrix = parts["matrix"].double()
    dual = matrix if rotation else parts.get("inverse_transpose", torch.linalg.pinv(matrix).mT).double()
    error = (matrix @ dual.mT - torch.eye(matrix.shape[-1], dtype=torch.float64)).abs().max()
    return "" if float(error) <= _ROUNDED else "is not orthogonal" if rotation else "has no inverse"


@dataclass(frozen=True, slots=True)
class Rescale(Step):
    """Divides a gain by `factor` and lets its readers (or writers) carry it instead.

    Shapes: factor (n,), the size of the gain.
    """

    symmetry: SymmetryGraph
    sites: tuple[AbsorbedGain, ...]
    factor: Tensor
    kind: ClassVar[str] = "rescale"

    @property
    def parameter(self) -> str:
        """The gain."""
        return self.sites[0].parameter

    @property
    def forward(self) -> bool:
        """Whether readers carry it."""
        return self.sites[0].forward

    @property
    def frames(self) -> dict[int, AbsorbedGain]:
        """The frames that it multiplies, each with how."""
        return {site.frame: site for site in self.sites}

    def act(self, state: State, *, linear: bool = False) -> State:
        """The transformed state. A zero factor divides nothing: what it would divide must be zero already."""
        changed = dict(state)
        for name in self.symmetry.parameters_of_frames(self.frames):
            if name in changed:
                changed[name] = on_blocks(changed[name], self.symmetry.read_terms[name], self._block)
        if self.parameter in changed:
            gain = changed[self.parameter]
            changed[self.parameter] = _divide(gain, self.factor.to(gain).reshape(gain.shape), one=not linear)
        return changed

    def on_value(self, value: Tensor, axes: Sequence[Term]) -> Tensor:
        """A value that the gain multiplies, with as much less of it."""
        return on_blocks(value, axes, self._block)

    @property
    def moves(self) -> Collection[str]:
        """The gain, and all that reads or writes what it multiplies."""
        return (*self.symmetry.parameters_of_frames(self.frames), self.parameter)

    def _block(self, tensor: Tensor, block: tuple[Leaf, ...]) -> Tensor:
        frames = self.frames
        at = {leaf.frame: dim for dim, leaf in enumerate(block)}
        for dim, leaf in enumerate(block):
            if leaf.frame in frames:
                dims = [dim, *(at[inside] for inside in frames[leaf.frame].inside)]
                factor = spread(self._on([block[i] for i in dims]).to(tensor), tensor.dim(), dims)
                turned = leaf.dual != self.symmetry.frame(leaf.frame).flip
                covariant = turned == frames[leaf.frame].flip
                tensor = _divide(tensor, factor) if covariant == self.forward else tensor * factor
        return tensor

    def _on(self, leaves: Sequence[Leaf]) -> Tensor:
        """What of the factor multiplies one of its frames, or several together, which have a dimension each."""
        factor = self.factor.reshape(-1)
        for term in self.symmetry.read_terms[self.parameter]:
            if isinstance(term, Concat) and term.order:
                factor = factor[list(term.places)]
        sizes = [leaf.size for leaf in leaves]
        return factor.narrow(0, self.frames[leaves[0].frame].start, prod(sizes)).reshape(sizes)

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Raises for a zero gain where a bias would have to be divided by it; all others are absorbed.

        Raises:
            CheckpointError: naming the gain and the bias.
        """
        if not bool((self.factor == 0).any()) or not self.forward:
            return
        for name in self.symmetry.parameters_of_frames(self.frames):
            bias = state.get(name)
            if bias is not None and name != self.parameter and self._annihilates(name, bias):
                raise CheckpointError(
                    f"{self.parameter} has a zero where {name} has not",
                    cause="the bias of that unit can neither be moved into a reader nor divided by its gain",
                    remedy=f"set the entry of {name} to zero, or the gain to a small number, and try again",
                )

    def _annihilates(self, name: str, bias: Tensor) -> bool:
        """Whether a zero of the factor stands where a vector has none."""
        terms = self.symmetry.read_terms[name]
        for block in blocks(name, [bias], terms) if bias.dim() == 1 else ():
            first, (part, *_) = block.leaves[0].frame, block.tensors
            if first in self.frames and bool((part[self._on(block.leaves) == 0] != 0).any()):
                return True
        return False

    def inverse(self) -> Rescale:
        """The step that undoes this one; raises for a factor with a zero."""
        if bool((self.factor == 0).any()):
            raise SymgraphError(
                f"the gauge of {self.parameter} is singular: the gain has a zero",
                cause="a model in canonical form cannot be taken back into a gauge that annihilates a direction",
                remedy="use the canonical form of this model, which is written beside the result",
            )
        return Rescale(self.symmetry, self.sites, 1.0 / self.factor)

    @property
    def takes(self) -> object:
        """The gain."""
        return self.parameter

    def fitted(self, state: Mapping[str, Tensor]) -> Rescale:
        """Another model's gain."""
        own = self.parameter in self.symmetry.raised(state)
        return rescale(self.symmetry, self.sites, gain_of(self.symmetry, state, self.parameter)) if own else self

    def dump(self) -> Dumped:
        """The name of the gain, and the factor."""
        return {"parameter": self.parameter}, {"factor": self.factor}

    @classmethod
    def load(cls, symmetry: SymmetryGraph, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Rescale:
        """What `dump` gave."""
        return rescale(symmetry, symmetry.gain_sites[plain["parameter"]], tensors["factor"])


def _divide(tensor: Tensor, factor: Tensor, *, one: bool = False) -> Tensor:
    """x / v where v is not zero; elsewhere x must vanish, and the quotient is 0 (1 for the gain itself)."""
    zero = factor == 0
    quotient = tensor / torch.where(zero, torch.ones_like(factor), factor)
    return torch.where(zero, torch.ones_like(quotient), quotient) if one else quotient


@dataclass(frozen=True, slots=True)
class Stretch(Step):
    """Multiplies tensors by one factor, or by powers of it; beside a number it may be negative.

    Shapes: factor has that of the family's factors.
    """

    symmetry: SymmetryGraph
    radial: Radial
    factor: Tensor
    kind: ClassVar[str] = "stretch"

    def act(self, state: State, *, linear: bool = False) -> State:
        """The transformed state."""
        return {**state, **self.radial.times(state, self.factor)}

    @property
    def moves(self) -> Collection[str]:
        """The tensors."""
        return self.radial.tensors

    def inverse(self) -> Stretch:
        """The step that undoes this one."""
        return replace(self, factor=1.0 / self.factor)

    @property
    def takes(self) -> object:
        """The length of the tensors."""
        return self.radial

    def fitted(self, state: Mapping[str, Tensor]) -> Stretch:
        """Another model's length."""
        return replace(self, factor=unit_length(self.radial, self.symmetry.raised(state)))

    def dump(self) -> Dumped:
        """The first of the tensors, and the factor."""
        parameter, start = self.radial.place
        return {"parameter": parameter, "start": start}, {"factor": self.factor}

    @classmethod
    def load(cls, symmetry: SymmetryGraph, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Stretch:
        """What `dump` gave."""
        families = {radial.place: radial for radial in symmetry.radial}
        return Stretch(symmetry, families[plain["parameter"], plain.get("start", 0)], tensors["factor"])


@dataclass(frozen=True, slots=True)
class Transform:
    """Steps applied from first to last."""

    steps: tuple[Step, ...] = ()

    def apply(self, state: Mapping[str, Tensor], *, linear: bool = False) -> State:
        """The transformed state, in the dtype of the input.

        Args:
            linear: transform a difference of two models (a task vector): constants that steps add are left out.
        """
        moved = dict(state)
        for step in self.steps:
            moved = step.apply(moved, linear=linear)
        return moved

    def moved(self, state: Mapping[str, Tensor]) -> State:
        """What `apply` gives; of a state that is read where it is needed, each tensor made where it is needed."""
        carried = Carried(state)
        for step in self.steps:
            carried.take(step)
        return carried.whole()

    def carried(self, state: Mapping[str, Tensor], *, linear: bool = False) -> Carried:
        """The same elements on another model: its own constants and gains are taken out first, its function is kept.

        For the model that the transform was made from this is `apply`. Each tensor is made when it is asked for.

        Args:
            linear: what `apply` gives for a difference of two models, in the same way.

        Raises:
            CheckpointError: a gain is zero where a bias would have to be divided by it.
        """
        carried = Carried(state, linear=linear)
        for step in self.steps if linear else self._fitted(carried):
            carried.take(step)
        return carried

    def fitted(self, state: Mapping[str, Tensor]) -> Transform:
        """The transform by which `carried` takes this very state: with its own constants and gains in the steps.

        Raises:
            CheckpointError: a gain is zero where a bias would have to be divided by it.
        """
        carried, steps = Carried(state), []
        for step in self._fitted(carried):
            carried.take(step)
            steps.append(step)
        return Transform(tuple(steps))

    def on_value(self, value: Tensor, axes: Sequence[Term]) -> Tensor:
        """What becomes of a value of the model with these axes, constants that steps add left out."""
        for step in self.steps:
            value = step.on_value(value, axes)
        return value

    def _fitted(self, state: Mapping[str, Tensor]) -> Iterator[Step]:
        """The steps for a state that has taken all before when it is asked for the next one."""
        seen: set[object] = {None}
        for step in self.steps:
            if step.takes not in seen:
                seen.add(step.takes)
                step = step.fitted(state)
            step.check(state if step.symmetry.is_plain else step.symmetry.raised(state))
            yield step

    def inverse(self) -> Transform:
        """The transform that undoes this one."""
        return Transform(tuple(step.inverse() for step in reversed(self.steps)))

    def then(self, other: Transform) -> Transform:
        """This transform, then `other`; neighbouring group elements are multiplied."""
        steps = list(self.steps)
        for step in other.steps:
            both = step.after(steps[-1]) if steps else None
            steps[len(steps) - (both is not None) :] = [both or step]
        return Transform(tuple(steps))


def unit_length(radial: Radial, state: Mapping[str, Tensor]) -> Tensor:
    """The factors that make mean squares of the tensors together one, or their number; one where these are zero.

    Of tensors that make up for each other it is the one of least norm.

    Args:
        state: with every offset added.
    """
    if radial.by_number:
        number = radial.number(state)
        return torch.where(number == 0, 1.0, number) ** -radial.powers[0]
    if radial.is_traded:
        return radial.balanced(state)
    squares, count = radial.squares(state)
    return torch.where(squares > 0, (count / squares.clamp_min(torch.finfo(torch.float64).tiny)).sqrt(), 1.0)


def gain_of(symmetry: SymmetryGraph, state: Mapping[str, Tensor], name: str) -> Tensor:
    """What a gain multiplies by: the parameter, with the number that the model adds to it; shapes (n,)."""
    return symmetry.raised(state)[name].reshape(-1)


def rescale(symmetry: SymmetryGraph, gains: Iterable[AbsorbedGain], factor: Tensor) -> Rescale:
    """The step that divides one gain (all its absorption sites) by `factor`."""
    return Rescale(symmetry, tuple(gains), factor)
