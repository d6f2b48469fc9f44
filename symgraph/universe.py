"""A universe: any number of models, each taken into one common basis and gauge.

Whatever leads from one model to another goes through the universe, u_j^-1 . u_i, so that going round any cycle of
models ends where it began, by construction. The models are taken in the order of the hashes of their weights: the order
in which they are given changes nothing.

Source: many models by alignment to a mean, Theus et al., arXiv 2506.22712; maps that factor through a universe, C2M3,
arXiv 2405.17897 (there for permutations alone).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from symgraph import api
from symgraph.action import GroupElement
from symgraph.align.alignment import Alignment
from symgraph.align.execute import checked_change, widened
from symgraph.align.joint import Joint, match_all
from symgraph.align.learn import Learned, LearnOptions, Lesson, learn
from symgraph.align.match import MatchOptions
from symgraph.canonical import canonicalise
from symgraph.checkpoint import architecture_differences
from symgraph.errors import CheckpointError, UsageError
from symgraph.gauge import Act, Transform
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.losses import PerExample
from symgraph.mixture import State, interpolate
from symgraph.models import Model
from symgraph.state import check_finite, state_hash
from symgraph.trace import state_of
from symgraph.widening.models import common_shape

METHODS = ("weights", "learned")


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
    squared norms, after the start and after every round.
    """

    symmetry: SymmetryGraph
    members: tuple[Member, ...]
    reference: int | None
    objective: tuple[float, ...]
    notes: tuple[str, ...] = ()
    learned: Learned | None = None

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
    sources: Sequence[api.Source],
    *,
    reference: int | None = None,
    options: MatchOptions | None = None,
    rounds: int = 10,
    symmetry: SymmetryGraph | None = None,
    rules: api.RuleSources = None,
    tied: str = "keep",
    strict: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float64,
    progress: api.Progress | None = None,
    method: str = "weights",
    data: Any = None,
    validation: Any = None,
    learning: LearnOptions | None = None,
    loss: str | PerExample = "cross-entropy",
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> Universe:
    """Brings any number of models into one basis and one gauge without changing the function of any.

    Narrower models are embedded exactly into the shape of the widest first.

    Args:
        reference: the number of the model whose gauge the result is in. By default the first, in the order of their
            hashes, whose gauge has an inverse.
        options, symmetry, rules, tied, strict, device, dtype: as for `symgraph.align`.
        rounds: at most so many rounds in which each model is matched to the mean of the others.
        method: "weights", or "learned": from there trained on the task loss at mixtures of all models.
        data, validation, loss, checkpoint, resume: for "learned", as for `symgraph.align`.
        learning: by default `LearnOptions(sampler="dirichlet")`, where all models but the reference move.

    Raises:
        UsageError: fewer than two models, or a choice that does not exist.
        CheckpointError: the architectures or symmetries differ (which model's), or a weight is not finite.
        VerifyError: a model does not compute what it computed.

    Source: Theus et al., arXiv 2506.22712; Ten Berge 1977; gauge: design section 8.
    """
    options = options or MatchOptions()
    _check(len(sources), reference, options)
    _check_method(method, data)
    models, notes = api.ready(sources, tied, [f"model {i + 1}" for i in range(len(sources))])
    models, grown = _in_one_shape(models, rules)
    notes = (*notes, *grown)
    found = symmetry or _symmetry(models, rules, strict)
    run = _Making(found, models, device, dtype)
    joint = match_all(found, run.canonical(), options, rounds, progress)
    run.choose(joint, reference)
    trained = api.learning_options(method, options, learning or LearnOptions(sampler="dirichlet"))
    learned = None
    if trained is not None:
        lesson = Lesson(models[run.first].module, data, validation, loss, checkpoint, resume, device=device)
        learned = run.learn(joint, lesson, trained, progress)
    return run.result(joint, learned, notes)


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
    if method == "learned" and data is None:
        raise UsageError("method 'learned' needs data", remedy="pass data=, batches of the training split")


def _in_one_shape(models: Sequence[Model], rules: api.RuleSources) -> tuple[list[Model], tuple[str, ...]]:
    """All models in the shape of the widest, and what is to be said of those that were embedded.

    Raises:
        CheckpointError: models differ in more than widths, or none is as wide as all others in everything.
    """
    book = api.rule_book(rules)

    def narrower(one: Model, other: Model) -> str:
        """Which of the two is narrower, "A" or "B", if they differ."""
        return common_shape(one, other, lambda m: api.infer(m, rules=book)).narrow if _differ(one, other) else ""

    widest = models[0]
    for other in models[1:]:
        widest = other if narrower(widest, other) == "A" else widest
    found, notes = [], []
    for m in models:
        if m is not widest and narrower(widest, m):
            embedded = api.embed(m, like=widest, rules=book)
            notes.append(f"{m.spec} {embedded}")
            m = embedded.model
        found.append(m)
    return found, tuple(notes)


def _differ(one: Model, other: Model) -> bool:
    return bool(architecture_differences(one, other))


