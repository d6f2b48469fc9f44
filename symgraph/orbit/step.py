"""What every step of a transform can do: act on a state, be undone, fit another model, be written and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Term

State = dict[str, Tensor]
# What a step comes to in a file: plain data, and tensors by name.
Dumped = tuple[dict[str, Any], dict[str, Tensor]]


class Step(ABC):
    """An affine map of the parameters of a `symmetry` that keeps the function; `kind` is what files call it."""

    __slots__ = ()
    kind: ClassVar[str] = ""
    symmetry: SymmetryGraph

    def apply(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; with `linear` that of a difference of two models, which no constant is added to."""
        if linear:
            return self._on_difference(state)
        if not self.symmetry.offsets:
            return self.act(state)
        raised = {**state, **self.symmetry.shifted(self._with_offsets(state))}
        moved = self.act(raised)
        changed = {name: moved[name] for name in self._with_offsets(state) if moved[name] is not raised[name]}
        return {**moved, **self._with_offsets(state), **self.symmetry.shifted(changed, -1.0)}

    def _on_difference(self, state: State) -> State:
        """What becomes of a difference of two models: one of logarithms does not change where both are multiplied."""
        positive = [name for name in self._with_offsets(state) if self.symmetry.is_positive(name)]
        ratios = {name: state[name].exp() for name in positive}
        moved = self.act({**state, **ratios}, linear=True)
        if not positive:
            return moved
        alike = self.act({**state, **{name: torch.ones_like(state[name]) for name in positive}}, linear=True)
        return {**moved, **{name: (moved[name] / alike[name]).log() for name in positive}}

    def _with_offsets(self, state: State) -> State:
        return {name: state[name] for name in self.symmetry.offsets if name in state}

    @abstractmethod
    def act(self, state: State, *, linear: bool = False) -> State:
        """What `apply` makes of a state in which every offset has been added, so that the group acts linearly."""

    @abstractmethod
    def inverse(self) -> Step:
        """The step that undoes this one."""

    def on_value(self, value: Tensor, axes: Sequence[Term]) -> Tensor:
        """What becomes of a value of the model with these axes, constants left out: most steps move weights alone."""
        return value

    @property
    @abstractmethod
    def touched(self) -> Collection[str]:
        """Names of the tensors that it may change."""

    def beside(self, name: str) -> Collection[str]:
        """Those that the new value of one of these is made of, beside its old one."""
        return ()

    def after(self, first: Step) -> Step | None:
        """Both as one step, where they are of a kind that can be multiplied."""
        return None

    @property
    def takes(self) -> object:
        """What it takes out of a model, so that another model's own has to be taken out the first time; or None."""
        return None

    def fitted(self, state: Mapping[str, Tensor]) -> Step:
        """The same with the coefficients that this state calls for."""
        return self

    def check(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most steps keep every function
        """Raises where the step would not keep the function of this state."""

    def dump(self) -> Dumped:
        """What a file keeps.

        Raises:
            UsageError: a step of this kind depends on the state around it, and is not kept.
        """
        raise UsageError(f"an alignment holds no step of the kind {type(self).__name__}")

    @classmethod
    def load(cls, symmetry: SymmetryGraph, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Step:
        """What `dump` gave, for an architecture.

        Raises:
            ValueError: it is incomplete, or does not fit.
        """
        raise ValueError(f"no file holds a step of the kind {cls.__name__}")

    def __str__(self) -> str:
        plain, _ = self.dump()
        return " ".join([self.kind, *(f"{key} {value}" for key, value in plain.items())])
