"""`symgraph apply`: use an alignment that was written before."""

from __future__ import annotations

from pathlib import Path

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.parser import Arguments, Commands, add_dry_run, add_model, add_options, add_out, add_rules
from symgraph.errors import UsageError
from symgraph.match.match_options import Settings

_EXAMPLES = """
symgraph align a b --out b-aligned --alignment ab.safetensors
symgraph apply ab.safetensors b-later-checkpoint --out b-later-aligned
symgraph apply ab.safetensors b-aligned --out b-again --inverse
symgraph apply ab.safetensors b-minus-its-base --out moved-task-vector --task-vector
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    details = "The model may be any checkpoint of the architecture, such as a later one of the same training run."
    parser = commands.add("apply", run, "apply a saved alignment to a model", details=details, examples=_EXAMPLES)
    text = "a file that `symgraph align --alignment` wrote"
    parser.add_argument("applied", metavar="ALIGNMENT", help=text)
    add_model(parser, "model")
    add_out(parser, required=False)
    add_dry_run(parser)
    parser.add_argument("--inverse", action="store_true", help="go back from the basis of A to that of B")
    text = "the weights are a difference of two models: leave out the constants that the alignment adds"
    parser.add_argument("--task-vector", action="store_true", help=text)
    add_options(parser, Settings, "tied")
    add_rules(parser)


def run(args: Arguments, console: Console) -> int:
    """Load both, transform, write."""
    from symgraph.match import write as outputs

    inputs.require_out(args, "the result")
    if not Path(args.applied).exists() and Path(args.model).suffix == ".safetensors":
        remedy = f"symgraph apply {args.model} {args.applied} --out {args.out or 'FOLDER'}"
        raise UsageError("the alignment comes first, then the model", remedy=remedy)
    inputs.require_room(args, [args.model], spooled=1)
    found = inputs.weighted(args.model, args, deferred=True)
    if args.dry_run:
        cost = outputs.cost_of_application(args.applied, found, rules=inputs.rule_book(args), tied=args.tied)
        console.result(cost, {"cost": cost.to_plain()})
        return 0
    options = {"inverse": args.inverse, "task_vector": args.task_vector, "tied": args.tied}
    options["scratch"] = inputs.scratch(args)
    with console.working("applying"):
        applied = outputs.apply(args.applied, found, rules=inputs.rule_book(args), **options)
    out = outputs.write_applied(applied, args.out, command=args.typed, **inputs.writing(args))
    plain = {"alignment": args.applied, "model": args.model, "inverse": args.inverse, "written": str(out)}
    console.result("\n".join([*applied.notes, f"wrote {out}"]), {**plain, "notes": list(applied.notes)})
    return 0