def _symmetry(models: Sequence[Model], rules: api.RuleSources, strict: bool) -> SymmetryGraph:
    """The symmetry graph of all models. Where a config says that they compute alike, one is inferred.

    Raises:
        CheckpointError: naming the model whose graph is another one.
    """
    book = api.rule_book(rules)
    first = api.infer(models[0], rules=book, strict=strict)
    for other in (m for m in models[1:] if m.config is None):
        if api.infer(other, rules=book, strict=strict).fingerprint != first.fingerprint:
            raise CheckpointError(
                f"{other.spec} has other symmetries than {models[0].spec}",
                cause="their symmetry graphs differ, so that they compute differently",
                remedy="name models of one architecture",
            )
    return first


class _Making:
    """A universe while it is made: models by number, and their numbers in the order of their hashes."""

    def __init__(self, symmetry: SymmetryGraph, models: Sequence[Model], device: Any, dtype: torch.dtype) -> None:
        self.symmetry, self.models, self.device, self.dtype = symmetry, models, device, dtype
        self.given = [{n: t.detach() for n, t in state_of(m.module).items()} for m in models]
        for m, state in zip(models, self.given, strict=True):
            check_finite({k: v for k, v in state.items() if k in symmetry.terms}, where=m.spec)
        self.hashes = [state_hash(s) for s in self.given]
        self.order = sorted(range(len(models)), key=self.hashes.__getitem__)
        self.transforms: dict[int, Transform] = {}
        self.singular: dict[int, tuple[str, ...]] = {}
        # For each model what leads from its canonical form to the common basis, up to what all have in common.
        self.shared: dict[int, Transform] = {}
        self.reference: int | None = None
        self.first = self.order[0]
        self.trained = False

    def canonical(self) -> Iterator[State]:
        """The models in canonical form, one after the other in order."""
        for i in self.order:
            state = widened(self.given[i], self.device, self.dtype)
            found = canonicalise(self.symmetry, {n: state[n] for n in self.symmetry.terms if n in state})
            self.transforms[i], self.singular[i] = found.transform, found.singular
            yield found.state

    def choose(self, joint: Joint, wanted: int | None) -> None:
        """The reference: the model whose gauge the universe is in, or None where no gauge will do."""
        candidates = self.order if wanted is None else [wanted]
        self.reference = next((i for i in candidates if not self.singular[i]), None)
        self.shared = {i: _act(g) for i, g in zip(self.order, joint.elements, strict=True)}
        self.first = self.order[0] if self.reference is None else self.reference

    def learn(self, joint: Joint, lesson: Lesson, options: LearnOptions, progress: api.Progress | None) -> Learned:
        """Trains the models from where they are matched, the reference first, since the first may stay."""
        order = sorted(self.order, key=lambda i: i != self.first)
        states = [joint.states[self.order.index(i)] for i in order]
        found = learn(self.symmetry, states, lesson, options, progress)
        for i, moved in zip(order, found.transforms, strict=True):
            if moved is not None:
                self.shared[i] = self.shared[i].then(moved)
        # Gains and constants that were trained belong to no model's gauge.
        self.trained = options.motion.gauge
        return found

    def result(self, joint: Joint, learned: Learned | None, notes: tuple[str, ...]) -> Universe:
        """Every model in the basis and the gauge of the reference, its function compared with what it was."""
        if self.trained:
            self.reference = None
            notes = (*notes, "gains and constants were trained: the universe is in a gauge of its own")
        elif self.reference is None:
            zero = ", ".join(dict.fromkeys(n for names in self.singular.values() for n in names))
            notes = (*notes, f"gains are zero ({zero}): the universe is in canonical form, which is no model's own")
        back = Transform() if self.trained else self.shared[self.first].inverse()
        inside = {
            # The reference's own way there and back cancels exactly.
            i: self.transforms[i] if i == self.reference else self.transforms[i].then(self.shared[i]).then(back)
            for i in self.order
        }
        figures = dict(zip(self.order, zip(joint.before, joint.after, strict=True), strict=True))
        members = tuple(self._member(i, inside[i], figures[i]) for i in range(len(self.models)))
        if learned is not None:
            notes = (*notes, str(learned))
        largest = max(m.change for m in members)
        notes = (*notes, f"every model computes what it computed, up to {largest:.0e}")
        objective = tuple(x / joint.scale for x in joint.objective)
        return Universe(self.symmetry, members, self.reference, objective, notes, learned)

    def _member(self, i: int, inside: Transform, figures: tuple[float, float]) -> Member:
        reference = self.reference
        model, given, names = self.models[i], self.given[i], self.singular[i]
        whole = inside if reference is None else inside.then(self.transforms[reference].inverse())
        target = "" if reference is None else self.hashes[reference]
        if i == reference:
            alignment = Alignment(self.symmetry, Transform(), self.hashes[i], target)
            return Member(model, api.stored(model.module, given), alignment, inside, names, 0.0, *figures)
        state = widened(given, self.device, self.dtype)
        moved = whole.carry(state)
        change = checked_change(self.symmetry, state, moved, model.spec, f"{model.spec} in the universe")
        alignment = Alignment(self.symmetry, whole, self.hashes[i], target)
        stored = api.stored(model.module, api.narrowed(moved, given))
        return Member(model, stored, alignment, inside, names, change, *figures)


def _act(element: GroupElement) -> Transform:
    return Transform((Act(element),))
