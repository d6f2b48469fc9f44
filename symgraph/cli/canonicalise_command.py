"""`symgraph canonicalise`: a model at the weights that all models which differ by the group have in common."""

from __future__ import annotations

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.parser import WEIGHTED_HELP, Arguments, Commands, add_model, add_out, add_rules

_EXAMPLES = """
symgraph canonicalise my-checkpoint --out form
symgraph canonicalise my-checkpoint --out form --keep-order      balance scales alone
"""
_DETAILS = """
Writes the canonical form of a model: gains absorbed, constants that nothing sees taken out, scales balanced,
units by their norms (the largest first), rotated spaces along their principal axes, signs settled. The
function stays. Two models that are one in different gauges come to the same weights, up to rounding.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    about = "write a model at the weights that all models of its orbit have in common"
    parser = commands.add("canonicalise", run, about, details=_DETAILS, examples=_EXAMPLES)
    add_model(parser, "model", help=WEIGHTED_HELP)
    add_out(parser)
    text = "leave units where they are: no orders, axes and signs"
    parser.add_argument("--keep-order", action="store_true", help=text)
    add_rules(parser)


def run(args: Arguments, console: Console) -> int:
    """Load, canonicalise, write."""
    from symgraph.match.one_form import one_form

    found = inputs.rewritten(args)
    with console.working("canonicalising"):
        form = one_form(found, rules=inputs.rule_book(args), unique=not args.keep_order)
    out = form.save_pretrained(args.out, command=args.typed, **inputs.writing(args))
    console.wrote(form, out)
    return 0
