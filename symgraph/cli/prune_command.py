"""`symgraph prune`: fuse a part of a model's units into the others."""

from __future__ import annotations

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.data_inputs import recalibration, scoring
from symgraph.cli.parser import (
    DATA_HELP,
    WEIGHTED_HELP,
    Arguments,
    Commands,
    add_options,
    add_out,
    add_reading,
    add_recalibration,
    add_rules,
    add_trust,
    at_least,
)
from symgraph.errors import read_at
from symgraph.match.match_options import Settings

_EXAMPLES = """
symgraph prune a --ratio 0.4 --out a-smaller
symgraph prune a --ratio 0.4 --importance l1 --out a-smaller                the most important units stay
symgraph prune a --ratio 0.4 --importance taylor --data my-dataset --out a-smaller
symgraph prune a --ratio 0.5 --spaces '*.heads' --importance scores.json --drop --out a-smaller
symgraph prune a --ratio 0.25 --spaces residual --data my-dataset --out a-smaller   what flows on it decides
"""
_DETAILS = """
Makes every hidden layer narrower and writes an ordinary checkpoint of a smaller config. Units that are equal
up to the symmetry, and dead ones, go without a loss; all others are merged into the nearest that stays: what
enters is averaged, what leaves is summed. What that loses is said for each space and for the outputs.

Heads, groups of keys with their queries, and experts with their rows of the router are pruned by name
(--spaces), and so is a residual stream: it keeps the leading directions of its weights, with --data those
of what flows on it (--data none: on inputs that the model invents).

Where no config of the class has these sizes, and for modules of your own, the weights alone are written; the
sizes of all spaces are in the report, and the numbers of the code that were changed to run with them.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    about = "make a model smaller by fusing its units"
    parser = commands.add("prune", run, about, details=_DETAILS, examples=_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help=WEIGHTED_HELP)
    add_trust(parser, files=False)
    parser.add_argument("--ratio", type=float, required=True, metavar="R", help="the part of each space that goes")
    text = "prune these spaces (default: all spaces of units, such as hidden units and channels); * stands for any text"
    parser.add_argument("--spaces", nargs="+", metavar="PATTERN", help=text)
    text = "which units stay: l1, l2, lamp, taylor (needs --data), or a safetensors or JSON file of scores by space "
    text += "(default: those from which the others are least far)"
    parser.add_argument("--importance", metavar="KIND", help=text)
    fate = parser.add_mutually_exclusive_group()
    fate.add_argument("--fuse", dest="drop", action="store_false", help="merge the others into those (the default)")
    fate.add_argument("--drop", action="store_true", help="let the others go")
    parser.set_defaults(drop=False)
    add_out(parser)
    parser.add_argument(
        "--data",
        metavar="SPEC",
        help=f"training data that tells the importance, or what flows on a stream: {DATA_HELP}",
    )
    parser.add_argument("--split", help="which split of it (default: train, where it has splits)")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="use so many of its examples")
    add_options(parser, Settings, "tied")
    add_rules(parser)
    add_recalibration(parser)
    add_reading(parser)


def run(args: Arguments, console: Console) -> int:
    """Load, prune, write."""
    from symgraph.match.write import write_pruned
    from symgraph.resize.prune import prune

    found = inputs.rewritten(args)
    scored, fresh = scoring(args), recalibration(args)
    with console.working("pruning"), read_at(data="--data"):
        pruned = prune(
            found,
            ratio=args.ratio,
            spaces=args.spaces,
            importance=args.importance,
            drop=args.drop,
            data=None if scored is None else scored.training(found),
            recalibrate=None if fresh is None else fresh.load(found),
            rules=inputs.rule_book(args),
            tied=args.tied,
        )
    out = write_pruned(pruned, args.out, command=args.typed, **inputs.writing(args))
    console.wrote(pruned, out)
    return 0
