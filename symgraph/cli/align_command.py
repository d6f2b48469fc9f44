"""`symgraph align`: bring one model into the basis of another."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.data_inputs import batches, reads_training, recalibration, training
from symgraph.cli.parser import (
    WEIGHTED_HELP,
    Arguments,
    Commands,
    add_data,
    add_device,
    add_matching,
    add_method,
    add_model,
    add_options,
    add_out,
    add_program,
    add_recalibration,
    add_rules,
)
from symgraph.errors import UsageError
from symgraph.match.match_options import PairSettings

if TYPE_CHECKING:
    from symgraph.io.models import Model
    from symgraph.match.aligned import Aligned
    from symgraph.match.helped import Helped
    from symgraph.match.learned_matching import Learned
    from symgraph.match.program import Program
    from symgraph.measure.result import LossBarrier

LISTED = 10
_EXAMPLES = """
symgraph align a b --out b-aligned
symgraph align a b --out b-aligned --data my-dataset --metrics accuracy
symgraph align a b --out b-aligned --data my-dataset --html aligned.html      what it did, as a page
symgraph align a b --dry-run                                  print the plan, do nothing
symgraph align a b --dry-run --emit-program plan.yaml         write the plan, to read or change it
symgraph align a b --out b-aligned --program plan.yaml        run that plan
symgraph align a b --out b-aligned --emit-program moved.py    what was done to b, in plain torch
symgraph align a b --out b-aligned --alignment ab.safetensors keep the alignment for `symgraph apply`
symgraph align a b --out b-aligned --method learned --data my-dataset --checkpoint run.pt
torchrun --nproc-per-node 2 -m symgraph align a b --out b-aligned       shared by two processes
"""
_DETAILS = """
Finds the element of the symmetry group that brings B nearest to A by weight matching, and writes B so
aligned. Its function stays as it was; what changes is that A and B can now be averaged. A itself is not
touched. Where A has zero gains, so that B cannot be brought into its gauge, A in canonical form is
written to FOLDER-reference: use that one in the place of A. The same holds for --tied untie, which makes
another architecture of both, for --dual, which moves A as well, and for an A narrower than B.

A narrower model is embedded into the shape of the other first, with the same function. With --narrow a
wider B is reduced to A's shape instead, which changes its function: by how much is said aloud.

With --method learned the element is then trained on the loss of the models between A and B: on the train
split, stopped on validation data, reported on --data. Both models still compute what they computed.
--method activations compares what the two compute on the train split, alone or with weights (--alpha).
Without --method it is taken where training data is named and batch norms or permutations alone are found,
and statistics of batch norms are then computed anew at every mixture that is measured. Which it was is said.

With --data the loss between the models is measured before and after, and it is said whether that helped.
Processes that torchrun has started share a match by weights; the first one alone prints and writes.

--html FILE writes a page of it: distances of every space and parameter, how sure each assignment is, angles
of rotations, norms, and, with --data, the loss barrier with one space after the other left as it was.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add("align", run, "align one model to another", details=_DETAILS, examples=_EXAMPLES)
    add_model(parser, "a", "b", help=WEIGHTED_HELP)
    add_out(parser, required=False)
    parser.add_argument("--alignment", metavar="FILE", help="also write the alignment itself (.safetensors)")
    text = "also write a page that opens from disk: what the alignment did, and how sure it is"
    parser.add_argument("--html", metavar="FILE", help=text)
    add_program(parser)
    add_options(parser, PairSettings, "strict", "tied", "narrow", "on_difference")
    add_device(parser, ("float64", "float32"), "float64", " (default float64); files keep the dtype of the checkpoint")
    add_rules(parser)
    group = add_method(parser, "lambdas", "sampler", "dual", "gauge", suiting=True)
    add_options(group, PairSettings, "start")
    add_options(parser.add_argument_group("semi-permutations"), PairSettings, "split", "soft")
    add_matching(parser)
    add_recalibration(parser)
    add_data(parser)


def run(args: Arguments, console: Console) -> int:
    """Plan or load the program, run it, measure, write."""
    from symgraph.io.adapted import refuse_alone
    from symgraph.match.aligned import reference_folder

    refuse_alone(args.a, args.b)

    inputs.check_matching(args, "B aligned", args.alignment, args.html)
    _check_measuring(args)
    if inputs.is_code(args):
        _check_code(args)
    if args.out is not None:
        inputs.refuse_folders(args, reference_folder(Path(args.out)))
    program = inputs.program(args)
    learns = reads_training(args)
    deferred = args.data is None and not learns
    inputs.require_room(args, [args.a, args.b], spooled=2 * int(deferred))
    a, b = (inputs.weighted(spec, args, deferred=deferred) for spec in (args.a, args.b))
    if args.dry_run:
        return inputs.show_program(program or _planned(a, b, args), args, console, {"A": a, "B": b}, written=1)
    found = batches(args, a) if args.data else None
    lesson = training(args, a, console) if learns else (None, None)
    aligned = _align((a, b), program, deferred, lesson, found, args, console)
    how = _recalibrating(aligned, lesson[0], args, console) if found is not None else {}
    measured = _measure(aligned, found, args, console, how) if found is not None else {}
    written = _write(aligned, measured, args)
    if args.html:
        with console.working("analysing"):
            how |= {"measured": measured, "device": args.device}
            written["page"] = str(aligned.save_html(args.html, found, overwrite=args.overwrite, **how))
    if inputs.is_code(args):
        written["code"] = str(_write_code(aligned, args))
    if path := inputs.save_program(aligned.program, args, {"A": a, "B": b}):
        written["program"] = str(path)
    said = [aligned.helped(measured["before"], measured["after"])] if measured else []
    lines = [aligned, *inputs.barrier_lines(measured), *said, *(f"wrote {role} to {p}" for role, p in written.items())]
    console.result("\n".join(map(str, lines)), _plain(aligned, measured, written, said))
    return 0


