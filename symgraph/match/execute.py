"""Runs a program: registers in, registers out, one function for each kind of step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial

import torch
from torch import Tensor

from symgraph.errors import UsageError, VerifyError, shorten
from symgraph.match.activations import Activations
from symgraph.match.blends import soften, split
from symgraph.match.learned import Lesson, learn
from symgraph.match.observing import observe_models
from symgraph.match.program import MATCHINGS, Apply, Canonicalise, Program, Regauge
from symgraph.match.program_steps import (
    Check,
    Embed,
    Join,
    LearnAll,
    LearnStep,
    Matching,
    MatchStep,
    Reduce,
    Settle,
    Soften,
    Split,
)
from symgraph.match.registers import (
    Gate,
    Registers,
    checked_change,
    detached,
    held,
    largest_change,
    output_change,
    overgrown,
    widened,
)
from symgraph.match.shares import chosen, judge
from symgraph.match.together import join, learn_all, settle
from symgraph.match.weighting import parameter_weights
from symgraph.match.weights import Match, MatchOptions, match, units
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.canonical import canonicalise, nearly_singular
from symgraph.orbit.steps import Act, Transform
from symgraph.resize.embed import embed
from symgraph.resize.narrow import reduce
from symgraph.rules.book import default_rules
from symgraph.symmetry.graph import SymmetryGraph

Progress = Callable[[str], None]


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
    gate: Gate | None = None,
) -> Registers:
    """Runs the steps in order.

    Args:
        states: the models by the program's input names ("A", "B").
        hashes: their state hashes, kept in the alignment.
        device, dtype: where and in which precision to compute; results are float64 on the CPU.
        lesson: the network and the data, for a program that learns.
        other: the symmetry graph of the model that has another shape, for a program that embeds or reduces it.
        gate: called with every model of a universe once it is there: its name, its state as computed, what led there.

    Raises:
        UsageError: the program was made for another architecture, a model is missing, or a step reads what no step
            before it makes.
    """
    if program.symmetry and program.symmetry != symmetry.fingerprint:
        raise UsageError(
            "the program was made for another architecture or other rules",
            remedy="write it anew with `symgraph align A B --emit-program FILE`",
        )
    run = Registers({k: detached(v) for k, v in states.items()}, dict(hashes or {}), device, dtype, gate)
    for step in program.steps:
        if progress is not None:
            progress(str(step).splitlines()[0])
        if isinstance(step, Embed | Reduce):
            _reshape(run, symmetry, other, step, device, dtype)
        elif isinstance(step, Canonicalise):
            _canonicalise(run, symmetry, step)
        elif isinstance(step, MatchStep):
            _match(run, symmetry, step, lesson, dtype, progress)
        elif isinstance(step, Join):
            join(run, symmetry, step, lesson, partial(_observed, symmetry, step, lesson, dtype=dtype), progress)
        elif isinstance(step, Split | Soften):
            _blend(run, symmetry, step)
        elif isinstance(step, LearnStep):
            _learn(run, symmetry, step, lesson, progress)
        elif isinstance(step, LearnAll):
            learn_all(run, symmetry, step, _given(lesson), progress)
        elif isinstance(step, Settle):
            settle(run, symmetry, step, program.inputs)
        elif isinstance(step, Regauge):
            _regauge(run, symmetry, step)
        elif isinstance(step, Check):
            _check(run, symmetry, step)
        else:
            _apply(run, step)
    return run


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
    like, state = ({n: t.cpu() for n, t in run.state(k, step.op).items()} for k in (step.like, step.model))
    small = isinstance(step, Reduce)
    found = reduce(other, symmetry, state, like) if small else embed(symmetry, other, state, like)
    run.states[step.into] = widened(found.state, device, dtype)
    run.hashes[step.into] = run.hashes.get(step.model, "")
    run.notes.append(f"{step.model} {found}")


def _canonicalise(run: Registers, symmetry: SymmetryGraph, step: Canonicalise) -> None:
    if step.model not in run.states and step.model not in run.given:
        raise UsageError(f"the program needs a model {step.model}", remedy=f"given: {', '.join(run.given)}")
    state = run.state(step.model, step.op)
    found = canonicalise(symmetry, {n: state[n] for n in symmetry.terms if n in state})
    run.sources[step.into] = step.model
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
    a, b = (run.state(n, step.op) for n in (step.reference, step.moving))
    seen = _observed(symmetry, step, lesson, (a, b), dtype=dtype)[0, 1] if step.reads_data else None
    if seen is not None:
        run.notes.append(str(seen))
    if seen is not None and seen.correlations and step.alpha == "auto":
        found = _chosen(run, symmetry, step, _given(lesson), a, b, seen)
    else:
        found = match(symmetry, a, b, step.options(), progress, seen)
    run.matches[step.into], run.transforms[step.into] = found, Transform((Act(found.element),))


def _chosen(
    run: Registers,
    symmetry: SymmetryGraph,
    step: MatchStep,
    lesson: Lesson,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    seen: Activations,
) -> Match:
    """The match with the best share of activations, and a note of what was tried."""
    trees = [u for u in units(symmetry, step.spaces) if u.space.id in seen.correlations]
    mixture = judge(lesson, (a, b), step.batches)

    def matched(options: MatchOptions, ids: frozenset[int]) -> Match:
        return match(symmetry, a, b, options, seen=seen.of(ids))

    found, note = chosen(trees, step.options(), matched, mixture, lambda m: (a, m.element(b)))
    run.notes.append(note)
    return found


def _given(lesson: Lesson | None) -> Lesson:
    if lesson is None:
        raise UsageError(
            "the program reads activations or learns, and there is no training data", remedy="pass data=..."
        )
    return lesson


def _observed(
    symmetry: SymmetryGraph,
    step: Matching,
    lesson: Lesson | None,
    models: Sequence[Mapping[str, Tensor]],
    *,
    dtype: torch.dtype,
) -> dict[tuple[int, int], Activations]:
    lesson = _given(lesson)
    trees = [u for u in units(symmetry, step.spaces) if any(fnmatch(u.space.name, p) for p in step.observed)]
    if step.method == "activations" and not trees:
        names = ", ".join(u.space.name for u in units(symmetry, step.spaces)[:3])
        raise UsageError(f"nothing to observe matches {step.observed[0]!r}", remedy=f"units are called {names}, ...")
    return observe_models(
        symmetry,
        lesson.network,
        lesson.book or default_rules(),
        models,
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
    lesson = _given(lesson)
    start = held(run.transforms, step.start, step.op)
    a, b = (run.state(n, step.op) for n in (step.reference, step.moving))
    found = learn(symmetry, (a, start.apply(b)), lesson, step.options(), progress)
    run.learned[step.into] = found
    first, second = found.transforms
    run.transforms[step.into] = start if second is None else start.then(second)
    if first is not None:
        run.transforms[step.other] = first
    run.notes.append(str(found))


def _blend(run: Registers, symmetry: SymmetryGraph, step: Split | Soften) -> None:
    start = held(run.transforms, step.start, step.op)
    a, whole = (dict(run.state(n, step.op)) for n in (step.reference, step.moving))
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
    elif not error <= largest_change(b):
        raise VerifyError(
            f"splitting units changes the outputs by {error:.1e}",
            cause=f"allowed is {largest_change(b):.0e}",
            remedy="align without splitting, and report the model",
        )


def _check(run: Registers, symmetry: SymmetryGraph, step: Check) -> None:
    states = [run.state(n, step.op) for n in (step.before, step.after)]
    error = checked_change(symmetry, states[0], states[1], step.before, step.after)
    run.notes.append(f"{step.after} computes what {step.before} computes, up to {error:.0e}")


def _regauge(run: Registers, symmetry: SymmetryGraph, step: Regauge) -> None:
    element = held(run.transforms, step.element, step.op)
    there = held(run.canonical, step.source, step.op).transform.then(element)
    target = held(run.canonical, step.target, step.op) if step.target else None
    notes: tuple[str, ...] = ()
    if target is not None and not target.singular:
        whole = there.then(target.transform.inverse())
        notes = _ill_conditioned(run, step, whole)
        there = there if notes else whole
    elif target is not None:
        zero = ", ".join(target.singular)
        notes = (f"{step.target} has zero gains ({zero}): the alignment ends in its canonical form",)
    run.notes.extend(notes)
    hashes = (run.hashes.get(step.source, ""), run.hashes.get(step.target, ""))
    run.alignments[step.into] = Alignment(symmetry, there, *hashes, _objective(run, step.element), notes)


def _ill_conditioned(run: Registers, step: Regauge, whole: Transform) -> tuple[str, ...]:
    """Why the source is not brought into the gauge of the target, where some of its norms would grow beyond bounds."""
    state, like = (run.state(n, step.op) for n in (step.source, step.target))
    grown = overgrown(whole.carry(state), state, like)
    if not grown:
        return ()
    target = run.canonical[step.target]
    small = nearly_singular(target.transform)
    run.canonical[step.target] = replace(target, singular=small or (grown.split(" ")[0],))
    why = f"gains near zero: {shorten(small)}; " if small else ""
    return (f"in {step.target}'s gauge norms would grow ({why}{grown}): the alignment ends in its canonical form",)


def _objective(run: Registers, element: str) -> tuple[float, ...]:
    """The distances behind an element: those of its own match, or of the one that learning started from."""
    if element in run.matches or not run.matches:
        return run.matches[element].objective if element in run.matches else ()
    return next(iter(run.matches.values())).objective


def _apply(run: Registers, step: Apply) -> None:
    transform = held(run.alignments, step.alignment, step.op).transform
    run.states[step.into] = transform.carry(run.state(step.model, step.op))
