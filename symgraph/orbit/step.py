"""What every step of a transform can do: act on a state, be undone, fit another model, be written and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
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
        if self.symmetry.is_plain:
            return self.act(state, linear=linear)
        reading = self.symmetry.reading
        read = reading.of(state)
        moved = self._on_difference(read) if linear else self._on_read(read)
        return {**state, **reading.back(reading.changed(read, moved))}

    def _on_read(self, read: State) -> State:
        """The transformed state of what is read; that of tensors which stay is the same object."""
        with_offsets = self._with_offsets(read)
        raised = {**read, **{name: self.symmetry.offsets[name].added(read[name]) for name in with_offsets}}
        moved = self.act(raised)
        still = {name: read[name] for name in with_offsets if moved[name] is raised[name]}
        lowered = {name: self.symmetry.offsets[name].added(moved[name], -1.0) for name in with_offsets - still.keys()}
        return {**moved, **still, **lowered}

    def _on_difference(self, read: State) -> State:
        """What becomes of a difference of two models: where both are multiplied one of logarithms does not change.

        Neither does one of what other positive functions are read of: there it is near for small differences alone.
        """
        rates = {name: self.symmetry.offsets[name].rate for name in self._with_offsets(read)}
        positive = [name for name in rates if self.symmetry.is_positive(name)]
        multiples = {name: read[name] * rate for name, rate in rates.items() if rate != 1.0}
        ratios = {name: read[name].exp() for name in positive}
        moved = self.act({**read, **multiples, **ratios}, linear=True)
        stored = {name: moved[name] / rates[name] for name in multiples}
        if not positive:
            return {**moved, **stored}
        ones = {name: torch.ones_like(read[name]) for name in positive}
        alike = self.act({**read, **multiples, **ones}, linear=True)
        return {**moved, **stored, **{name: (moved[name] / alike[name]).log() for name in positive}}

    def _with_offsets(self, read: State) -> set[str]:
        return {name for name in self.symmetry.offsets if name in read}

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
    def moves(self) -> Collection[str]:
        """What it may change of all that is read."""

    def needs(self, name: str) -> Collection[str]:
        """What the new value of one of these is made of, beside its old one."""
        return ()

    @property
    def touched(self) -> Collection[str]:
        """Names of the tensors that it may change, as they are stored."""
        return self._stored(self.moves)

    def beside(self, name: str) -> Collection[str]:
        """Those that the new value of one of these is made of, beside its old one."""
        read = self.symmetry.reading.read(name)
        # What is read of one tensor is made of others as well, or others are made of that.
        near = (own for stored in self._stored(read) for own in self.symmetry.reading.read(stored))
        return self._stored(needed for own in dict.fromkeys((*read, *near)) for needed in (own, *self.needs(own)))

    def _stored(self, read: Iterable[str]) -> Collection[str]:
        return dict.fromkeys(name for own in read for name in self.symmetry.reading.stored(own))

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
