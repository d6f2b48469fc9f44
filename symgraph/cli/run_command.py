"""`symgraph run`: run a program on the models and data that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.parser import (
    Arguments,
    Commands,
    add_device,
    add_options,
    add_overwrite,
    add_rules,
    add_shards,
    add_trust,
)
from symgraph.match.match_options import Settings

if TYPE_CHECKING:
    from symgraph.match.run_program import Done

_EXAMPLES = """
symgraph run plan.yaml
symgraph run plan.yaml --dry-run                     what it does, and whether all it reads is there
symgraph run plan.yaml --overwrite --device cuda
"""
_DETAILS = """
A program is YAML or JSON. `symgraph align --emit-program`, `universe --emit-program` and `barrier
--emit-program` write one with the models and data that they were given, by paths relative to the program or
by hub ids, and with hashes: other weights or other data under the same name are refused. Steps may be added
to it. One program may canonicalise, match, learn and settle models, measure the loss barrier among them
(interpolate, recalibrate, evaluate, report), and write them:

  - {op: interpolate, models: [A.aligned, B.aligned], into: between}
  - {op: evaluate, mixtures: between, data: test, into: after}
  - {op: report, measured: [after], out: after.json}
  - {op: write, model: B.aligned, out: b-aligned}

Outputs are named relative to the program as well.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    about = "run a program: align, measure and write"
    parser = commands.add("run", run, about, details=_DETAILS, examples=_EXAMPLES)
    parser.add_argument("program", metavar="PROGRAM", help="a file (.yaml or .json)")
    parser.add_argument("--dry-run", action="store_true", help="check what it reads and writes, print it and stop")
    add_shards(parser)
    add_overwrite(parser)
    note = " of matching (default float64); that of an evaluation stands in the program"
    add_device(parser, ("float64", "float32"), "float64", note)
    add_options(parser, Settings, "strict", "tied", "checkpoint", "resume")
    add_rules(parser)
    add_trust(parser)


def run(args: Arguments, console: Console) -> int:
    """Check what is written, read and check what is read, run, print."""
    from symgraph.match import run_program as programs
    from symgraph.match.program import Program
    from symgraph.match.run_program import Around

    program = Program.opened(args.program)
    inputs.check_run(args)
    programs.refuse_outputs(program, args.overwrite)
    deferred = not program.data
    programs.require_room(program, waiting=deferred)
    models = programs.load_models(program, deferred=deferred, **inputs.trusted(args))
    data = programs.load_data(program, models)
    if args.dry_run:
        console.result(program, program.to_plain())
        return 0
    beside = next((folder.absolute().parent for folder in programs.written_folders(program) if deferred), None)
    settings = Settings(**inputs.settings(args, Settings) | {"scratch": beside})
    writing = {"shard_size": args.shard_size}
    how = Around(overwrite=args.overwrite, writing=writing, command=args.typed)
    with console.working("running"):
        done = programs.run_program(program, models, data, settings, how)
    console.result("\n".join(_lines(done)), _plain(done))
    if not done.run.written and not done.run.reported:
        console.remark("nothing is written: add a step such as {op: write, model: B.aligned, out: b-aligned}")
    return 0


def _lines(done: Done) -> list[str]:
    from symgraph.match.barrier_steps import tables

    lines = [str(done.universe)] if done.universe else [str(n) for n in done.run.notes]
    if done.run.reported:
        lines.append(tables(done.run.reported, done.run.reported_plane))
    return [*lines, *(f"wrote {what} to {path}" for what, path in done.run.written.items())]


def _plain(done: Done) -> dict[str, Any]:
    found: dict[str, Any] = done.universe.to_plain() if done.universe else {"notes": list(done.run.notes)}
    measured = {n: m.found.to_plain() for n, m in done.run.reported.items()}
    plane = done.run.reported_plane
    if plane is not None:
        measured["loss_plane"] = plane.to_plain()
    return {**found, "measured": measured, "written": dict(done.run.written)}
