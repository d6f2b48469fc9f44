"""Any number of models brought into one common basis and gauge: what is read, what is run, and what comes out.

Whatever leads from one model to another goes through the universe, u_j^-1 . u_i, so that going round any cycle of
models ends where it began, by construction.

Source: many models by alignment to a mean, Theus et al., arXiv 2506.22712; maps that factor through a universe, C2M3,
arXiv 2405.17897 (there for permutations alone).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from symgraph.errors import CheckpointError, TraceError, UsageError, VerifyError, either
from symgraph.inference.sources import Source, infer, ready, rule_book
from symgraph.inference.unread import unreached
from symgraph.io.checkpoint import checked_hash
from symgraph.io.data import NONE, NoData
from symgraph.io.models import Model
from symgraph.io.ranks import current
from symgraph.io.same_architecture import architecture_differences
from symgraph.io.shown import Shown
from symgraph.io.spool import Spool
from symgraph.match.learned_matching import Learned, Lesson
from symgraph.match.match_options import PAIR, Settings
from symgraph.match.match_step import MatchStep
from symgraph.match.plan_program import Plan, Wanted, plan_program
from symgraph.match.prepare_steps import Embed, Reduce
from symgraph.match.program import Program
from symgraph.match.program_run import Run
from symgraph.match.run_file import RunFile
from symgraph.match.same_inputs import require_alike
from symgraph.match.settle_step import Settle
from symgraph.match.suitable import unsuited
from symgraph.match.unchanged import Gate, calls_on
from symgraph.measure.barrier import usable
from symgraph.measure.batches import held
from symgraph.measure.mixture import State, interpolate
from symgraph.measure.synthetic import synthetic
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.steps import Transform
from symgraph.prove.same_function import check_unchanged
from symgraph.resize.overlap import Overlap, overlap
from symgraph.resize.shapes import Shape, common_shape
from symgraph.resize.token_rows import WantedTokens
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of
from symgraph.tracing.deferred import made
from symgraph.tracing.same_code import same_code

# Of how far models were apart: with more of it left they have hardly come together.
LEFT_APART = 0.5
ONE_ARCHITECTURE = "name models of one architecture: of one depth, with the same operators and numbers"


@dataclass(frozen=True)
class Member:
    """One model of a universe.

    `state` is the model there, as a checkpoint of its class holds it, `alignment` what leads there; `inside` leads from
    its own gauge to the common basis in canonical form: by way of its own canonical form (`canonical`), and from there
    (`basis`). `singular` names gains that are zero: nothing can be brought
    into its gauge. `change` is the largest relative change of its outputs on random inputs; `before` and `after` are
    its distances from what it was matched to (the mean of all, or the first of two) in canonical form, as the match
    weighs them, over its norm.
    """

    model: Model
    state: State
    alignment: Alignment
    inside: Transform
    canonical: Transform
    basis: Transform
    singular: tuple[str, ...]
    change: float
    before: float
    after: float


@dataclass(frozen=True, repr=False)
class Universe(Shown):
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
    notes: tuple[str, ...]
    learned: Learned | None
    program: Program

    @property
    def states(self) -> tuple[State, ...]:
        """All models there, as checkpoints hold them."""
        return tuple(member.state for member in self.members)

    @property
    def distances(self) -> tuple[str, ...]:
        """How far each model was from the mean of all, and how far it is."""
        return tuple(
            f"{member.model.spec} to the mean: {member.before:.4f} -> {member.after:.4f}" for member in self.members
        )

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
            {
                "model": member.model.spec,
                "hash": member.alignment.source,
                "before": member.before,
                "after": member.after,
            }
            for member in self.members
        ]
        found = {"models": models, "reference": self.reference, "objective": list(self.objective)}
        return found | {"notes": list(self.notes)}

    def __str__(self) -> str:
        rounds = len(self.objective) - 1
        lines = [f"{len(self.members)} models in one basis, {rounds} rounds; distances in canonical form"]
        lines += [f"  {distance}" for distance in self.distances]
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True, slots=True)
class Shaped:
    """Models by name, the symmetry graph of their common shape, and how those of another one come to it.

    `like` names the model that has the shape; `others` are the symmetry graphs of those that have not.
    """

    models: dict[str, Model]
    notes: tuple[str, ...]
    symmetry: SymmetryGraph
    like: str
    reshape: tuple[Embed | Reduce, ...]
    others: dict[str, SymmetryGraph]


def shaped(sources: Mapping[str, Source], settings: Settings, roles: Sequence[str], *, reduce: bool = False) -> Shaped:
    """Models of one architecture, and the shape that all of them are brought to: that of the widest.

    Args:
        roles: what messages call the models.
        reduce: where the second of two is wider, it is that of the first.

    Raises:
        CheckpointError: models differ in more than widths, or none is as wide as all others in everything; or the
            symmetry graph of one is another one.
    """
    usable(settings.device)
    if not isinstance(settings.dtype, torch.dtype | None):
        raise UsageError(f"{settings.dtype!r} is no dtype of torch", remedy="dtype=torch.float64, or torch.float32")
    found, notes = ready(tuple(sources.values()), settings.tied, roles, settings.example, settings.input_size)
    models = dict(zip(sources, found, strict=True))
    book = rule_book(settings.rules)
    known = {} if settings.symmetry is None else {id(found[0]): settings.symmetry}

    def graph(m: Model) -> SymmetryGraph:
        if id(m) not in known:
            known[id(m)] = infer(m, rules=book, strict=settings.strict)
        return known[id(m)]

    called = dict(zip(models, (_called(*named) for named in zip(roles, found, strict=True)), strict=True))

    def common(one: str, other: str) -> Shape:
        names = called[one], called[other]
        return common_shape(models[one], models[other], graph, reduce=reduce, names=names)

    like = next(iter(models))
    for name, other in models.items():
        if architecture_differences(models[like], other):
            like = name if common(like, name).narrow == "A" else like
    shapes = {name: common(like, name) for name in models if name != like}
    reshaped = {name: shape for name, shape in shapes.items() if shape.other is not None}
    # What is given may be smaller than what the models admit: others are compared with what they admit themselves.
    own = graph if settings.symmetry is None else partial(infer, rules=book, strict=settings.strict)
    check_alike(models, set(models) - reshaped.keys(), own)
    steps = tuple(_reshaping(name, like, shape) for name, shape in reshaped.items())
    notes = (*notes, *unreached(graph(models[like]).graph))
    return Shaped(models, notes, graph(models[like]), like, steps, {name: graph(models[name]) for name in reshaped})


def shared_rows(
    models: Sequence[Model], settings: Settings, *, like: int | None = None, wanted: WantedTokens | None = None
) -> Overlap | None:
    """What models have in common that differ in tokens, labels or positions, in the shape of one of them; else None.

    Args:
        like: the number of that one; by default the one with the most rows.
        wanted: whose tokens the result has.

    Raises:
        UsageError, CheckpointError: as for `symgraph.resize.overlap.overlap`.
    """
    if not all(m.has_weights for m in models):
        return None
    book = rule_book(settings.rules)
    return overlap(models, like, lambda m: infer(m, rules=book), settings.on_difference, wanted)


def _called(role: str, found: Model) -> str:
    """A role of two is what the commands call their models; others are told apart by what they are as well."""
    return role if role in PAIR else f"{role} ({found.spec})"


def _reshaping(name: str, like: str, shape: Shape) -> Embed | Reduce:
    if shape.wide:
        return Reduce(name, like, f"{name}.reduced", tuple(space.reverse for space in shape.spaces))
    return Embed(name, like, f"{name}.embedded", tuple(map(str, shape.spaces)))


def check_alike(models: Mapping[str, Model], names: Iterable[str], graph: Callable[[Model], SymmetryGraph]) -> None:
    """Where no config says that models compute alike, their symmetry graphs and outputs at equal weights must.

    Raises:
        CheckpointError: naming two of them that are not.
    """
    first, *others = (models[name] for name in models if name in names)
    for other in others:
        traceable = other.config is None and other.example is not None
        if not traceable or _runs_the_same(graph(first), first, other):
            continue
        if graph(other).fingerprint != graph(first).fingerprint:
            raise CheckpointError(
                f"{other.spec} has other symmetries than {first.spec}",
                cause="their symmetry graphs differ, so that they compute differently",
                remedy=ONE_ARCHITECTURE,
            )
        _check_one_function(first, other, graph(first))


def _check_one_function(one: Model, other: Model, symmetry: SymmetryGraph) -> None:
    """Raises where a second model, with the weights of the first, does not compute what that computes."""
    try:
        check_unchanged(other, state_of(one.module), other.spec, source=one, graph=symmetry.graph)
    except (TraceError, VerifyError) as e:
        raise CheckpointError(
            f"{other.spec} computes otherwise than {one.spec}",
            cause="its outputs are others with the same weights and inputs",
            remedy=ONE_ARCHITECTURE,
        ) from e


def _runs_the_same(symmetry: SymmetryGraph, one: Model, other: Model) -> bool:
    """Whether a second model need not be traced: it runs the code of the first, on buffers that move or are equal."""
    graph = symmetry.graph
    moved = {name for family in symmetry.statistics for name in family.tensors}
    fixed = [name for name, node in graph.state.items() if name not in graph.parameters and graph.users[node.name]]
    return same_code(one.module, other.module, [name for name in fixed if name not in moved])


def planned(of: Shaped, wanted: Wanted) -> Program:
    """The program of what is asked for."""
    learned, planning = wanted.method == "learned", dict(wanted.settings.planning)
    start = planning.pop("start", "weights")
    plan = Plan(
        inputs={name: model.spec for name, model in of.models.items()},
        method=start if learned else wanted.method,
        options=wanted.options,
        learning=wanted.learning if learned else None,
        reshape=of.reshape,
        **planning,
    )
    return plan_program(of.symmetry, plan)


def bring(of: Shaped, program: Program, wanted: Wanted, *, network: str, called: Mapping[str, str]) -> Universe:
    """Runs a program on models, and gathers what it makes of each.

    Args:
        network: the model whose module computes losses and activations; "": whichever hash comes first.
        called: what messages call the models.

    Raises:
        UsageError: the program is not for so many models, or not for their shapes, or needs data.
        CheckpointError: a weight is not finite.
        VerifyError: a model does not compute what it computed.
    """
    settled = settled_by(program, of)
    for step in program.steps:
        if not step.reads_symmetry:
            raise UsageError(f"the program has a step {step.op}", remedy="run it with `symgraph run PROGRAM`")
    found = universe_of(of, program, settled, ran(of, program, wanted, network=network, called=called))
    apart = sum(member.after for member in found.members) > LEFT_APART * sum(member.before for member in found.members)
    said = unsuited(of.symmetry, wanted.method) if apart and wanted.program is None else ()
    return replace(found, notes=(*found.notes, *said))


def ran(of: Shaped, program: Program, wanted: Wanted, *, network: str, called: Mapping[str, str], **more: Any) -> Run:
    """Runs a program on models, and gives all that its steps have left, with further fields of a `Run`.

    Raises:
        UsageError: a step reads what there is not, or needs data.
        CheckpointError: a weight is not finite.
        VerifyError: a model does not compute what it computed.
    """
    settings = wanted.settings
    data, validation = (_made_up(d, of, settings) for d in (wanted.data, settings.validation))
    if any(isinstance(step, MatchStep) and step.reads_data for step in program.steps):
        # Each model reads them, and then the barrier that chooses among matches; training takes what comes.
        data = held(data)
    states = {name: state_of(model.module) for name, model in of.models.items()}
    hashes = {
        name: _checked(model, states[name], called.get(name, name), of.symmetry) for name, model in of.models.items()
    }
    module = of.models[network or min(of.models.keys() - of.others.keys(), key=hashes.__getitem__)].module
    sources = {step.into: (of.models[step.model], isinstance(step, Embed)) for step in of.reshape}
    gate = Gate(of.models, of.models[of.like], sources, calls_on(module, data, settings.examples))
    lesson = Lesson(
        module,
        data,
        validation,
        settings.loss,
        device=settings.device,
        book=rule_book(settings.rules),
    )
    return program.run(
        of.symmetry,
        states,
        models=of.models,
        like=of.like,
        hashes=hashes,
        device=settings.device,
        dtype=settings.dtype or torch.float64,
        lesson=None if data is None else lesson,
        book=lesson.book,
        others=of.others,
        called=called,
        progress=settings.progress,
        gate=gate,
        file=None if settings.checkpoint is None else RunFile(settings.checkpoint, resume=settings.resume),
        keep=made if settings.scratch is None else Spool(Path(settings.scratch)).put,
        **more,
    )


def _made_up(data: Any, of: Shaped, settings: Settings) -> Any:
    """The data, or where there is none, what the models of the common shape make up."""
    wanted = NoData() if isinstance(data, str) and data == NONE else data
    if not isinstance(wanted, NoData):
        return data
    return synthetic([model.module for model in of.models.values()], of.symmetry.graph, wanted, settings.loss)


def _checked(model: Model, state: State, called: str, symmetry: SymmetryGraph) -> str:
    """The hash of a model, whose weights are finite, and the same in every process."""
    known = {name: tensor for name, tensor in state.items() if name in symmetry.terms}
    found = current().sent(0, lambda: checked_hash(model.module, known, called))
    require_alike(symmetry, known, called)
    return found


def settled_by(program: Program, of: Shaped) -> Settle:
    """The step that ends the program.

    Raises:
        UsageError: the program is not that of so many models of such shapes.
    """
    found = next(
        (step for step in program.steps if isinstance(step, Settle) and len(step.into) == len(of.models)), None
    )
    command = "`symgraph align A B --emit-program FILE` writes one, or `symgraph universe`"
    remedy = either("`symgraph.plan([a, b])` makes one", command)
    if found is None or program.inputs.keys() - of.models.keys():
        raise UsageError(f"the program does not bring {len(of.models)} models into one basis", remedy=remedy)
    for kind, what in ((Reduce, "reduces"), (Embed, "embeds")):
        has, needs = ([step.model for step in steps if isinstance(step, kind)] for steps in (program.steps, of.reshape))
        if has != needs:
            both = (", ".join(names) or "no model" for names in (has, needs))
            raise UsageError(f"the program {what} {', and '.join(both)} has to be", remedy=remedy)
    return found


def universe_of(of: Shaped, program: Program, settled: Settle, run: Run) -> Universe:
    """What a run of the program leaves behind, as a result."""
    made = run.together[settled.matched]
    into = dict(zip(made.listed, settled.into, strict=True))
    shaped_as = {step.model: step.into for step in program.steps if isinstance(step, Embed | Reduce)}
    figures = dict(zip(made.states, zip(made.matched.before, made.matched.after, strict=True), strict=True))
    members = []
    for model_name in of.models:
        name = shaped_as.get(model_name, model_name)
        model, found = run.finished(into[name], settled.op)
        singular, change = run.canonical[name].singular, made.changes[name]
        ways = made.inside[name], run.canonical[name].transform, made.basis[name]
        members.append(Member(model, found, run.alignments[into[name]], *ways, singular, change, *figures[name]))
    names = [shaped_as.get(name, name) for name in of.models]
    reference = None if made.reference is None else names.index(made.reference)
    objective = tuple(x / made.matched.scale for x in made.matched.objective)
    notes = (*of.notes, *run.notes)
    return Universe(of.symmetry, tuple(members), reference, objective, notes, made.learned, program)
