"""What a run will take, said before it begins: from the shapes and dtypes of the models, and from the plan alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from math import prod
from typing import Any

import torch

from symgraph.io.checkpoint import dtypes
from symgraph.io.models import Model
from symgraph.match.match_models import SWEEPS
from symgraph.match.match_step import MatchStep
from symgraph.match.program import Program
from symgraph.match.settle_step import Settle
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import leaves

# How often each model is read: to check and hash it, once more where its halves become single precision meanwhile; for
# its canonical form; for each descent of it or of another model; to move it; to compare it, by its module or the graph.
_LOADED, _CANONICAL, _DESCENT, _MOVED, _COMPARED = 2, 1, 1, 1, 1
# Of more than two models: for their norms and distances, and for what each of three starts comes to.
_WEIGHED = 6
# Of the largest tensor so many are held at once in float64; at another time, while a unit is solved, of the largest
# table of correlations in float32: sums by sign, the best, and what an assignment works with. Measured.
_LARGEST, _TABLES = 4, 7
# Two models wait beside the output while they are matched, in this precision.
_MATCHED = torch.float32.itemsize
# Bytes a second that are read, widened and moved. A modest figure: disks and processors differ.
_STREAMED = 2.5e8
_WIDE = torch.float64.itemsize


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run takes at most, where its data fits: bytes, how often each model is read, and seconds on one thread.

    `memory` is what it holds beside what the process takes anyway; `disk` what is written, with all that waits there.
    """

    stored: int
    passes: int
    memory: int
    disk: int
    seconds: float

    def to_plain(self) -> dict[str, Any]:
        """The figures as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        read = f"reads {_size(self.stored)}, at most {self.passes} times ({_size(self.stored * self.passes)})"
        held = f"holds about {_size(self.memory)} at once; needs {_size(self.disk)} of disk"
        return f"{read}\n{held}\ntakes about {_time(self.seconds)} on one thread, if all sweeps and rounds are done"


def cost_of_program(models: Sequence[Model], program: Program, symmetry: SymmetryGraph, *, written: int) -> Cost:
    """What it takes to run a program that reads no data, and to write so many of the models."""
    steps = [step for step in program.steps if isinstance(step, MatchStep)]
    counts = [_descents(step, len(models)) for step in steps]
    sweeps = sum(count * (1 + swept) for count, swept in chain(*counts))
    further = sum(_WEIGHED + step.rounds for step in steps) if len(models) > 2 else 0
    descents = sum(count for count, _ in chain(*counts))
    compared = 1 + any(step.compared for step in program.steps if isinstance(step, Settle))
    passes = _LOADED + _CANONICAL + _DESCENT * descents + further + _MOVED + _COMPARED * compared
    elements, tables = _accumulated(symmetry) if steps else (0, 0)
    waiting = 2 * _MATCHED * bool(steps) + (len(models) - 1) * _WIDE
    computed = sweeps * _operations(symmetry) / _speed()
    return _cost(models, passes, elements, tables, written=written, waiting=waiting, computed=computed)


def _descents(step: MatchStep, count: int) -> list[tuple[int, int]]:
    """How many descents a match of so many models takes at most, and the sweeps of each."""
    if count == 2:
        return [(1, step.sweeps)]
    if not step.rounds:
        return [(2 * (count - 1), step.sweeps)]
    brief = min(SWEEPS, step.sweeps)
    return [(2 * (count - 1) + count, step.sweeps), (step.rounds * count, brief)]


def cost_of_apply(source: Model, elements: int) -> Cost:
    """What it takes to apply an alignment, whose file has so many bytes."""
    return _cost([source], _LOADED - 1 + _MOVED + _COMPARED, elements, written=1, waiting=_WIDE)


def cost_of_mean(models: Sequence[Model]) -> Cost:
    """What it takes to average models as they are."""
    return _cost(models, _LOADED + _MOVED, 0, written=1, waiting=0)


def _cost(
    models: Sequence[Model],
    passes: int,
    elements: int,
    tables: int = 0,
    *,
    written: int,
    waiting: int,
    computed: float = 0.0,
) -> Cost:
    stored = [sum(count * dtype.itemsize for count, dtype in _tensors(model)) for model in models]
    largest = max((count for model in models for count, _ in _tensors(model)), default=0)
    disk = written * max(stored) + waiting * max(map(_entries, models))
    memory = elements + max(_LARGEST * _WIDE * largest, tables)
    return Cost(sum(stored), passes, memory, disk, computed + passes * sum(stored) / _STREAMED)


def _accumulated(symmetry: SymmetryGraph) -> tuple[int, int]:
    """Bytes of the elements of all spaces, and of the largest table of correlations, a few times."""
    sizes = [(space.size, prod(symmetry.fibre_sizes(space))) for space in symmetry.active]
    tables = max((size * outer for size, outer in sizes), default=0) ** 2
    matrices = sum(
        size**2 * outer for (size, outer), space in zip(sizes, symmetry.active, strict=True) if space.is_matrix
    )
    return 2 * _WIDE * matrices, _TABLES * torch.float32.itemsize * tables


def _tensors(model: Model) -> list[tuple[int, torch.dtype]]:
    """How many entries each tensor of a checkpoint has, and their dtype."""
    shapes = {name: tensor.shape for name, tensor in model.module.state_dict().items()}
    return [(prod(shapes[name]), dtype) for name, dtype in dtypes(model).items()]


def _entries(model: Model) -> int:
    return sum(count for count, _ in _tensors(model))


def _operations(symmetry: SymmetryGraph) -> float:
    """Multiplications and additions of one sweep: the correlation of each axis that moves, and what moves it."""
    sizes = {space.id: space.size for space in symmetry.active}
    found = 0.0
    for name, axes in symmetry.terms.items():
        entries = prod(symmetry.graph.state[name].shape)
        found += sum(4.0 * entries * sizes.get(leaf.space, 0) for term in axes for leaf in leaves(term))
    return found


def _speed(size: int = 384) -> float:
    """Multiplications and additions a second, by one small product."""
    one = torch.ones(size, size)
    start = time.perf_counter()
    for _ in range(3):
        one @ one
    return 6 * size**3 / max(time.perf_counter() - start, 1e-6)


def _size(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{max(seconds, 1) / 60:.1f} minutes"