def _check_measuring(args: Arguments) -> None:
    """Raise before any work for what goes with a measurement, where nothing is measured.

    Raises:
        UsageError: saying what to add, or to leave out.
    """
    if args.html and args.dry_run:
        raise UsageError("--html shows an alignment, and --dry-run makes none", remedy="leave out one of them")
    if args.recalibrate and not args.data:
        raise UsageError("--recalibrate goes with a loss barrier, and there is no data", remedy="name it with --data")


def _recalibrating(aligned: Aligned, lesson: Any, args: Arguments, console: Console) -> dict[str, Any]:
    """On what stored statistics are computed anew at mixtures, as an argument; nothing where they are not.

    Where nobody has chosen a method, the batches that activations were read of, if there are batch norms.
    """
    from symgraph.io.data import Batches
    from symgraph.match.suitable import has_statistics

    if (named := recalibration(args)) is not None:
        return {"recalibrate": named.load(aligned.a)}
    if args.method or args.program or not isinstance(lesson, Batches) or not has_statistics(aligned.alignment.symmetry):
        return {}
    read = replace(lesson, count=min(lesson.count, args.match_batches or lesson.count))
    console.remark(
        f"statistics of batch norms are computed anew at every mixture, on {read.count} batches of {lesson.source} "
        "(--recalibrate names others; --method activations leaves them as they are)"
    )
    return {"recalibrate": read}


def _check_code(args: Arguments) -> None:
    from symgraph.orbit.plain_code import beside

    if args.dry_run:
        inputs.refuse_code(args, "a plan that is not run")
    inputs.refuse_files(args, str(beside(Path(args.emit_program))))


def _write_code(aligned: Aligned, args: Arguments) -> Path:
    """What was done to B, as code.

    Raises:
        UsageError: B was brought to another shape first.
    """
    from symgraph.io.checkpoint import names_in_files
    from symgraph.orbit.plain_code import write_code
    from symgraph.tracing import state_of

    if aligned.embedded == "B" or aligned.narrowed:
        inputs.refuse_code(args, "a model that is embedded or reduced first")
    how = {"files": names_in_files(aligned.b), "overwrite": args.overwrite}
    return write_code(aligned.alignment, state_of(aligned.b.module), args.emit_program, **how)


def _planned(a: Model, b: Model, args: Arguments) -> Program:
    from symgraph.match.plan import plan

    data = () if reads_training(args) else None
    return plan([a, b], data=data, **inputs.wanted(args), **inputs.settings(args, PairSettings))


def _align(
    models: tuple[Model, Model],
    program: Program | None,
    deferred: bool,
    lesson: tuple[Any, Any],
    found: Any,
    args: Arguments,
    console: Console,
) -> Aligned:
    from symgraph.match.align import align

    how = inputs.wanted(args) | inputs.settings(args, PairSettings, spool=deferred)
    how |= {"data": lesson[0], "validation": lesson[1], "program": program, "examples": found}
    with console.working("aligning"):
        return align(*models, **how)


def _measure(
    aligned: Aligned, found: Any, args: Arguments, console: Console, how: dict[str, Any]
) -> dict[str, LossBarrier]:
    from symgraph.inference.sources import stored

    after = [aligned.reference, stored(aligned.b.module, aligned.state)]
    return inputs.before_and_after([aligned.a, aligned.b], after, found, args, console, **how)


def _write(aligned: Aligned, measured: dict[str, LossBarrier], args: Arguments) -> dict[str, str]:
    from symgraph.match.aligned import write_aligned

    barriers = tuple((f"{when} alignment", r) for when, r in measured.items())
    folders = write_aligned(
        aligned,
        args.out,
        command=args.typed,
        loss_barriers=barriers,
        untied=args.tied == "untie" and any(n.startswith("untied ") for n in aligned.notes),
        **inputs.writing(args),
    )
    written = {role: str(path) for role, path in folders.items()}
    if args.alignment:
        written["alignment"] = str(aligned.alignment.save(args.alignment, overwrite=args.overwrite))
    return written


def _plain(
    aligned: Aligned, measured: dict[str, LossBarrier], written: dict[str, str], said: list[Helped]
) -> dict[str, Any]:
    return {
        "distance": {"before": aligned.before, "after": aligned.after},
        "objective": list(aligned.alignment.objective),
        "singular": list(aligned.singular),
        "growth": dict(islice(aligned.growth.items(), LISTED)),
        "notes": list(aligned.notes),
        "learned": None if aligned.learned is None else _learned(aligned.learned),
        "source": aligned.alignment.source,
        "target": aligned.alignment.target,
        "loss_barrier": {when: r.to_plain() for when, r in measured.items()},
        "helped": next((one.to_plain() for one in said), None),
        "written": written,
    }


def _learned(found: Learned) -> dict[str, Any]:
    return {
        "validation": [{"step": step, "barrier": barrier} for step, barrier in found.history],
        "kept": found.best,
        "steps": found.steps,
        "ended": found.ended,
    }
