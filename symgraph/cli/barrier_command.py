"""`symgraph barrier`: loss and metrics between models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.data_inputs import held_out, recalibration
from symgraph.cli.parser import (
    WEIGHTED_HELP,
    Arguments,
    Commands,
    add_data,
    add_mixtures,
    add_options,
    add_overwrite,
    add_program,
    add_recalibration,
    add_rules,
    add_trust,
    chosen,
)
from symgraph.errors import UsageError
from symgraph.match.match_options import Settings
from symgraph.measure.barrier_options import EvaluationOptions, MixtureOptions, PlaneOptions

if TYPE_CHECKING:
    from symgraph.match.program import Program
    from symgraph.measure.result import LossBarrier

_EXAMPLES = """
symgraph barrier a b --data my-dataset --metrics accuracy
symgraph barrier a b --data test.txt --metrics perplexity --limit 200 --plot barrier.png
symgraph barrier a b --data my_package.data:test_batches --json
symgraph barrier a b --data test.txt --html barrier.html            a page: curves, error bands, tables
symgraph barrier a c --data test.txt --beside weights=ab.json --html both.html    with a result of --out
symgraph barrier a b c --data my-dataset --plot triangle.png        mixtures of all three
symgraph barrier a b c --data my-dataset --plane 21 --html plane.html     the plane through them, and a path
symgraph barrier a b --data my-dataset --recalibrate my-dataset     batch norms: new statistics
symgraph barrier a b-aligned --data test.txt --product
symgraph barrier a b --data test.txt --emit-program plan.yaml       write what was done
symgraph barrier --program plan.yaml                                and do it again
"""
_DETAILS = """
Evaluates (1 - lambda) A + lambda B at points of lambda from 0 to 1. The loss barrier is the largest
distance above the chord between the two losses at the ends; below zero a mixture beats the chord.

Of more than two models, mixtures are evaluated: pairs, the even one, and a lattice of weights. The loss
barrier is then the largest distance above the mean of their own losses, with the same weights.

With --plane N the loss of three models is also measured on the plane through them, at N by N points, and on
the path from the first over the second to the third. Pictures and pages show its levels and that path.

With --product the same is measured for mixtures of two models in product form as well: inside of heads the
products of queries and keys, of values and outputs are mixed, not their factors. Such a mixture has up to
twice the rank of a head and is no model of the architecture: a figure to compare with others', no checkpoint.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    about = "measure the loss barrier between two models or more"
    parser = commands.add("barrier", run, about, details=_DETAILS, examples=_EXAMPLES)
    text = f"two models or more: {WEIGHTED_HELP}; with --program by default those that it names"
    parser.add_argument("models", metavar="MODEL", nargs="*", help=text)
    add_trust(parser)
    add_data(parser)
    add_mixtures(parser)
    add_recalibration(parser)
    add_options(parser, MixtureOptions, "seed", "refine")
    add_options(parser, EvaluationOptions, "device", "dtype")
    add_options(parser, PlaneOptions, "plane", "margin")
    text = "also draw the curves (.png, .svg, .pdf), as papers set figures; may be repeated"
    parser.add_argument("--plot", metavar="FILE", action="append", default=[], help=text)
    text = "also write a page that opens from disk: curves with error bands, triangles, planes, tables"
    parser.add_argument("--html", metavar="FILE", help=text)
    text = (
        "draw an earlier result (--out) of two models in the same picture and page, under this label; may be repeated"
    )
    parser.add_argument("--beside", metavar="LABEL=FILE", action="append", default=[], help=text)
    parser.add_argument("--out", metavar="FILE", help="also write the result as JSON")
    add_program(parser)
    add_overwrite(parser)
    text = "also mix the products inside of heads (see above)"
    parser.add_argument("--product", action="store_true", help=text)
    add_rules(parser)


def run(args: Arguments, console: Console) -> int:
    """Plan or load the program, run it, print."""
    from symgraph.match import run_program as programs
    from symgraph.match.barrier_steps import figures, tables
    from symgraph.match.run_program import Around

    _check(args)
    beside = _beside(args)
    program = _given(args) if args.program else _planned(args)
    programs.refuse_outputs(program, args.overwrite)
    models = programs.load_models(program, **inputs.trusted(args))
    if args.emit_program or args.dry_run:
        program = replace(program, model=type(next(iter(models.values())).module).__name__)
    if args.dry_run:
        return inputs.show_program(program, args, console, models)
    # Before any data is read.
    programs.check_alike(models)
    data = programs.load_data(program, models)
    around = Around(overwrite=args.overwrite, command=args.typed, beside=beside)
    with console.working("measuring"):
        done = programs.run_program(program, models, data, _settings(args), around)
    inputs.save_program(program, args, models)
    found = (done.run.reported, done.run.reported_plane)
    console.result(tables(*found), json.dumps(figures(*found), indent=2))
    for path in filter(None, (*done.run.written.values(), args.emit_program)):
        console.remark(f"wrote {path}")
    return 0


