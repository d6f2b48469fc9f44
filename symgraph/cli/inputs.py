"""What several commands do with their arguments: load models, rules and data, measure, refuse outputs that exist."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symgraph.cli.console import Console
from symgraph.cli.data_inputs import training_inputs
from symgraph.cli.parser import Arguments, chosen
from symgraph.errors import UsageError, shorten
from symgraph.io.files import refuse_existing, require_space
from symgraph.match.match_options import LearnOptions, MatchOptions, Settings

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from symgraph.io.data import Batches
    from symgraph.io.models import Model
    from symgraph.ir import Graph
    from symgraph.match.program import Program
    from symgraph.measure.endpoints import Endpoint
    from symgraph.measure.result import LossBarrier
    from symgraph.rules.book import RuleBook

# Arguments that name what is read.
_SOURCES = (
    *("a", "b", "base", "tuned", "to", "model", "models", "like", "applied"),
    *("data", "train_data", "validation_data", "recalibrate", "fit", "vectors", "moments"),
)


def architecture(spec: str, args: Arguments) -> Model:
    """A model without its weights."""
    from symgraph.io.adapted import load_named

    return load_named(spec, weights=False, **trusted(args))


def traced(
    spec: str, args: Arguments, console: Console, label: str = "tracing"
) -> tuple[Graph, ExportedProgram | None]:
    """The trace of a model, which needs no weights, and the program that it was given as.

    Where a config alone decides about it, it is looked for before anything of the model is imported.
    """
    from symgraph.io.models import config_alone
    from symgraph.tracing.recalled import Recalled

    config = None if args.since is None or any(trusted(args).values()) else config_alone(spec)
    kept = None if config is None else Recalled(config, args.since)
    if kept is not None and (graph := kept.graph()) is not None:
        return graph, None
    from symgraph.inference.sources import trace

    found = architecture(spec, args)
    with console.working(label):
        graph = trace(found)
    if kept is not None:
        kept.note(found.module, graph)
    return graph, found.program


def beginning() -> float | None:
    """The time, if nothing is imported yet that decides about a trace and could have been changed by someone."""
    return None if {"torch", "transformers"} & sys.modules.keys() else time.time()


def trusted(args: Arguments) -> dict[str, Any]:
    """Whose code may run, by name."""
    return {"trust_remote_code": args.trust_remote_code, "model_class": args.model_class}


def model(spec: str, args: Arguments, *, deferred: bool = False) -> Model:
    """A model with its weights, or without where only a config is named."""
    from symgraph.io.adapted import load_named
    from symgraph.io.heap import give_back_blocks

    if deferred:
        give_back_blocks()
    return load_named(spec, **trusted(args), deferred=deferred)


def weighted(spec: str, args: Arguments, *, deferred: bool = False) -> Model:
    """A model with its weights, which with `deferred` stay in their files until they are needed.

    Raises:
        UsageError: only a config is named.
    """
    from symgraph.io.layouts import read_weights

    found = model(spec, args, deferred=deferred)
    if not found.has_weights:
        raise UsageError(f"{spec} has no weights", cause="it is a config", remedy="name a checkpoint folder")
    if getattr(args, "like", None):
        found = replace(found, layout=read_weights(Path(args.like), found.module)[1])
    if found.layout is not None and found.layout.extra:
        remark = f"{spec}: the model does not have {shorten(found.layout.extra)}: kept as they are"
        Console(args.json, args.quiet).remark(remark)
    return found


def rewritten(args: Arguments) -> Model:
    """The one model of which a command writes another, once nothing is in the way of that."""
    refuse_folders(args, args.out)
    require_room(args, [args.model])
    return weighted(args.model, args)


def writing(args: Arguments) -> dict[str, Any]:
    """How checkpoints are written, by name."""
    return {"overwrite": args.overwrite, "shard_size": args.shard_size}


def scratch(args: Arguments) -> Path | None:
    """A folder on the disk that is written to, where something is."""
    if args.out is None:
        return None
    return next(p for p in Path(args.out).absolute().parents if p.is_dir())


def require_room(args: Arguments, specs: Sequence[str], *, copies: int = 1, spooled: int = 0) -> None:
    """Raise before anything is read if the disk has no room for what is written: as much as the largest model.

    Args:
        copies: how many checkpoints are written.
        spooled: how many of them wait there in float64 before; two in float32 while they are matched count as one.

    Raises:
        OutputError: saying how much there is, and how much there has to be.
    """
    from symgraph.io.models import weight_sizes

    sizes = [weight_sizes(spec) for spec in specs]
    if args.out is None:
        return
    written = copies * max((stored for stored, _ in sizes), default=0)
    require_space(args.out, written + 8 * spooled * max((entries for _, entries in sizes), default=0))


def refuse_unread(args: Arguments, instead: str, *names: str) -> None:
    """Raise where options are given that nothing reads: they stand for something that is not going to happen.

    Args:
        instead: what to do in the place of leaving them out.

    Raises:
        UsageError: naming each as it was given.
    """
    flags = {action.dest: action.option_strings[-1] for action in args.parser._actions if action.option_strings}
    given = [flags[n] for n in names if n in flags and getattr(args, n) != args.parser.get_default(n)]
    if given:
        remedy = f"leave out {' and '.join(given)}, or {instead}"
        raise UsageError(f"nothing reads {' and '.join(given)} here", remedy=remedy)


def rule_book(args: Arguments) -> RuleBook:
    """The shipped rules, with those of `--rules` in front."""
    from symgraph.inference.sources import rule_book

    return rule_book(args.rules)


def settings(args: Arguments, kind: type[Settings], *, spool: bool = False) -> dict[str, Any]:
    """How models are read and where it is computed, by name; with `spool` results wait on the disk of `--out`."""
    import torch

    more = {"rules": rule_book(args), "device": args.device, "dtype": getattr(torch, args.dtype)}
    more["scratch"] = scratch(args) if spool else None
    found = chosen(args, kind, **more)
    return {f.name: getattr(found, f.name) for f in fields(found)}


def wanted(args: Arguments, **trained: Any) -> dict[str, Any]:
    """The method, and its options."""
    found: dict[str, Any] = {"method": args.method, "options": chosen(args, MatchOptions)}
    return found | ({"learning": chosen(args, LearnOptions, **trained)} if args.method == "learned" else {})


def measure(
    label: str, models: Sequence[Endpoint], found: Batches, args: Arguments, console: Console, **how: Any
) -> LossBarrier:
    """The loss barrier among models, shown while it is evaluated; `how` as for `loss_barrier`."""
    from symgraph.measure.barrier import loss_barrier

    chosen = {k: getattr(args, k) for k in ("resolution", "samples") if k in args}
    if "mixture" in args:
        chosen["mixtures"] = args.mixture
    with console.working(label):
        return loss_barrier(
            models,
            batches=found,
            points=args.points,
            seed=args.seed,
            metrics=args.metrics,
            device=args.device,
            **chosen,
            **how,
        )


def before_and_after(
    before: Sequence[Model], after: Sequence[Endpoint], found: Batches, args: Arguments, console: Console, **how: Any
) -> dict[str, LossBarrier]:
    """The loss barrier among models before and after they were aligned; the network is that of the first."""
    return {
        "before": measure("before alignment", before, found, args, console, **how),
        "after": measure("after alignment", after, found, args, console, module=before[0].module, **how),
    }


def barrier_lines(measured: Mapping[str, LossBarrier]) -> list[str]:
    """Loss barriers by when they were measured, as lines of text."""
    lines = []
    for when, found in measured.items():
        over = f"on {found.source or 'the data'}{f', split {found.split}' if found.split else ''}"
        over += f", statistics of {found.recalibrated}" if found.recalibrated else ""
        lines += [f"{m.name} barrier {when:<6} {m.height} {m.inside} {over}" for m in (found.loss, *found.metrics)]
    remarks = dict.fromkeys(text for found in measured.values() for text in found.remarks)
    return [*lines, *remarks]


def check_device(device: str) -> None:
    """Raise before any work if torch cannot compute there.

    Raises:
        UsageError: naming the device and what torch says about it.
    """
    from symgraph.measure.barrier import usable

    usable(device)


def check_matching(args: Arguments, what: str, *files: str | None) -> None:
    """Raise before any work if it cannot be done, there is nowhere to write to, or something lies there.

    Raises:
        UsageError: there is no `--out`, and more than a plan is asked for, or nothing to resume.
    """
    check_run(args)
    refuse_files(args, *files, args.emit_program)
    require_out(args, what)


def check_run(args: Arguments) -> None:
    """Raise before any work if it cannot be done where it is asked for, or has nothing to go on from.

    Raises:
        UsageError: there is no such device, or nothing to resume.
    """
    from symgraph.io.data import NONE

    check_device(args.device)
    if "data" in args and args.data == NONE:
        # Models make up what they are matched by; there is nothing to measure on.
        args.data, args.train_data = None, args.train_data or NONE
    if args.resume and args.checkpoint is None:
        raise UsageError("there is nothing to resume", remedy="name the file with --checkpoint")
    refuse_files(args, None if args.resume else args.checkpoint)


def show_program(
    found: Program, args: Arguments, console: Console, models: Mapping[str, Model], *, written: int = 0
) -> int:
    """Print a program that is not run, with what it would take, and write it where that is asked for.

    Args:
        written: how many checkpoints it would write.
    """
    from symgraph import api
    from symgraph.match.cost import cost_of_program

    save_program(found, args, models)
    if found.reads_data or not written:
        console.result(found, found.to_plain())
        return 0
    given = list(models.values())
    cost = cost_of_program(given, found, api.infer(given[0], rules=rule_book(args)), written=written)
    console.result(f"{found}\n{cost}", {**found.to_plain(), "cost": cost.to_plain()})
    return 0


def require_out(args: Arguments, what: str) -> None:
    """Raise if there is nowhere to write to.

    Raises:
        UsageError: there is no `--out`, and more than a plan is asked for.
    """
    if not args.dry_run and args.out is None:
        raise UsageError("there is no --out FOLDER", remedy=f"say where to write {what}, or pass --dry-run")
    if args.out is not None:
        refuse_folders(args, args.out)


def is_code(args: Arguments) -> bool:
    """Whether what is to be emitted is code of plain torch."""
    return bool(args.emit_program) and Path(args.emit_program).suffix == ".py"


def refuse_code(args: Arguments, what: str) -> None:
    """Raise before any work where code is asked for of what is none.

    Raises:
        UsageError: always then.
    """
    if is_code(args):
        remedy = (
            "`symgraph align A B --out FOLDER --emit-program FILE.py` writes that of an alignment; else name a .yaml"
        )
        raise UsageError(f"there is no code of {what}", remedy=remedy)


def save_program(found: Program, args: Arguments, models: Mapping[str, Model]) -> Path | None:
    """Write a program where that is asked for: paths relative to its file, models and data with their hashes."""
    from symgraph.match.run_program import pinned

    if "emit_program" not in args or not args.emit_program or is_code(args):
        return None
    path = Path(args.emit_program)
    if found.reads_data:
        found = replace(found, data=training_inputs(args))
    return pinned(found, models).beside(path).save(path, overwrite=args.overwrite)


def program(args: Arguments) -> Program | None:
    """The program of `--program`, where it is named."""
    from symgraph.match.program import Program

    return Program.load(args.program) if args.program else None


def refuse_files(args: Arguments, *paths: str | None) -> None:
    """Raise before any work if a file cannot be written: something is there, or it is among what is read."""
    for path in filter(None, paths):
        refuse_existing(path, args.overwrite, folder=False, inputs=_read(args))


def refuse_folders(args: Arguments, *paths: str | Path) -> None:
    """Raise before any work if a checkpoint cannot be written: something is there, or it is among what is read."""
    from symgraph.io.checkpoint import is_file

    for path in paths:
        refuse_existing(path, args.overwrite, folder=not is_file(path), inputs=_read(args))


def _read(args: Arguments) -> list[str]:
    """All that is read, where it is named by a path."""
    named = [getattr(args, name, None) for name in _SOURCES]
    listed = [path for found in named if found for path in (found if isinstance(found, list) else [found])]
    return [part for path in listed for part in (path, path.rpartition("@")[2], *path.rpartition("+")[::2])]


def attach_weights(args: Arguments) -> None:
    """Gives each model the file of `--weights` that stands in its place: `FACTORY` becomes `FACTORY@FILE`.

    Raises:
        UsageError: there are more files than models.
    """
    files = getattr(args, "files", None) or []
    places: list[tuple[str, int | None]] = [(name, None) for name in ("a", "b", "model") if name in args]
    places += [("models", i) for i in range(len(getattr(args, "models", None) or ()))]
    if len(files) > len(places):
        raise UsageError(f"{len(files)} files of weights for {len(places)} models", remedy="give one for each model")
    for (name, number), file in zip(places, files, strict=False):
        if number is None:
            setattr(args, name, f"{getattr(args, name)}@{file}")
        else:
            args.models[number] = f"{args.models[number]}@{file}"
