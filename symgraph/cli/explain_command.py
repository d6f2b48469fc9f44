"""`symgraph explain`: why a space has the group it has."""

from __future__ import annotations

from symgraph.cli.console import Console
from symgraph.cli.inputs import architecture, rule_book
from symgraph.cli.parser import Arguments, Commands, add_model, add_rules

_EXAMPLES = """
symgraph explain my-checkpoint residual
symgraph explain my-checkpoint layers.0.mlp.hidden --json
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    details = "Prints the evidence: every rule that lowered the bound, and the line of the model where it did."
    parser = commands.add("explain", run, "show why a space has its group", details=details, examples=_EXAMPLES)
    add_model(parser, "model")
    parser.add_argument("space", metavar="SPACE", help="the name of a space, as `symgraph inspect` prints it")
    add_rules(parser)


def run(args: Arguments, console: Console) -> int:
    """Infer, look the space up, print its evidence."""
    from symgraph import api

    found = architecture(args.model, args)
    with console.steps("tracing"):
        symmetry = api.infer(found, rules=rule_book(args))
    space = symmetry.space(args.space)
    evidence = [
        {"rule": r.rule, "where": r.where, "reason": r.reason, "bound": sorted(r.bound)} for r in space.evidence
    ]
    plain = {"space": space.name, "size": space.size, "group": str(space.group), "evidence": evidence}
    console.result(symmetry.explain(space.name), plain)
    return 0
