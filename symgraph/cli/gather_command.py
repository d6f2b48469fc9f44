"""`symgraph gather`: experts or heads of one model in one basis."""

from __future__ import annotations

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.parser import WEIGHTED_HELP, Arguments, Commands, add_model, add_out, add_rules, at_least

_EXAMPLES = """
symgraph gather mixture --out gathered
symgraph gather mixture --out gathered --over "*mlp.hidden"      experts alone
"""
_DETAILS = """
Brings what lies side by side inside of a model, experts of a mixture or heads, into one basis: each is
matched to the mean of all, by what acts inside of it (hidden units, values and outputs), while their order
stays. The function stays too; afterwards experts can be compared, averaged or joined.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    about = "bring experts or heads of one model into one basis"
    parser = commands.add("gather", run, about, details=_DETAILS, examples=_EXAMPLES)
    add_model(parser, "model", help=WEIGHTED_HELP)
    add_out(parser)
    text = "spaces whose positions are gathered; * stands for any text (default: all that others are inside of)"
    parser.add_argument("--over", metavar="PATTERN", nargs="+", default=["*"], help=text)
    text = "rounds in which all are matched to their mean (default 10)"
    parser.add_argument("--rounds", type=at_least(1), default=10, metavar="N", help=text)
    add_rules(parser)


def run(args: Arguments, console: Console) -> int:
    """Load, gather, write."""
    from symgraph.match.gather import gather

    found = inputs.rewritten(args)
    with console.working("gathering"):
        gathered = gather(found, over=args.over, rounds=args.rounds, rules=inputs.rule_book(args))
    out = gathered.save_pretrained(args.out, command=args.typed, **inputs.writing(args))
    console.wrote(gathered, out)
    return 0
