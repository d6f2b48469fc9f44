"""What the steps of a program leave to one another, and the comparison of what models compute before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from symgraph.errors import UsageError, VerifyError, shorten
from symgraph.match.learned import Learned
from symgraph.match.many import Joint
from symgraph.match.weights import Match
from symgraph.orbit.alignment import Alignment, growth
from symgraph.orbit.canonical import Canonical
from symgraph.orbit.steps import State, Transform
from symgraph.prove.verify import TOLERANCE, difference
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import random_inputs

Held = TypeVar("Held")
Gate = Callable[[str, Mapping[str, Tensor], Alignment], None]
# Norms may grow so many times in the gauge of another model; beyond that half precision ends, and digits are lost.
GROWTH = 100.0
# What float32 leaves of a function after maps of a moderate condition number.
SINGLE_TOLERANCE = 1e-3


@dataclass
class Together:
    """Models on their way into one basis and gauge, by name, in the order of their hashes.

    `shared`: for each what leads from its canonical form to the common basis, up to what all have in common, and once
    settled `inside`: from its own gauge to the basis. `reference` is the model whose gauge it is, None where no gauge
    will do; `first` stays where it is. `changes`: by how much the outputs of each have changed.
    """

    joint: Joint
    names: tuple[str, ...]
    shared: dict[str, Transform]
    reference: str | None
    first: str
    learned: Learned | None = None
    trained: bool = False
    inside: dict[str, Transform] = field(default_factory=dict)
    changes: dict[str, float] = field(default_factory=dict)


@dataclass
class Registers:
    """Named intermediate results of a run; models that were given stay as they were given."""

    given: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float64
    gate: Gate | None = None
    states: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    canonical: dict[str, Canonical] = field(default_factory=dict)
    matches: dict[str, Match] = field(default_factory=dict)
    learned: dict[str, Learned] = field(default_factory=dict)
    transforms: dict[str, Transform] = field(default_factory=dict)
    alignments: dict[str, Alignment] = field(default_factory=dict)
    universes: dict[str, Together] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def state(self, name: str, op: str) -> Mapping[str, Tensor]:
        """A model that was given, where and in the precision that is computed with, or what a step has made.

        Raises:
            UsageError: there is none of this name.
        """
        if name in self.given and name not in self.states:
            return widened(self.given[name], self.device, self.dtype)
        return held({**self.given, **self.states}, name, op)


def widened(state: Mapping[str, Tensor], device: str | torch.device, dtype: torch.dtype) -> State:
    """The state where and in the precision that it is computed with; what is so already is shared."""
    found = detached(state)
    return {k: v.to(device, dtype) if v.is_floating_point() else v.to(device) for k, v in found.items()}


def detached(state: Mapping[str, Tensor]) -> State:
    """The same tensors without a history."""
    return {k: v.detach() for k, v in state.items()}


def narrowed(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> State:
    """The state on the CPU in the dtypes of another one, from which it takes what it lacks."""
    return {k: state[k].to("cpu", v.dtype) if k in state else v for k, v in like.items()}


def largest_change(state: Mapping[str, Tensor]) -> float:
    """By how much outputs may change in the precision of a state."""
    return SINGLE_TOLERANCE if any(t.dtype is torch.float32 for t in state.values()) else TOLERANCE


def checked_change(
    symmetry: SymmetryGraph, before: Mapping[str, Tensor], after: Mapping[str, Tensor], old: str, new: str
) -> float:
    """The `output_change` between two states, called `old` and `new`, that should compute the same.

    Raises:
        VerifyError: they do not.
    """
    error = output_change(symmetry, before, after)
    limit = largest_change(after)
    if not error <= limit:
        raise VerifyError(
            f"{new} does not compute what {old} computes: outputs change by {error:.1e}",
            cause=f"allowed is {limit:.0e}",
            remedy="`symgraph verify` shows whether an inferred symmetry fails; a lower `condition` keeps more digits",
        )
    return error


def output_change(symmetry: SymmetryGraph, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Largest relative change of the outputs, in float64 on random inputs of the traced shapes."""
    run = Interpreter(symmetry.graph)
    inputs = random_inputs(symmetry.graph, torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = (run.run({n: t.cpu() for n, t in s.items()}, inputs) for s in (one, other))
    return difference(first, second)


def overgrown(after: Mapping[str, Tensor], *others: Mapping[str, Tensor]) -> str:
    """What is to be said of a state in whose gauge some norm grows beyond bounds; nothing where none does."""
    grown = {n: g for n, g in growth(after, *others).items() if not g <= GROWTH}
    return shorten(f"{n} {g:.0e} times" for n, g in grown.items())


def held(registers: Mapping[str, Held], name: str, op: str) -> Held:
    if name not in registers:
        raise UsageError(
            f"the program's step {op} reads {name!r}, which no step before it makes",
            remedy=f"there is {', '.join(registers) or 'nothing yet'}",
        )
    return registers[name]
