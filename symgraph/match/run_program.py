"""A program run from its file: inputs read and checked by their hashes, outputs refused before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from symgraph.errors import UsageError
from symgraph.inference.sources import infer, rule_book
from symgraph.io.adapted import load_named
from symgraph.io.checkpoint import module_hash
from symgraph.io.data import Batches, NoData
from symgraph.io.files import refuse_existing, require_spaces
from symgraph.io.models import Model, weight_sizes
from symgraph.io.pinned import content_hash
from symgraph.io.same_architecture import check_same_architecture
from symgraph.match.barrier_steps import Evaluate, Interpolate, Recalibrate
from symgraph.match.match_options import Settings
from symgraph.match.one_basis import Shaped, Universe, ran, settled_by, shaped, universe_of
from symgraph.match.plan_program import asked
from symgraph.match.plane_step import PlaneStep
from symgraph.match.prepare_steps import Reduce
from symgraph.match.program import Program
from symgraph.match.program_run import Run
from symgraph.match.settle_step import Settle
from symgraph.measure.barrier import usable
from symgraph.measure.result import LossBarrier

TRAINING, VALIDATION = "train", "validation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What a program does not say: whether outputs are replaced, how checkpoints are written, what the user typed.

    `beside`: earlier results, by their labels, that go into one picture with what the program measures.
    """

    overwrite: bool = False
    writing: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    beside: Mapping[str, LossBarrier] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """What a program has left: all results by name, and the universe of the models that it has settled."""

    run: Run
    universe: Universe | None


def refuse_outputs(program: Program, overwrite: bool) -> None:
    """Raises before any work for an output that exists, is written twice, or is among what is read.

    Raises:
        OutputError: as for `symgraph.io.files.refuse_existing`.
        UsageError: two steps write one file.
    """
    read = [*(given.model for given in program.inputs.values()), *(batches.data for batches in program.data.values())]
    seen: set[str] = set()
    for step, name, path in program.outputs:
        if path in seen:
            raise UsageError(f"the program writes {path} twice", remedy=f"change `{name}` of a step {step.op}")
        seen.add(path)
        refuse_existing(path, overwrite, folder=(step.op, name) == ("write", "out"), inputs=read)


def written_folders(program: Program) -> list[Path]:
    """Where the program writes checkpoints, in the order of its steps."""
    return [Path(path) for step, name, path in program.outputs if (step.op, name) == ("write", "out")]


def require_room(program: Program, *, waiting: bool) -> None:
    """Raises before anything is read if a disk has no room for the checkpoints that are written there.

    Args:
        waiting: what is computed waits beside the first of them, eight bytes for every number of every model.

    Raises:
        OutputError: saying how much there is, and how much there has to be.
        CheckpointError: as for `symgraph.io.models.weight_sizes`.
    """
    sizes = [weight_sizes(given.model) for given in program.inputs.values()] or [(0, 0)]
    stored, entries = (max(column, default=0) for column in zip(*sizes, strict=True))
    folders = written_folders(program)
    needed = [(folder, stored) for folder in folders]
    needed += [(folder, 8 * entries * len(sizes)) for folder in folders[:1] if waiting]
    require_spaces(needed)


def load_models(program: Program, *, deferred: bool = False, **trusted: Any) -> dict[str, Model]:
    """The models of a program by name, checked by their hashes; with `deferred` weights stay in their files.

    Args:
        trusted: whose code may run, as `symgraph.io.models.load` takes it.

    Raises:
        UsageError: it names none.
        CheckpointError: one cannot be read, has no weights, or has others than those that were hashed.
    """
    if not program.inputs:
        raise UsageError("the program names no models", remedy="name them under `inputs`, each with `model`")
    found = {}
    for name, given in program.inputs.items():
        model = load_named(given.model, deferred=deferred, **trusted)
        if not model.has_weights:
            raise UsageError(f"{given.model} has no weights", cause="it is a config", remedy="name a checkpoint folder")
        given.check(model)
        found[name] = model
    return found


def check_alike(models: Mapping[str, Model]) -> None:
    """Raises for models between which there is no line.

    Raises:
        CheckpointError: they are of different architectures.
    """
    first, *others = models.values()
    for other in others:
        check_same_architecture(first, other)


def load_data(program: Program, models: Mapping[str, Model]) -> dict[str, Batches | NoData]:
    """The data of a program by name, checked by its hashes, as its first model takes it.

    Raises:
        DataError: it cannot be read, or is not what was hashed.
    """
    first = next(iter(models.values()))
    trains = (TRAINING, VALIDATION)
    return {
        name: given.training(first) if name in trains else given.load(first) for name, given in program.data.items()
    }


def pinned(program: Program, models: Mapping[str, Model]) -> Program:
    """The program with the hashes of its models and data."""
    hashes = {name: module_hash(model.module) for name, model in models.items()}
    return program.pinned(hashes, {name: content_hash(batches.data) for name, batches in program.data.items()})


def run_program(
    program: Program,
    models: Mapping[str, Model],
    data: Mapping[str, Any],
    settings: Settings | None = None,
    around: Around | None = None,
) -> Done:
    """Runs all steps of a program on its models and data.

    Data called `train` is what models are matched and trained by, `validation` what training stops by.

    Raises:
        UsageError: a step reads what no step before it makes, or the program is for other models.
        CheckpointError: models are of different architectures, or an output exists or cannot be written.
        DataError: data does not fit the models.
        VerifyError: a model does not compute what it computed.
    """
    settings, around = settings or Settings(), around or Around()
    _check_data(program, data)
    how = {"batches": data, **{entry.name: getattr(around, entry.name) for entry in fields(around)}}
    if any(step.reads_symmetry and not isinstance(step, Interpolate) for step in program.steps):
        return _matched(program, models, data, settings, how)
    check_alike(models)
    first = next(iter(models.values()))
    how |= {"models": models, "like": next(iter(models)), "progress": settings.progress}
    if not program.reads_symmetry:
        return Done(program.run(None, {}, **how), None)
    book = rule_book(settings.rules)
    run = program.run(infer(first, rules=book), {}, book=book, **how)
    return Done(run, None)


def _matched(
    program: Program, models: Mapping[str, Model], data: Mapping[str, Any], settings: Settings, how: dict[str, Any]
) -> Done:
    narrows = any(isinstance(step, Reduce) for step in program.steps)
    of: Shaped = shaped(dict(models), settings, [f"model {name}" for name in models], reduce=narrows)
    settings = replace(settings, validation=data.get(VALIDATION))
    wanted = asked(settings, "weights", None, None, data.get(TRAINING), program)
    settles = any(isinstance(step, Settle) for step in program.steps)
    settled = settled_by(program, of) if settles else None
    called = {name: model.spec for name, model in of.models.items()}
    run = ran(of, program, wanted, network=of.like, called=called, **how)
    return Done(run, None if settled is None else universe_of(of, program, settled, run))


def _check_data(program: Program, data: Mapping[str, Any]) -> None:
    """Raises before any work for data that a step reads and that is not named, or a device that is not there."""
    wanted = [(step.data, step.op) for step in program.steps if isinstance(step, Evaluate | PlaneStep | Recalibrate)]
    wanted += [(TRAINING, step.op) for step in program.steps if step.reads_data]
    for name, op in wanted:
        if name not in data:
            remedy = f"name it under `data` of the program: `{name}: {{data: FILE}}`"
            raise UsageError(f"the program's step {op} reads data {name!r}, which there is not", remedy=remedy)
    for step in program.steps:
        if isinstance(step, Evaluate | PlaneStep):
            usable(step.device)
