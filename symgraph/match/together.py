"""The steps of a universe: match any number of models to the mean of the others, train them, take all into one gauge.

The models are taken in the order of the hashes of their weights, so that the order in which they are given changes
nothing. What all elements have in common is free: it is chosen so that the reference stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from symgraph.errors import UsageError
from symgraph.match.activations import Activations
from symgraph.match.learned import Lesson, learn
from symgraph.match.many import Joint, match_all
from symgraph.match.program_steps import Join, LearnAll, Settle
from symgraph.match.registers import Registers, Together, checked_change, held, narrowed, overgrown
from symgraph.match.shares import chosen, judge
from symgraph.match.weights import MatchOptions, units
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.canonical import nearly_singular
from symgraph.orbit.steps import Act, State, Transform
from symgraph.symmetry.graph import SymmetryGraph

Progress = Callable[[str], None]
Observe = Callable[[Sequence[State]], Mapping[tuple[int, int], Activations]]


def join(
    run: Registers,
    symmetry: SymmetryGraph,
    step: Join,
    lesson: Lesson | None,
    observe: Observe,
    progress: Progress | None,
) -> None:
    """Matches all models, which are let go of in canonical form: the universe holds them moved.

    Args:
        observe: what is seen of all pairs of models in canonical form.
    """
    sources = {held(run.sources, c, step.op): c for c in step.models}
    names = sorted(sources, key=lambda n: run.hashes.get(n, n))
    if step.reference and step.reference not in names:
        raise UsageError(f"there is no model {step.reference} among {', '.join(names)}")
    states = [dict(run.states.pop(sources[n])) for n in names]
    for n in names:
        run.canonical[n] = replace(run.canonical[n], state={})
    if step.method == "activations":
        found = _observed(run, symmetry, step, lesson, states, observe(states), progress)
    else:
        found = match_all(symmetry, _released(states), step.options(), step.rounds, progress)
    wanted = [n for n in ([step.reference] if step.reference else names) if not run.canonical[n].singular]
    # The first whose gauge is far from singular, if there is one.
    wanted.sort(key=lambda n: bool(nearly_singular(run.canonical[n].transform)))
    reference = next(iter(wanted), None)
    shared = {n: Transform((Act(g),)) for n, g in zip(names, found.elements, strict=True)}
    run.universes[step.into] = Together(found, tuple(names), shared, reference, reference or names[0])


def _released(states: list[State]) -> list[State]:
    """The states in a list of their own; the given one is emptied, so that only one list holds them."""
    found = list(states)
    states.clear()
    return found


def _observed(
    run: Registers,
    symmetry: SymmetryGraph,
    step: Join,
    lesson: Lesson | None,
    states: list[State],
    seen: Mapping[tuple[int, int], Activations],
    progress: Progress | None,
) -> Joint:
    run.notes.append(str(seen[0, 1]))
    counted = {u for s in seen.values() for u in s.correlations}
    if step.alpha != "auto" or not counted:
        return match_all(symmetry, _released(states), step.options(), step.rounds, progress, seen)
    if lesson is None:
        raise UsageError("the program matches activations, and there is no training data", remedy="pass data=...")
    mixture = judge(lesson, states, step.batches)

    def matched(options: MatchOptions, ids: frozenset[int]) -> Joint:
        part = {pair: s.of(ids) for pair, s in seen.items()}
        return match_all(symmetry, states, options, step.rounds, progress, part)

    trees = [u for u in units(symmetry, step.spaces) if u.space.id in counted]
    found, note = chosen(trees, step.options(), matched, mixture, lambda j: j.states)
    run.notes.append(note)
    return found


def learn_all(
    run: Registers, symmetry: SymmetryGraph, step: LearnAll, lesson: Lesson, progress: Progress | None
) -> None:
    """Trains the models from where they are matched, the reference first, since the first may stay."""
    made = held(run.universes, step.universe, step.op)
    order = sorted(made.names, key=lambda n: n != made.first)
    states = [made.joint.states[made.names.index(n)] for n in order]
    found = learn(symmetry, states, lesson, step.options(), progress)
    for n, moved in zip(order, found.transforms, strict=True):
        if moved is not None:
            made.shared[n] = made.shared[n].then(moved)
    # Gains and constants that were trained belong to no model's gauge.
    made.learned, made.trained = found, step.gauge


def settle(run: Registers, symmetry: SymmetryGraph, step: Settle, named: Mapping[str, str]) -> None:
    """Every model in the basis and the gauge of the reference, its function compared with what it was.

    Args:
        named: what messages call each model.
    """
    made = held(run.universes, step.universe, step.op)
    if len(step.into) != len(made.names):
        raise UsageError(f"the program's step settle names {len(step.into)} of {len(made.names)} models")
    if made.trained:
        made.reference = None
        run.notes.append("gains and constants were trained: the universe is in a gauge of its own")
    elif made.reference is None:
        zero = ", ".join(dict.fromkeys(n for m in made.names for n in run.canonical[m].singular))
        run.notes.append(f"gains are zero ({zero}): the universe is in canonical form, which is no model's own")
    # The states of the match are not needed any more, and may be large.
    made.joint = replace(made.joint, states=())
    back = Transform() if made.trained else made.shared[made.first].inverse()
    into = dict(zip(sorted(made.names, key=list(run.given).index), step.into, strict=True))
    called = {n: named.get(n, n) for n in made.names}
    grown = next(filter(None, (_settle(run, symmetry, made, n, back, into[n], called[n]) for n in made.names)), "")
    if grown:
        reason = f"in the gauge of {called[str(made.reference)]} norms would grow ({grown})"
        run.notes.append(f"{reason}: the universe is in canonical form, which is no model's own")
        made.reference = None
        for n in made.names:
            _settle(run, symmetry, made, n, back, into[n], called[n])
    if made.learned is not None:
        run.notes.append(str(made.learned))
    largest = max(made.changes.values())
    run.notes.append(f"every model computes what it computed, up to {largest:.0e}")


def _settle(
    run: Registers, symmetry: SymmetryGraph, made: Together, name: str, back: Transform, into: str, spec: str
) -> str:
    """Takes one model there, unless norms would grow beyond bounds: the answer then says which."""
    own, reference = run.canonical[name].transform, made.reference
    hashes = (run.hashes.get(name, ""), "" if reference is None else run.hashes.get(reference, ""))
    if name == reference:
        # Its own way there and back cancels exactly.
        made.inside[name], made.changes[name] = own, 0.0
        run.alignments[into], run.states[into] = Alignment(symmetry, Transform(), *hashes), run.given[name]
        return ""
    made.inside[name] = own.then(made.shared[name]).then(back)
    target = None if reference is None else run.canonical[reference].transform
    whole = made.inside[name] if target is None else made.inside[name].then(target.inverse())
    state = run.state(name, "settle")
    with torch.no_grad():
        moved = whole.carry(state)
    grown = "" if reference is None else overgrown(moved, state, run.given[reference])
    if grown:
        return grown
    made.changes[name] = checked_change(symmetry, state, moved, spec, f"{spec} in the universe")
    run.alignments[into] = Alignment(symmetry, whole, *hashes)
    if run.gate is not None:
        run.gate(name, moved, run.alignments[into])
    run.states[into] = narrowed(moved, run.given[name])
    return ""
