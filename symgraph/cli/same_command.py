"""`symgraph same`: tell whether one model is another in another gauge, with noise, derived from it, or independent."""

from __future__ import annotations

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.parser import WEIGHTED_HELP, Arguments, Commands, add_model, add_options, add_rules
from symgraph.errors import VerifyError
from symgraph.match.match_options import Settings

VERDICTS = ("same", "noise", "derived", "independent")
_EXAMPLES = """
symgraph same my-checkpoint theirs
symgraph same my-checkpoint theirs --json
symgraph same before after --expect same noise   exit code 6 unless it is one of these
"""
_DETAILS = """
Tells whether B is A in another basis and gauge (same), that with noise added to its weights, and how much
(noise), derived from A by training or pruning (derived), or independent of it (independent): by weights
alone. B may be in another dtype, and wider where its surplus units are dead, copies, or split.

A is laid over B by every inferred symmetry. What is left is compared with rounding, with noise, which is
alike in all tensors, and with models that have A's entries in another order.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    about = "tell whether one model is another in another gauge"
    parser = commands.add("same", run, about, details=_DETAILS, examples=_EXAMPLES)
    add_model(parser, "a", "b", help=WEIGHTED_HELP)
    text = "fail (exit code 6) unless it is one of these"
    parser.add_argument("--expect", metavar="VERDICT", nargs="+", choices=VERDICTS, help=text)
    add_options(parser, Settings, "tied")
    add_rules(parser)


def run(args: Arguments, console: Console) -> int:
    """Load, compare, print, and fail if it is not what was expected."""
    from symgraph.match.same import same

    models = [inputs.weighted(spec, args) for spec in (args.a, args.b)]
    with console.working("comparing"):
        found = same(*models, tied=args.tied, rules=inputs.rule_book(args))
    console.result(found, found.to_plain())
    if args.expect and found.verdict not in args.expect:
        what = f"{args.b} is {found.verdict}, not {' or '.join(args.expect)}, of {args.a}"
        raise VerifyError(what, remedy="the figures above say what is left between the two")
    return 0
