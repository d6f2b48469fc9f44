"""What the steps of a program work with and leave to one another, and how what models compute is compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor

from symgraph.errors import UsageError, VerifyError, argument, shorten
from symgraph.inference.sources import stored
from symgraph.io.checkpoint import read_state
from symgraph.io.models import Model
from symgraph.match.learned_matching import Learned, Lesson
from symgraph.match.match_models import Matched
from symgraph.match.run_file import Opened, RunFile
from symgraph.match.unchanged import Gate
from symgraph.measure.barrier_options import MixtureOptions
from symgraph.measure.plane import LossPlane
from symgraph.measure.result import LossBarrier
from symgraph.orbit.alignment import Alignment, growth_of, norms
from symgraph.orbit.canonical import Canonical
from symgraph.orbit.steps import State, Transform
from symgraph.prove.verify import TOLERANCE, difference
from symgraph.resize.shapes import model_like
from symgraph.rules.book import RuleBook
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of
from symgraph.tracing.deferred import cast, later, made
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.progress import Progress
from symgraph.tracing.sampling import random_inputs

Held = TypeVar("Held")
# Norms may grow so many times in the gauge of another model; beyond that half precision ends, and digits are lost.
GROWTH = 100.0
# What float32 leaves of a function after maps of a moderate condition number.
SINGLE_TOLERANCE = 1e-3


@dataclass
class Together:
    """Models on their way into one basis and gauge, by name, in the order in which they were matched (or `listed`).

    `states` are the models in the common basis, in canonical form; `shared`: for each what leads there from its own
    canonical form, and once settled `inside`: from its own gauge, and `basis`: from its own canonical form.
    `reference` is the model whose gauge it is, None where no gauge will do; `first` stays where it is. `approximate`:
    models whose function has changed. `changes`: by how much the outputs of each have changed.
    """

    matched: Matched
    states: dict[str, State]
    shared: dict[str, Transform]
    listed: tuple[str, ...]
    reference: str | None
    first: str
    learned: Learned | None = None
    trained: bool = False
    approximate: set[str] = field(default_factory=set)
    inside: dict[str, Transform] = field(default_factory=dict)
    basis: dict[str, Transform] = field(default_factory=dict)
    changes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Between:
    """Mixtures of models that a program has asked for, and the data that statistics of norms are computed on there."""

    models: tuple[str, ...]
    options: MixtureOptions
    product: bool = False
    training: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A loss barrier that a program has measured: among which models, and whether in product form."""

    found: LossBarrier
    models: tuple[str, ...]
    product: bool


@dataclass
class Run:
    """A program as it runs: models as they were given, and named intermediate results.

    `graph`: the symmetry graph of the models, None where no step needs it. `models`: what the states belong to;
    `like` names the one whose shape all are brought to. `others`: the symmetry graphs of models of another shape,
    which a program embeds or reduces. `called`: what messages call each model. `keep` is called with each tensor of a
    result as it is done: it may put it somewhere. `file`: what steps that take long leave behind. `batches`: data by
    name; `writing`: how checkpoints are written, by name; `command`: what the user typed; `beside`: earlier results
    that go into one picture with what is measured.
    """

    graph: SymmetryGraph | None
    given: Mapping[str, Mapping[str, Tensor]]
    models: Mapping[str, Model] = field(default_factory=dict)
    like: str = ""
    hashes: dict[str, str] = field(default_factory=dict)
    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float64
    lesson: Lesson | None = None
    batches: Mapping[str, Any] = field(default_factory=dict)
    book: RuleBook | None = None
    others: Mapping[str, SymmetryGraph] = field(default_factory=dict)
    called: Mapping[str, str] = field(default_factory=dict)
    progress: Progress | None = None
    gate: Gate | None = None
    keep: Callable[[Tensor], Tensor] = made
    file: RunFile | None = None
    overwrite: bool = False
    writing: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    beside: Mapping[str, LossBarrier] = field(default_factory=dict)
    states: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    reshaped: set[str] = field(default_factory=set)
    canonical: dict[str, Canonical] = field(default_factory=dict)
    together: dict[str, Together] = field(default_factory=dict)
    alignments: dict[str, Alignment] = field(default_factory=dict)
    mixtures: dict[str, Between] = field(default_factory=dict)
    measured: dict[str, Measurement] = field(default_factory=dict)
    planes: dict[str, LossPlane] = field(default_factory=dict)
    reported: dict[str, Measurement] = field(default_factory=dict)
    reported_plane: LossPlane | None = None
    written: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def symmetry(self) -> SymmetryGraph:
        """The symmetry graph of the models.

        Raises:
            UsageError: there is none.
        """
        if self.graph is None:
            raise UsageError("the program needs the symmetry graph of its models", remedy="run it with `symgraph run`")
        return self.graph

    def state(self, name: str, op: str) -> Mapping[str, Tensor]:
        """A model that was given, where and in the precision that is computed with, or what a step has made.

        Raises:
            UsageError: there is none of this name.
        """
        if name in self.given and name not in self.states:
            return widened(self.given[name], self.device, self.dtype)
        return held({**self.given, **self.states}, name, op)

    def data(self) -> Lesson:
        """The network and the data.

        Raises:
            UsageError: there are none.
        """
        if self.lesson is None:
            what = "the program reads activations or learns, and there is no training data"
            raise UsageError(
                what, remedy=f"give it, {argument('data')}, or name it as `train` under `data` of the program"
            )
        return self.lesson

    def opened(self, step: str) -> Opened | None:
        """The place that a step has in the file that the run leaves behind, if it leaves any."""
        return None if self.file is None else partial(self.file.section, step)

    def origin(self, name: str, op: str) -> str:
        """The model that was given of which steps have made this one, or it itself.

        Raises:
            UsageError: there is no model of this name.
        """
        return self._way(name, op)[-1]

    def finished(self, name: str, op: str) -> tuple[Model, State]:
        """A model as the steps have left it: its class and config, and the state that a checkpoint of it holds.

        Raises:
            UsageError: there is no model of this name.
        """
        way = self._way(name, op)
        model = self.models[way[-1]]
        if len(way) == 1:
            return model, read_state(model)
        state = held(self.states, name, op)
        if shaped := next((name for name in way if name in self.reshaped), None):
            model = model_like(self.models[self.like], model, self.states[shaped])
        like = state_of(model.module)
        return model, stored(
            model.module, state if not shaped and state.keys() >= like.keys() else narrowed(state, like)
        )

    def _way(self, name: str, op: str) -> list[str]:
        """The name, what it was made of, and so on to the model that was given."""
        way = [name]
        while way[-1] not in self.models:
            way.append(held(self.sources, way[-1], op))
        return way


