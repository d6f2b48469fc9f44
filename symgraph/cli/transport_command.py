"""`symgraph transport`: carry what one model learned to another."""

from __future__ import annotations

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.data_inputs import fitting
from symgraph.cli.parser import (
    DATA_HELP,
    WEIGHTED_HELP,
    Arguments,
    Commands,
    add_device,
    add_matching,
    add_out,
    add_reading,
    add_rules,
    add_trust,
    at_least,
    chosen,
    finite,
)
from symgraph.io.options import stated
from symgraph.match.match_options import MatchOptions, PairSettings

_EXAMPLES = """
symgraph transport --base a --tuned a-on-code --to b --out b-on-code
symgraph transport --base a --tuned a-on-code --to b --out b-on-code --scale 0.5
symgraph transport --base a --tuned a-on-code --to b --out b-on-code --fit my-dataset --split validation
symgraph transport --base a --tuned adapter-of-a --to b --out adapter-of-b   a LoRA adapter
symgraph transport --base a --tuned a2 --to b --out b2 --alignment ab.safetensors  of `symgraph align a b`
"""
_DETAILS = """
TUNED was trained from BASE on. TO is another model of the same architecture, of another seed. TO is aligned
to BASE; BASE and TUNED are taken into the basis and gauge of TO, where each still computes what it computed
(or nothing is written), and their difference there is added to TO.

Where TUNED is the folder of a low-rank adapter (LoRA, as PEFT writes it), so is the result: an adapter of
TO of the same rank.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    about = "carry what one model learned to another"
    parser = commands.add("transport", run, about, details=_DETAILS, examples=_EXAMPLES)
    parser.add_argument("--base", metavar="A", required=True, help=f"what was trained: {WEIGHTED_HELP}")
    text = "what it became: another such model, or the folder of a LoRA adapter"
    parser.add_argument("--tuned", metavar="A2", required=True, help=text)
    parser.add_argument("--to", metavar="B", required=True, help="the model to carry it to")
    add_trust(parser, files=False)
    add_out(parser)
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--scale", metavar="S", type=finite, default=1.0, help="how much of it (default 1)")
    text = "choose the scale on data of what was learned: never on the test split"
    amount.add_argument("--fit", metavar="SPEC", help=f"{text}; {DATA_HELP}")
    parser.add_argument("--split", help="which split of that data (default: the held-out one)")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="use so many of its examples")
    text = "the alignment of B to A that `symgraph align A B --alignment FILE` wrote, by activations or learned"
    parser.add_argument("--alignment", metavar="FILE", help=text)
    add_device(parser, ("float64", "float32"), "float64", " (default float64); files keep the dtype of the checkpoint")
    add_rules(parser)
    add_matching(parser)
    add_reading(parser)


def run(args: Arguments, console: Console) -> int:
    """Load, align, carry, write."""
    from symgraph.io.adapters import is_adapter
    from symgraph.match.transport import transport, write_transported

    if args.fit is None:
        inputs.refuse_unread(args, "name data with --fit", "split", "limit")
    if args.alignment is not None:
        inputs.refuse_unread(args, "leave out --alignment", *stated(MatchOptions))
    inputs.check_device(args.device)
    inputs.refuse_folders(args, args.out)
    # An adapter is put into the module, and a scale is chosen with it.
    deferred = not is_adapter(args.tuned) and args.fit is None
    inputs.require_room(args, [args.base, args.to], spooled=2 if deferred else 0)
    base, to = (inputs.weighted(spec, args, deferred=deferred) for spec in (args.base, args.to))
    tuned = args.tuned if is_adapter(args.tuned) else inputs.weighted(args.tuned, args, deferred=deferred)
    how = {"alignment": args.alignment, "rules": inputs.rule_book(args)}
    how["scratch"] = inputs.scratch(args) if deferred else None
    if args.alignment is None:
        how = {"options": chosen(args, MatchOptions), **inputs.settings(args, PairSettings, spool=deferred)}
    fit = None if args.fit is None else fitting(args).load(to)
    with console.working("transporting"):
        found = transport(base, tuned, to, scale=args.scale, fit=fit, **how)
    out = write_transported(found, args.out, command=args.typed, **inputs.writing(args))
    console.result(f"{found}\nwrote {out}", {**found.to_plain(), "written": str(out)})
    return 0
