"""`symgraph universe`: bring any number of models into one basis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.data_inputs import batches, reads_training, training
from symgraph.cli.parser import (
    WEIGHTED_HELP,
    Arguments,
    Commands,
    add_data,
    add_device,
    add_matching,
    add_method,
    add_mixtures,
    add_options,
    add_out,
    add_program,
    add_rules,
    add_trust,
    chosen,
)
from symgraph.match.match_options import MatchOptions, UniverseSettings

if TYPE_CHECKING:
    from symgraph.io.models import Model
    from symgraph.match.one_basis import Universe
    from symgraph.match.program import Program
    from symgraph.measure.result import LossBarrier

_EXAMPLES = """
symgraph universe a b c --out together
symgraph universe a b c --out together --data my-dataset --metrics accuracy
symgraph universe a b c --out together --method learned --data my-dataset --checkpoint run.pt
symgraph universe a b c --dry-run --emit-program plan.yaml      write the plan, to read or change it
symgraph universe a b c --out together --program plan.yaml      run that plan
symgraph universe a b c --out together --method activations --data my-dataset
symgraph apply together/alignments/1.safetensors b-later-checkpoint --out b-later-together
"""
_DETAILS = """
Brings every model nearest to the mean of the others, in turn, until nothing moves. All of them then share
one basis and the gauge of one of them, which stays as it is; no function changes. The order of the models
does not matter. FOLDER/0, FOLDER/1, ... are the models as ordinary checkpoints that can be averaged, and
FOLDER/alignments what led there.

With --method activations the models are matched by what they compute on the train split, alone or with
their weights (--alpha). With --method learned the elements are trained, after a match by weights, on the
loss at mixtures of all models, whose weights are drawn from a Dirichlet distribution.

Processes that torchrun has started share a match by weights; the first one alone prints and writes.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    about = "bring any number of models into one basis"
    parser = commands.add("universe", run, about, details=_DETAILS, examples=_EXAMPLES)
    parser.add_argument("models", metavar="MODEL", nargs="+", help=f"two models or more: {WEIGHTED_HELP}")
    add_trust(parser)
    add_out(parser, required=False)
    add_program(parser)
    add_options(parser, UniverseSettings, "reference", "strict", "tied")
    add_device(parser, ("float64", "float32"), "float64", " (default float64); files keep the dtype of the checkpoint")
    add_rules(parser)
    group = add_method(parser, "concentration", "estimate")
    add_options(group, UniverseSettings, "rounds")
    add_matching(parser)
    add_data(parser)
    add_mixtures(parser)


def run(args: Arguments, console: Console) -> int:
    """Check, load, match, train, measure, write."""
    from symgraph.match import write as outputs
    from symgraph.match.match_step import refuse_inputs
    from symgraph.match.plan import plan
    from symgraph.measure.mixture import check_weights

    for weights in args.mixture or ():
        check_weights(weights, len(args.models))
    inputs.refuse_code(args, "several alignments")
    refuse_inputs(chosen(args, MatchOptions))
    inputs.check_matching(args, "all models")
    program = inputs.program(args)
    count, deferred = len(args.models), _deferred(args)
    inputs.require_room(args, args.models, copies=count, spooled=count + 1 if deferred else 0)
    models = [inputs.weighted(spec, args, deferred=deferred) for spec in args.models]
    named = {str(i): m for i, m in enumerate(models)}
    if args.dry_run:
        planned = program or plan(models, common=True, **_how(args))
        return inputs.show_program(planned, args, console, named, written=count)
    found = _universe(models, program, args, console)
    measured = _measured(found, args, console) if args.data else {}
    simplex = tuple((f"{when} alignment", b) for when, b in measured.items())
    out = outputs.write_universe(found, args.out, command=args.typed, simplex=simplex, **inputs.writing(args))
    plain = {**found.to_plain(), "loss_barrier": {when: b.to_plain() for when, b in measured.items()}}
    lines = [str(found), *inputs.barrier_lines(measured), f"wrote {out}"]
    if path := inputs.save_program(found.program, args, named):
        lines.append(f"wrote program to {path}")
    console.result("\n".join(lines), {**plain, "written": str(out)})
    return 0


def _how(args: Arguments, *, spool: bool = False) -> dict[str, Any]:
    return inputs.wanted(args, sampler="dirichlet") | inputs.settings(args, UniverseSettings, spool=spool)


def _deferred(args: Arguments) -> bool:
    """Whether tensors are read where they are needed: few passes do without data."""
    return args.data is None and not reads_training(args)


def _universe(models: Sequence[Model], program: Program | None, args: Arguments, console: Console) -> Universe:
    from symgraph.match.universe import universe

    deferred, reads = _deferred(args), reads_training(args)
    taught, validation = training(args, models[0], console) if reads else (None, None)
    how = _how(args, spool=deferred) | {"data": taught, "validation": validation, "program": program}
    how["examples"] = batches(args, models[0]) if args.data else None
    with console.working("matching"):
        return universe(models, **how)


def _measured(found: Universe, args: Arguments, console: Console) -> dict[str, LossBarrier]:
    models = [m.model for m in found.members]
    names = [Path(m.spec).name for m in models]
    data = batches(args, models[0])
    return inputs.before_and_after(models, found.states, data, args, console, names=names)
