"""Transforms of parameters that keep the function: sequences of exact, invertible steps (design section 10).

A `Transform` is a tuple of steps. Each step is an affine map of the parameters with fixed coefficients. `Act` is a
symmetry where absorbed gains are one and moved constants zero; all other steps are symmetries everywhere. That is what
allows a model to be taken into the gauge of another one, c_A^-1 . g . c_B, and with its own gains and constants taken
out first (`carry`) any other model of the architecture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symgraph.errors import CheckpointError, SymgraphError
from symgraph.groups.elements import pair_indices
from symgraph.orbit.action import GroupElement, on_blocks, spread
from symgraph.orbit.blend import Blend
from symgraph.orbit.constant_steps import Lift, Offset, Push
from symgraph.orbit.spectral_gains import Isospectral
from symgraph.orbit.uneven import Restate, Slant, Turn
from symgraph.symmetry.families import Paired, Radial
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import AbsorbedGain
from symgraph.symmetry.terms import Leaf

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Act:
    """A group element on the spaces."""

    element: GroupElement

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state."""
        names = [n for n in self.element.touched if n in state]
        if linear:
            return {**state, **self.element(state, names)}
        symmetry = self.element.symmetry
        return {**state, **symmetry.shifted(self.element(symmetry.shifted({n: state[n] for n in names})), -1.0)}

    def inverse(self) -> Act:
        """The step that undoes this one."""
        return Act(self.element.inverse())


@dataclass(frozen=True, slots=True)
class Rescale:
    """Divides a gain by `factor` and lets its readers (or writers) carry it instead.

    Shapes: factor (n,), the size of the gain.
    """

    symmetry: SymmetryGraph
    sites: tuple[AbsorbedGain, ...]
    factor: Tensor

    @property
    def parameter(self) -> str:
        """The gain."""
        return self.sites[0].parameter

    @property
    def forward(self) -> bool:
        """Whether readers carry it."""
        return self.sites[0].forward

    @property
    def frames(self) -> dict[int, bool]:
        """The frames that it multiplies, and whether in dual orientation."""
        return {s.frame: s.flip for s in self.sites}

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state. A zero factor divides nothing: what it would divide must be zero already."""
        sign = 0.0 if linear else 1.0
        names = [n for n in (*self.symmetry.parameters_of_frames(self.frames), self.parameter) if n in state]
        found = self.symmetry.shifted({n: state[n] for n in names}, sign)
        for name in self.symmetry.parameters_of_frames(self.frames):
            if name in found:
                found[name] = on_blocks(found[name], self.symmetry.terms[name], self._block)
        if self.parameter in found:
            gain = found[self.parameter]
            found[self.parameter] = _divide(gain, self.factor.to(gain).reshape(gain.shape), one=not linear)
        return {**state, **self.symmetry.shifted(found, -sign)}

    def _block(self, tensor: Tensor, block: tuple[Leaf, ...]) -> Tensor:
        frames = self.frames
        for dim, leaf in enumerate(block):
            if leaf.frame in frames:
                v = spread(self.factor.to(tensor), tensor.dim(), [dim])
                turned = leaf.dual != self.symmetry.frame(leaf.frame).flip
                covariant = turned == frames[leaf.frame]
                tensor = _divide(tensor, v) if covariant == self.forward else tensor * v
        return tensor

    def check(self, state: State) -> None:
        """Raises for a zero gain where a bias would have to be divided by it; all others are absorbed.

        Raises:
            CheckpointError: naming the gain and the bias.
        """
        zero = self.factor == 0
        if not bool(zero.any()) or not self.forward:
            return
        for name in self.symmetry.parameters_of_frames(self.frames):
            bias = state.get(name)
            if bias is not None and bias.dim() == 1 and name != self.parameter and bool((bias[zero] != 0).any()):
                raise CheckpointError(
                    f"{self.parameter} has a zero where {name} has not",
                    cause="the bias of that unit can neither be moved into a reader nor divided by its gain",
                    remedy=f"set the entry of {name} to zero, or the gain to a small number, and try again",
                )

    def inverse(self) -> Rescale:
        """The step that undoes this one; raises for a factor with a zero."""
        if bool((self.factor == 0).any()):
            raise SymgraphError(
                f"the gauge of {self.parameter} is singular: the gain has a zero",
                cause="a model in canonical form cannot be taken back into a gauge that annihilates a direction",
                remedy="use the canonical form of this model, which is written beside the result",
            )
        return Rescale(self.symmetry, self.sites, 1.0 / self.factor)


def _divide(x: Tensor, v: Tensor, *, one: bool = False) -> Tensor:
    """x / v where v is not zero; elsewhere x must vanish, and the quotient is 0 (1 for the gain itself)."""
    zero = v == 0
    quotient = x / torch.where(zero, torch.ones_like(v), v)
    return torch.where(zero, torch.ones_like(quotient), quotient) if one else quotient


@dataclass(frozen=True, slots=True)
class Stretch:
    """Multiplies tensors by one positive factor."""

    radial: Radial
    factor: float

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state."""
        return {**state, **{n: state[n] * self.factor for n in self.radial.tensors if n in state}}

    def inverse(self) -> Stretch:
        """The step that undoes this one."""
        return Stretch(self.radial, 1.0 / self.factor)


