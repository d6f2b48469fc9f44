"""Runs a program: registers in, registers out, one function for each kind of step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import TypeVar

import torch
from torch import Tensor

from symgraph.align.activations import Activations
from symgraph.align.alignment import Alignment
from symgraph.align.blends import soften, split
from symgraph.align.learn import Learned, Lesson, learn
from symgraph.align.match import Match, match, units
from symgraph.align.narrowing.reduce import reduce
from symgraph.align.observing import observe_models
from symgraph.align.program import MATCHINGS, Apply, Canonicalise, MatchStep, Program, Regauge
from symgraph.align.steps import Check, Embed, LearnStep, Reduce, Soften, Split
from symgraph.align.weighting import parameter_weights
from symgraph.canonical import Canonical, canonicalise
from symgraph.errors import UsageError, VerifyError
from symgraph.gauge import Act, State, Transform
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.interpret import Interpreter
from symgraph.rules.book import default_rules
from symgraph.sampling import random_inputs
from symgraph.verify import TOLERANCE, difference
from symgraph.widening.embed import embed

Progress = Callable[[str], None]
Held = TypeVar("Held")
# What float32 leaves of a function after maps of a moderate condition number.
SINGLE_TOLERANCE = 1e-3


@dataclass
class Registers:
    """Named intermediate results of a run."""

    states: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    canonical: dict[str, Canonical] = field(default_factory=dict)
    matches: dict[str, Match] = field(default_factory=dict)
    learned: dict[str, Learned] = field(default_factory=dict)
    transforms: dict[str, Transform] = field(default_factory=dict)
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
    lesson: Lesson | None = None,
    other: SymmetryGraph | None = None,
) -> Registers:
    """Runs the steps in order.

    Args:
        states: the models by the program's input names ("A", "B").
        hashes: their state hashes, kept in the alignment.
        device, dtype: where and in which precision to compute; results are float64 on the CPU.
        lesson: the network and the data, for a program that learns.
        other: the symmetry graph of the model that has another shape, for a program that embeds or reduces it.

    Raises:
        UsageError: the program was made for another architecture, a model is missing, or a step reads what no step
            before it makes.
    """
    if program.symmetry and program.symmetry != symmetry.fingerprint:
        raise UsageError(
            "the program was made for another architecture or other rules",
            remedy="write it anew with `symgraph align A B --emit-program FILE`",
        )
    run = Registers({k: widened(v, device, dtype) for k, v in states.items()}, dict(hashes or {}))
    for step in program.steps:
        if progress is not None:
            progress(str(step).splitlines()[0])
        if isinstance(step, Embed | Reduce):
            _reshape(run, symmetry, other, step, device, dtype)
        elif isinstance(step, Canonicalise):
            _canonicalise(run, symmetry, step)
        elif isinstance(step, MatchStep):
            _match(run, symmetry, step, lesson, dtype, progress)
        elif isinstance(step, Split | Soften):
            _blend(run, symmetry, step)
        elif isinstance(step, LearnStep):
            _learn(run, symmetry, step, lesson, progress)
        elif isinstance(step, Regauge):
            _regauge(run, symmetry, step)
        elif isinstance(step, Check):
            _check(run, symmetry, step)
        else:
            _apply(run, step)
    return run


def widened(state: Mapping[str, Tensor], device: str | torch.device, dtype: torch.dtype) -> State:
    """The state where and in the precision that it is computed with; what is so already is shared."""
    detached = {k: v.detach() for k, v in state.items()}
    return {k: v.to(device, dtype) if v.is_floating_point() else v.to(device) for k, v in detached.items()}


def _reshape(
    run: Registers,
    symmetry: SymmetryGraph,
    other: SymmetryGraph | None,
    step: Embed | Reduce,
    device: str | torch.device,
    dtype: torch.dtype,
) -> None:
    if other is None:
        raise UsageError(f"the program has a step {step.op}, and both models have one shape", remedy="take it out")
    like, state = ({n: t.cpu() for n, t in _held(run.states, k, step.op).items()} for k in (step.like, step.model))
    small = isinstance(step, Reduce)
    found = reduce(other, symmetry, state, like) if small else embed(symmetry, other, state, like)
    run.states[step.into] = widened(found.state, device, dtype)
    run.hashes[step.into] = run.hashes.get(step.model, "")
    run.notes.append(f"{step.model} {found}")


def _canonicalise(run: Registers, symmetry: SymmetryGraph, step: Canonicalise) -> None:
    if step.model not in run.states:
        raise UsageError(f"the program needs a model {step.model}", remedy=f"given: {', '.join(run.states)}")
    names = [n for n in symmetry.terms if n in run.states[step.model]]
    found = canonicalise(symmetry, {n: run.states[step.model][n] for n in names})
    run.canonical[step.model] = found
    run.states[step.into] = found.state


def _match(
    run: Registers,
    symmetry: SymmetryGraph,
    step: MatchStep,
    lesson: Lesson | None,
    dtype: torch.dtype,
    progress: Progress | None,
) -> None:
    if step.method not in MATCHINGS:
        raise UsageError(f"the program matches by {step.method!r}", remedy=f"method: {' or '.join(MATCHINGS)}")
    a, b = (_held(run.states, n, step.op) for n in (step.reference, step.moving))
    seen = _observed(symmetry, step, lesson, a, b, dtype) if step.reads_data else None
    if seen is not None:
        run.notes.append(str(seen))
    found = match(symmetry, a, b, step.options(), progress, seen)
    run.matches[step.into], run.transforms[step.into] = found, Transform((Act(found.element),))


def _observed(
    symmetry: SymmetryGraph,
    step: MatchStep,
    lesson: Lesson | None,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> Activations:
    if lesson is None:
        raise UsageError("the program matches activations, and there is no training data", remedy="pass data=...")
    trees = [u for u in units(symmetry, step.spaces) if any(fnmatch(u.space.name, p) for p in step.observed)]
    if step.method == "activations" and not trees:
        names = ", ".join(u.space.name for u in units(symmetry, step.spaces)[:3])
        raise UsageError(f"nothing to observe matches {step.observed[0]!r}", remedy=f"units are called {names}, ...")
    return observe_models(
        symmetry,
        lesson.network,
        lesson.book or default_rules(),
        a,
        b,
        lesson.training,
        trees if step.method == "activations" else (),
        dtype=dtype if step.rows == 0 else torch.float32,
        batches=step.batches,
        rows=step.rows,
        moments=step.weighting == "inputs",
    )


def _learn(
    run: Registers, symmetry: SymmetryGraph, step: LearnStep, lesson: Lesson | None, progress: Progress | None
) -> None:
    if lesson is None:
        raise UsageError("the program learns, and there is no training data", remedy="pass data=...")
    start = _held(run.transforms, step.start, step.op)
    a, b = (_held(run.states, n, step.op) for n in (step.reference, step.moving))
    found = learn(symmetry, (a, start.apply(b)), lesson, step.options(), progress)
    run.learned[step.into] = found
    first, second = found.transforms
    run.transforms[step.into] = start if second is None else start.then(second)
    if first is not None:
        run.transforms[step.other] = first
    run.notes.append(str(found))


def _blend(run: Registers, symmetry: SymmetryGraph, step: Split | Soften) -> None:
    start = _held(run.transforms, step.start, step.op)
    a, whole = (dict(_held(run.states, n, step.op)) for n in (step.reference, step.moving))
    b = start.apply(whole)
    parameters = ({n: s[n] for n in symmetry.graph.parameters} for s in (a, b))
    weights = parameter_weights(symmetry, step.weighting, *map(symmetry.stacked, parameters))
    if isinstance(step, Split):
        blends, notes = split(symmetry, a, b, weights, step.spaces)
        run.notes.extend(notes or ("no unit was split: none is idle, or nothing comes nearer",))
    else:
        blends = soften(symmetry, a, b, weights, step.temperature, step.spaces)
    run.transforms[step.into] = start.then(Transform(blends))
    error = output_change(symmetry, b, Transform(blends).apply(b))
    if isinstance(step, Soften):
        run.notes.append(f"APPROXIMATE: soft permutations change the outputs of B by {error:.2g} (relative, at most)")
    elif not error <= _limit(b):
        raise VerifyError(
            f"splitting units changes the outputs by {error:.1e}",
            cause=f"allowed is {_limit(b):.0e}",
            remedy="align without splitting, and report the model",
        )


def _limit(state: Mapping[str, Tensor]) -> float:
    """By how much outputs may change in the precision of a state."""
    return SINGLE_TOLERANCE if any(t.dtype is torch.float32 for t in state.values()) else TOLERANCE


def _check(run: Registers, symmetry: SymmetryGraph, step: Check) -> None:
    states = [_held(run.states, n, step.op) for n in (step.before, step.after)]
    error = checked_change(symmetry, states[0], states[1], step.before, step.after)
    run.notes.append(f"{step.after} computes what {step.before} computes, up to {error:.0e}")


def checked_change(
    symmetry: SymmetryGraph, before: Mapping[str, Tensor], after: Mapping[str, Tensor], old: str, new: str
) -> float:
    """The `output_change` between two states, called `old` and `new`, that should compute the same.

    Raises:
        VerifyError: they do not.
    """
    error = output_change(symmetry, before, after)
    limit = _limit(after)
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


def _regauge(run: Registers, symmetry: SymmetryGraph, step: Regauge) -> None:
    element = _held(run.transforms, step.element, step.op)
    source = _held(run.canonical, step.source, step.op)
    target = _held(run.canonical, step.target, step.op) if step.target else None
    there = source.transform.then(element)
    singular = target.singular if target is not None else ()
    notes: tuple[str, ...] = ()
    if singular:
        notes = (f"{step.target} has zero gains ({', '.join(singular)}): the alignment ends in its canonical form",)
        run.notes.extend(notes)
    elif target is not None:
        there = there.then(target.transform.inverse())
    hashes = (run.hashes.get(step.source, ""), run.hashes.get(step.target, ""))
    run.alignments[step.into] = Alignment(symmetry, there, *hashes, _objective(run, step.element), notes)


def _objective(run: Registers, element: str) -> tuple[float, ...]:
    """The distances behind an element: those of its own match, or of the one that learning started from."""
    if element in run.matches or not run.matches:
        return run.matches[element].objective if element in run.matches else ()
    return next(iter(run.matches.values())).objective


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
