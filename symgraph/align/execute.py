"""Runs a program: registers in, registers out, one function for each kind of step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from symgraph.align.alignment import Alignment
from symgraph.align.match import Match, match
from symgraph.align.program import Apply, Canonicalise, MatchStep, Program, Regauge
from symgraph.canonical import Canonical, canonicalise
from symgraph.errors import UsageError
from symgraph.gauge import Act, State, Transform
from symgraph.infer.symmetry import SymmetryGraph

Progress = Callable[[str], None]
Held = TypeVar("Held")


@dataclass
class Registers:
    """Named intermediate results of a run."""

    states: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    canonical: dict[str, Canonical] = field(default_factory=dict)
    matches: dict[str, Match] = field(default_factory=dict)
    alignments: dict[str, Alignment] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def execute(
    program: Program,
    symmetry: SymmetryGraph,
    states: Mapping[str, Mapping[str, Tensor]],
    *,
    hashes: Mapping[str, str] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float64,
    progress: Progress | None = None,
) -> Registers:
    """Runs the steps in order.

    Args:
        states: the models by the program's input names ("A", "B").
        hashes: their state hashes, kept in the alignment.
        device, dtype: where and in which precision to compute; results are float64 on the CPU.

    Raises:
        UsageError: the program was made for another architecture, a model is missing, or a step reads what no step
            before it makes.
    """
    if program.symmetry and program.symmetry != symmetry.fingerprint:
        raise UsageError(
            "the program was made for another architecture or other rules",
            remedy="write it anew with `symgraph align A B --emit-program FILE`",
        )
    run = Registers({k: _wide(v, device, dtype) for k, v in states.items()}, dict(hashes or {}))
    for step in program.steps:
        if progress is not None:
            progress(str(step).splitlines()[0])
        if isinstance(step, Canonicalise):
            _canonicalise(run, symmetry, step)
        elif isinstance(step, MatchStep):
            _match(run, symmetry, step, progress)
        elif isinstance(step, Regauge):
            _regauge(run, symmetry, step)
        else:
            _apply(run, step)
    return run


def _wide(state: Mapping[str, Tensor], device: str | torch.device, dtype: torch.dtype) -> State:
    detached = {k: v.detach() for k, v in state.items()}
    return {k: v.to(device, dtype) if v.is_floating_point() else v.to(device) for k, v in detached.items()}


def _canonicalise(run: Registers, symmetry: SymmetryGraph, step: Canonicalise) -> None:
    if step.model not in run.states:
        raise UsageError(f"the program needs a model {step.model}", remedy=f"given: {', '.join(run.states)}")
    names = [n for n in symmetry.terms if n in run.states[step.model]]
    found = canonicalise(symmetry, {n: run.states[step.model][n] for n in names})
    run.canonical[step.model] = found
    run.states[step.into] = found.state


def _match(run: Registers, symmetry: SymmetryGraph, step: MatchStep, progress: Progress | None) -> None:
    if step.method != "weights":
        raise UsageError(f"the program matches by {step.method!r}", remedy="method: weights")
    a, b = (_held(run.states, n, step.op) for n in (step.reference, step.moving))
    run.matches[step.into] = match(symmetry, a, b, step.options(), progress)


def _regauge(run: Registers, symmetry: SymmetryGraph, step: Regauge) -> None:
    found = _held(run.matches, step.element, step.op)
    source, target = (_held(run.canonical, n, step.op) for n in (step.source, step.target))
    there = source.transform.then(Transform((Act(found.element),)))
    singular = target.singular
    notes: tuple[str, ...] = ()
    if singular:
        notes = (f"{step.target} has zero gains ({', '.join(singular)}): the alignment ends in its canonical form",)
        run.notes.extend(notes)
    else:
        there = there.then(target.transform.inverse())
    hashes = (run.hashes.get(step.source, ""), run.hashes.get(step.target, ""))
    run.alignments[step.into] = Alignment(symmetry, there, *hashes, found.objective, notes)


def _apply(run: Registers, step: Apply) -> None:
    transform = _held(run.alignments, step.alignment, step.op).transform
    run.states[step.into] = transform.carry(_held(run.states, step.model, step.op))


def _held(registers: Mapping[str, Held], name: str, op: str) -> Held:
    if name not in registers:
        raise UsageError(
            f"the program's step {op} reads {name!r}, which no step before it makes",
            remedy=f"there is {', '.join(registers) or 'nothing yet'}",
        )
    return registers[name]