def _check(args: Arguments) -> None:
    from symgraph.measure.mixture import check_weights

    count = len(args.models)
    inputs.refuse_code(args, "a loss barrier")
    if args.program is None and args.data is None:
        raise UsageError("there is no data", remedy="name it with --data, or a program with --program")
    if args.program is not None and args.data is not None:
        raise UsageError("the program says which data there is", remedy="leave out --data, or change the program")
    if count < 2 and (count or args.program is None):
        raise UsageError(f"{count} model has no barrier", remedy="name two models or more")
    if args.refine and count > 2:
        raise UsageError(f"--refine is for two models, not {count}", remedy="raise --resolution or --samples")
    if args.product and (count > 2 or args.recalibrate):
        raise UsageError("--product is for two models as they are", remedy="leave out --product")
    if count == 2 and (args.mixture or args.resolution or args.samples):
        raise UsageError("mixtures of two models are points of a segment", remedy="use --points")
    for weights in args.mixture or ():
        check_weights(weights, count)
    if args.plane is not None and args.models and count != 3:
        raise UsageError(f"--plane goes through three models, not {count}", remedy="name three models")
    if args.beside and not (args.plot or args.html):
        raise UsageError(
            "--beside goes into a picture, and none is asked for", remedy="add --html FILE, or --plot FILE"
        )
    if args.beside and count > 2:
        raise UsageError("only barriers of two models go into one picture", remedy="leave out --beside")
    inputs.check_device(args.device)
    inputs.refuse_files(args, *args.plot, args.html, args.out, args.emit_program)


def _beside(args: Arguments) -> dict[str, LossBarrier]:
    """Earlier results by their labels.

    Raises:
        UsageError: one has no label, or is of more than two models.
        DataError: a file holds no loss barrier.
    """
    from pathlib import Path

    from symgraph.measure.result import LossBarrier

    found: dict[str, LossBarrier] = {}
    for given in args.beside:
        label, _, file = given.partition("=")
        if not (label and file):
            raise UsageError(
                f"--beside {given} names no label", remedy=f"--beside weights={given.strip('=') or 'FILE'}"
            )
        if label in found:
            raise UsageError(f"--beside names {label!r} twice", remedy="give each result its own label")
        found[label] = LossBarrier.from_json(Path(file))
        if found[label].loss.models > 2:
            raise UsageError(f"{file} is of {found[label].loss.models} models", remedy="name results of two models")
    return found


def _planned(args: Arguments) -> Program:
    """The program that the arguments ask for."""
    from symgraph.match.barrier_plan import BarrierPlan, barrier_program

    mixtures = tuple(map(tuple, args.mixture)) if args.mixture else None
    plan = BarrierPlan(
        model="",
        inputs=_named(args.models),
        data=held_out(args),
        recalibrate=recalibration(args),
        mixtures=chosen(args, MixtureOptions, mixtures=mixtures),
        evaluation=chosen(args, EvaluationOptions),
        product=args.product,
        plane=chosen(args, PlaneOptions),
        out=args.out or "",
        plots=tuple(args.plot),
        html=args.html or "",
    )
    return barrier_program(plan)


def _named(specs: Sequence[str]) -> dict[str, str]:
    names = ("A", "B") if len(specs) == 2 else map(str, range(len(specs)))
    return dict(zip(names, specs, strict=True))


def _given(args: Arguments) -> Program:
    """The program of `--program`, with the models and outputs of the command line where there are any."""
    from symgraph.io.pinned import ModelInput
    from symgraph.match.barrier_steps import Interpolate, Report
    from symgraph.match.program import Program

    found = Program.opened(args.program)
    for step in found.steps:
        if step.outputs.keys() - {"out", "plot", "html"} or (step.reads_symmetry and not isinstance(step, Interpolate)):
            raise UsageError(f"the program has a step {step.op}", remedy="run it with `symgraph run PROGRAM`")
    if args.models and len(args.models) != len(found.inputs):
        what = f"the program is of {len(found.inputs)} models, not {len(args.models)}"
        raise UsageError(what, remedy="write one of these models with --emit-program")
    first, *others = args.plot or [""]
    named = {k: v for k, v in (("out", args.out), ("plot", first), ("html", args.html)) if v}
    steps = tuple(s.writing(named) if isinstance(s, Report) else s for s in found.steps)
    reports = [s for s in steps if isinstance(s, Report)]
    steps += tuple(s.drawn_as(path) for path in others for s in reports)
    given = zip(found.inputs, args.models, strict=True) if args.models else ()
    inputs_of = {n: ModelInput(model=spec) for n, spec in given} or found.inputs
    return replace(found, steps=steps, inputs=inputs_of)


def _settings(args: Arguments) -> Settings:
    return Settings(rules=inputs.rule_book(args) if args.rules else None)
