"""A universe: any number of models, each taken into one common basis and gauge.

Whatever leads from one model to another goes through the universe, u_j^-1 . u_i, so that going round any cycle of
models ends where it began, by construction. The models are taken in the order of the hashes of their weights: the order
in which they are given changes nothing.

Source: many models by alignment to a mean, Theus et al., arXiv 2506.22712; maps that factor through a universe, C2M3,
arXiv 2405.17897 (there for permutations alone).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import CheckpointError, UsageError
from symgraph.inference.sources import Progress, RuleSources, Source, infer, ready, rule_book, stored
from symgraph.io.checkpoint import architecture_differences
from symgraph.io.models import Model
from symgraph.io.state import check_finite, state_hash
from symgraph.match.execute import execute
from symgraph.match.learn_options import LearnOptions
from symgraph.match.learned import Learned, Lesson
from symgraph.match.planning import learning_options, plan_universe
from symgraph.match.program import Program
from symgraph.match.program_steps import Settle
from symgraph.match.registers import Registers
from symgraph.match.unchanged import Endpoint, calls_on
from symgraph.match.weights import MatchOptions
from symgraph.measure.losses import PerExample
from symgraph.measure.mixture import State, interpolate
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.steps import Transform
from symgraph.resize.reshaped import embed
from symgraph.resize.shapes import common_shape
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of

METHODS = ("weights", "activations", "learned")


@dataclass(frozen=True)
class Member:
    """One model of a universe.

    `state` is the model there, as a checkpoint of its class holds it, `alignment` what leads there; `inside` leads from
    its own gauge to the common basis in canonical form. `singular` names gains that are zero: nothing can be brought
    into its gauge. `change` is the largest relative change of its outputs on random inputs; `before` and `after` are
    its distances from the mean of all in canonical form, as the match weighs them, over its own norm.
    """

    model: Model
    state: State
    alignment: Alignment
    inside: Transform
    singular: tuple[str, ...]
    change: float
    before: float
    after: float


@dataclass(frozen=True)
class Universe:
    """Models in one basis and gauge, in the order in which they were given.

    `reference` is the number of the model whose gauge it is, and which is itself there, bit for bit; None where the
    universe is in a gauge of its own. `objective` is the sum of squared distances from the mean over the sum of
    squared norms, after the start and after every round (mixed with that of activations where they count). `program`
    is what was run.
    """

    symmetry: SymmetryGraph
    members: tuple[Member, ...]
    reference: int | None
    objective: tuple[float, ...]
    notes: tuple[str, ...] = ()
    learned: Learned | None = None
    program: Program | None = None

    @property
    def states(self) -> tuple[State, ...]:
        """All models there, as checkpoints hold them."""
        return tuple(m.state for m in self.members)

    @property
    def distances(self) -> tuple[str, ...]:
        """How far each model was from the mean of all, and how far it is."""
        return tuple(f"{m.model.spec} to the mean: {m.before:.4f} -> {m.after:.4f}" for m in self.members)

    def pairwise(self, source: int, target: int) -> Alignment:
        """From one model to the basis and the gauge of another, through the universe.

        Raises:
            CheckpointError: the target has zero gains, so that nothing can be brought into its gauge.
        """
        one, other = self.members[source], self.members[target]
        if other.singular:
            raise CheckpointError(
                f"{other.model.spec} has zero gains: {', '.join(other.singular)}",
                cause="its gauge has no inverse",
                remedy="go the other way, or use the alignments into the universe",
            )
        hashes = one.alignment.source, other.alignment.source
        return Alignment(self.symmetry, one.inside.then(other.inside.inverse()), *hashes)

    def merged(self, weights: Sequence[float]) -> State:
        """The weighted mean of all models, as a checkpoint holds it.

        Raises:
            UsageError: there is not one weight for each model, or they do not sum to one.
        """
        return interpolate(self.states, weights)

    def to_plain(self) -> dict[str, Any]:
        """Names, hashes and figures as plain data."""
        models = [
            {"model": m.model.spec, "hash": m.alignment.source, "before": m.before, "after": m.after}
            for m in self.members
        ]
        found = {"models": models, "reference": self.reference, "objective": list(self.objective)}
        return found | {"notes": list(self.notes)}

    def __str__(self) -> str:
        rounds = len(self.objective) - 1
        lines = [f"{len(self.members)} models in one basis, {rounds} rounds; distances in canonical form"]
        lines += [f"  {d}" for d in self.distances]
        return "\n".join([*lines, *self.notes])


def universe(
    sources: Sequence[Source],
    *,
    reference: int | None = None,
    options: MatchOptions | None = None,
    rounds: int = 10,
    symmetry: SymmetryGraph | None = None,
    rules: RuleSources = None,
    tied: str = "keep",
    strict: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float64,
    progress: Progress | None = None,
    method: str = "weights",
    data: Any = None,
    validation: Any = None,
    learning: LearnOptions | None = None,
    loss: str | PerExample = "cross-entropy",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    program: Program | None = None,
    examples: Any = None,
) -> Universe:
    """Brings any number of models into one basis and one gauge without changing the function of any.

    Narrower models are embedded exactly into the shape of the widest first.

    Args:
        reference: the number of the model whose gauge the result is in. By default the first, in the order of their
            hashes, whose gauge has an inverse.
        options, symmetry, rules, tied, strict, device, dtype: as for `symgraph.align`.
        rounds: at most so many rounds in which each model is matched to the mean of the others.
        method: "weights"; "activations", alone or mixed with weights (`alpha` of the options); or "learned": from a
            match by weights trained on the task loss at mixtures of all models.
        data, validation, loss, checkpoint, resume: for all but "weights", as for `symgraph.align`.
        learning: by default `LearnOptions(sampler="dirichlet")`, where all models but the reference move.
        program: run this program (see `plan`) instead of planning one; method, options, rounds, reference and learning
            are its own.
        examples: as for `symgraph.align`.

    Raises:
        UsageError: fewer than two models, or a choice that does not exist.
        CheckpointError: the architectures or symmetries differ (which model's), or a weight is not finite.
        VerifyError: a model does not compute what it computed.

    Source: Theus et al., arXiv 2506.22712; Ten Berge 1977; gauge: design section 10.
    """
    if program is None:
        _check_method(method, data)
    how: dict[str, Any] = {"reference": reference, "options": options, "rounds": rounds, "learning": learning}
    models, notes, found = _ready(sources, reference, options, symmetry, rules, tied, strict)
    steps = program or _plan(models, found, method, **how)
    settled = _settled(steps, len(models))
    given = {str(i): state_of(m.module) for i, m in enumerate(models)}
    for m, state in zip(models, given.values(), strict=True):
        check_finite({k: v for k, v in state.items() if k in found.terms}, where=m.spec)
    hashes = {n: state_hash(s) for n, s in given.items()}
    lesson = None
    if data is not None:
        network, book = models[min(range(len(models)), key=lambda i: hashes[str(i)])].module, rule_book(rules)
        lesson = Lesson(network, data, validation, loss, checkpoint, resume, device=device, book=book)
    where: dict[str, Any] = {"device": device, "dtype": dtype, "progress": progress, "lesson": lesson}
    calls = calls_on(models[0].module, data, examples)

    def gate(name: str, moved: Mapping[str, Tensor], alignment: Alignment) -> None:
        Endpoint(models[int(name)], moved, alignment).check(calls)

    run = execute(steps, found, given, hashes=hashes, gate=gate, **where)
    return _made(models, steps, settled, run, notes)


def plan(
    sources: Sequence[Source],
    *,
    reference: int | None = None,
    options: MatchOptions | None = None,
    rounds: int = 10,
    rules: RuleSources = None,
    tied: str = "keep",
    strict: bool = False,
    method: str = "weights",
    learning: LearnOptions | None = None,
) -> Program:
    """The program that `universe` would run, with its arguments.

    Raises:
        UsageError: fewer than two models, or a choice that does not exist.
        CheckpointError: the architectures or symmetries differ.
    """
    _check_method(method, ())
    models, _, found = _ready(sources, reference, options, None, rules, tied, strict)
    return _plan(models, found, method, reference, options, rounds, learning)


def _plan(
    models: Sequence[Model],
    symmetry: SymmetryGraph,
    method: str,
    reference: int | None,
    options: MatchOptions | None,
    rounds: int,
    learning: LearnOptions | None,
) -> Program:
    options = options or MatchOptions()
    trained = learning_options(method, options, learning or LearnOptions(sampler="dirichlet"))
    start = "weights" if method == "learned" else method
    return plan_universe(symmetry, [m.spec for m in models], options, rounds, reference, trained, start)


def _ready(
    sources: Sequence[Source],
    reference: int | None,
    options: MatchOptions | None,
    symmetry: SymmetryGraph | None,
    rules: RuleSources,
    tied: str,
    strict: bool,
) -> tuple[list[Model], tuple[str, ...], SymmetryGraph]:
    """All models in one shape, what is to be said of that, and their symmetry graph."""
    _check(len(sources), reference, options or MatchOptions())
    models, notes = ready(sources, tied, [f"model {i + 1}" for i in range(len(sources))])
    models, grown = _in_one_shape(models, rules)
    notes = (*notes, *grown)
    return models, notes, symmetry or _symmetry(models, rules, strict)


def _check(models: int, reference: int | None, options: MatchOptions) -> None:
    if models < 2:
        raise UsageError(f"{models} model is no universe", remedy="name two models or more")
    if reference is not None and not 0 <= reference < models:
        raise UsageError(f"there is no model {reference} among {models}", remedy=f"count from 0 to {models - 1}")
    if options.weighting == "inputs":
        raise UsageError("a universe has no weighting 'inputs'", remedy="inputs-halved, uniform, or normalised")


def _check_method(method: str, data: Any) -> None:
    if method not in METHODS:
        raise UsageError(f"a universe has no method {method!r}", remedy=f"method= one of {', '.join(METHODS)}")
    if method != "weights" and data is None:
        raise UsageError(f"method {method!r} needs data", remedy="pass data=, batches of the training split")


def _in_one_shape(models: Sequence[Model], rules: RuleSources) -> tuple[list[Model], tuple[str, ...]]:
    """All models in the shape of the widest, and what is to be said of those that were embedded.

    Raises:
        CheckpointError: models differ in more than widths, or none is as wide as all others in everything.
    """
    book = rule_book(rules)

    def narrower(one: Model, other: Model) -> str:
        """Which of the two is narrower, "A" or "B", if they differ."""
        return common_shape(one, other, lambda m: infer(m, rules=book)).narrow if _differ(one, other) else ""

    widest = models[0]
    for other in models[1:]:
        widest = other if narrower(widest, other) == "A" else widest
    found, notes = [], []
    for m in models:
        if m is not widest and narrower(widest, m):
            embedded = embed(m, like=widest, rules=book)
            notes.append(f"{m.spec} {embedded}")
            m = embedded.model
        found.append(m)
    return found, tuple(notes)


def _differ(one: Model, other: Model) -> bool:
    return bool(architecture_differences(one, other))


def _symmetry(models: Sequence[Model], rules: RuleSources, strict: bool) -> SymmetryGraph:
    """The symmetry graph of all models. Where a config says that they compute alike, one is inferred.

    Raises:
        CheckpointError: naming the model whose graph is another one.
    """
    book = rule_book(rules)
    first = infer(models[0], rules=book, strict=strict)
    for other in (m for m in models[1:] if m.config is None):
        if infer(other, rules=book, strict=strict).fingerprint != first.fingerprint:
            raise CheckpointError(
                f"{other.spec} has other symmetries than {models[0].spec}",
                cause="their symmetry graphs differ, so that they compute differently",
                remedy="name models of one architecture",
            )
    return first


def _settled(program: Program, models: int) -> Settle:
    """The step that ends the program of a universe.

    Raises:
        UsageError: the program is not that of a universe of so many models.
    """
    found = next((s for s in program.steps if isinstance(s, Settle) and len(s.into) == models), None)
    if found is None:
        raise UsageError(
            f"the program does not bring {models} models into one basis",
            remedy="write one with `symgraph universe MODELS --emit-program FILE`",
        )
    return found


def _made(models: Sequence[Model], plan: Program, settled: Settle, run: Registers, notes: tuple[str, ...]) -> Universe:
    """What a run of the program leaves in its registers, as a result."""
    made = run.universes[settled.universe]
    figures = dict(zip(made.names, zip(made.joint.before, made.joint.after, strict=True), strict=True))
    members = []
    for i, (model, into) in enumerate(zip(models, settled.into, strict=True)):
        name = str(i)
        alignment, state = run.alignments[into], stored(model.module, run.states[into])
        singular, change = run.canonical[name].singular, made.changes[name]
        members.append(Member(model, state, alignment, made.inside[name], singular, change, *figures[name]))
    symmetry = members[0].alignment.symmetry
    reference = None if made.reference is None else int(made.reference)
    objective = tuple(x / made.joint.scale for x in made.joint.objective)
    return Universe(symmetry, tuple(members), reference, objective, (*notes, *run.notes), made.learned, plan)