@dataclass(frozen=True, slots=True)
class Trade:
    """Multiplies gains on one side of a rotary product by a factor for each frequency pair, and divides the others.

    Shapes: factor (n / 2,).
    """

    symmetry: SymmetryGraph
    paired: Paired
    factor: Tensor

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state."""
        sign = 0.0 if linear else 1.0
        names = [n for n, _ in self.paired.gains if n in state]
        found = self.symmetry.shifted({n: state[n] for n in names}, sign)
        for name, dual in self.paired.gains:
            if name in found:
                gain = found[name]
                spread_out = over_pairs(self.factor.to(gain), self.paired.layout).reshape(gain.shape)
                found[name] = gain / spread_out if dual else gain * spread_out
        return {**state, **self.symmetry.shifted(found, -sign)}

    def inverse(self) -> Trade:
        """The step that undoes this one."""
        return Trade(self.symmetry, self.paired, 1.0 / self.factor)


def over_pairs(values: Tensor, layout: str) -> Tensor:
    """A number for each frequency pair as one for each entry: shapes (n / 2,) -> (n,)."""
    found = values.new_empty(2 * len(values))
    for members in pair_indices(len(found), layout):
        found[members.to(values.device)] = values
    return found


Step = Act | Blend | Rescale | Push | Offset | Lift | Stretch | Trade | Slant | Turn | Isospectral | Restate


@dataclass(frozen=True, slots=True)
class Transform:
    """Steps applied from first to last."""

    steps: tuple[Step, ...] = ()

    def apply(self, state: Mapping[str, Tensor], *, linear: bool = False) -> State:
        """The transformed state, in the dtype of the input.

        Args:
            linear: transform a difference of two models (a task vector): constants that steps add are left out.
        """
        found = dict(state)
        for step in self.steps:
            found = step.apply(found, linear=linear)
        return found

    def carry(self, state: Mapping[str, Tensor]) -> State:
        """The same elements on another model: its own constants and gains are taken out first, its function is kept.

        For the model that the transform was made from this is `apply`.

        Raises:
            CheckpointError: a gain is zero where a bias would have to be divided by it.
        """
        found, seen = dict(state), set[object]()
        for step in self.steps:
            step = _own(step, found, seen)
            if isinstance(step, Rescale):
                step.check(found)
            found = step.apply(found)
        return found

    def inverse(self) -> Transform:
        """The transform that undoes this one."""
        return Transform(tuple(s.inverse() for s in reversed(self.steps)))

    def then(self, other: Transform) -> Transform:
        """This transform, then `other`; neighbouring group elements are multiplied."""
        steps = list(self.steps)
        for step in other.steps:
            if steps and isinstance(step, Act) and isinstance(steps[-1], Act):
                steps[-1] = Act(step.element.after(steps[-1].element))
            else:
                steps.append(step)
        return Transform(tuple(steps))


def _own(step: Step, state: State, seen: set[object]) -> Step:
    """The step with the coefficient that this state calls for, the first time a gain or a constant is taken out."""
    place = _place(step)
    if place is None or place in seen or (isinstance(place, str) and place not in state):
        return step
    seen.add(place)
    if isinstance(step, Stretch):
        return replace(step, factor=unit_length(step.radial, state))
    if isinstance(step, Rescale):
        return replace(step, factor=gain_of(step.symmetry, state, step.parameter))
    if isinstance(step, Push) and step.sinks and step.source.parameter in state:
        return replace(step, constant=step.source.of(state[step.source.parameter]).clone())
    return step


def _place(step: Step) -> object:
    """What a step takes out, if a model's own coefficient is to be used the first time."""
    if isinstance(step, Push):
        return step.source
    if isinstance(step, Rescale):
        return step.parameter
    return step.radial if isinstance(step, Stretch) else None


def unit_length(radial: Radial, state: Mapping[str, Tensor]) -> float:
    """The factor that makes the mean square of the tensors together one; one where they are zero."""
    held = [state[n] for n in radial.tensors if n in state]
    square = sum(float(t.square().sum()) for t in held)
    return (sum(t.numel() for t in held) / square) ** 0.5 if square > 0 else 1.0


def gain_of(symmetry: SymmetryGraph, state: Mapping[str, Tensor], name: str) -> Tensor:
    """What a gain multiplies by: the parameter, with the number that the model adds to it; shapes (n,)."""
    return state[name].reshape(-1) + symmetry.offsets.get(name, 0.0)


def rescale(symmetry: SymmetryGraph, gains: Iterable[AbsorbedGain], factor: Tensor) -> Rescale:
    """The step that divides one gain (all its absorption sites) by `factor`."""
    found = tuple(gains)
    return Rescale(symmetry, found, factor)