def widened(state: Mapping[str, Tensor], device: str | torch.device, dtype: torch.dtype) -> State:
    """The state where and in the precision that it is computed with; what is so already is shared.

    On the CPU a tensor of another precision is converted whenever an operator asks for it, and not held so.
    """
    found, place = detached(state), torch.device(device)
    return {
        name: _widened(v, place, dtype) if v.is_floating_point() else made(v).to(place) for name, v in found.items()
    }


def _widened(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return later(tensor, dtype) if device.type == "cpu" == tensor.device.type else made(tensor).to(device, dtype)


def detached(state: Mapping[str, Tensor]) -> State:
    """The same tensors without a history."""
    return {name: tensor.detach() for name, tensor in state.items()}


def narrowed(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> State:
    """The state on the CPU in the dtypes of another one, from which it takes what it lacks."""
    return released(dict(state), like)


def released(state: dict[str, Tensor], like: Mapping[str, Tensor]) -> State:
    """The same of a state that is emptied, so that no tensor is held twice."""
    return {
        name: cast(state.pop(name).cpu(), tensor.dtype) if name in state else tensor for name, tensor in like.items()
    }


def largest_change(state: Mapping[str, Tensor]) -> float:
    """By how much outputs may change in the precision of a state."""
    return SINGLE_TOLERANCE if any(tensor.dtype is torch.float32 for tensor in state.values()) else TOLERANCE


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
            remedy="`symgraph verify` shows whether an inferred symmetry fails; a lower `condition` of a program's "
            "step `learn` keeps more digits",
        )
    return error


def output_change(symmetry: SymmetryGraph, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Largest relative change of the outputs, in float64 on random inputs of the traced shapes."""
    run = Interpreter(symmetry.graph)
    inputs = random_inputs(symmetry.graph, torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = (run.run({name: tensor.cpu() for name, tensor in s.items()}, inputs) for s in (one, other))
    return difference(first, second)


def overgrown(after: Mapping[str, Tensor], *others: Mapping[str, Tensor]) -> str:
    """What is to be said of a state in whose gauge some norm grows beyond bounds; nothing where none does.

    What stays below the entries of an ordinary tensor does not count: a bias may have been next to nothing.
    """
    reached, *held = (norms(state) for state in (after, *others))
    usual = median(
        [_spread(norm, state[name]) for state, known in zip(others, held, strict=True) for name, norm in known.items()]
        or [0.0]
    )
    grown = {name: growth for name, growth in growth_of(reached, *held).items() if not growth <= GROWTH}
    grown = {name: growth for name, growth in grown.items() if not _spread(reached[name], after[name]) <= usual}
    return shorten(f"{name} {growth:.0e} times" for name, growth in grown.items())


def _spread(norm: float, t: Tensor) -> float:
    """The root of the mean square of the entries of a tensor."""
    return norm / math.sqrt(max(t.numel(), 1))


def held(registers: Mapping[str, Held], name: str, op: str) -> Held:
    if name not in registers:
        raise UsageError(
            f"the program's step {op} reads {name!r}, which no step before it makes",
            remedy=f"there is {', '.join(registers) or 'nothing yet'}",
        )
    return registers[name]
