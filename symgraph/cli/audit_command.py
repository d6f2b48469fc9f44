"""`symgraph audit`: whether any continuous symmetry was missed."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from symgraph.cli.console import Console
from symgraph.cli.inputs import model, rule_book
from symgraph.cli.parser import Arguments, Commands, add_model, add_rules, whole

_EXAMPLES = """
symgraph audit org/model                           at tiny sizes where the model is large
symgraph audit my_package.nets:make_tiny
symgraph audit config.json --logits                as a softmax loss sees the outputs
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    details = (
        "Measures, at random parameters in float64, in how many directions the parameters can move without any\n"
        "output moving, and compares with the inferred groups. What is missing is named, and so is what only a\n"
        "small epsilon breaks. Of a model of transformers with more than 6,000 parameters a tiny instance is made:\n"
        "the same architecture with small sizes has the same symmetries. Any other model has to be given small.\n"
        "Exit code 9 if a direction is missing or moves the outputs."
    )
    parser = commands.add("audit", run, "measure whether any symmetry was missed", details=details, examples=_EXAMPLES)
    add_model(parser, "model")
    text = "count a shift of all logits as no change"
    parser.add_argument("--logits", action="store_true", help=text)
    text = "also list what only an epsilon breaks (default)"
    parser.add_argument("--approximate", action=argparse.BooleanOptionalAction, default=True, help=text)
    parser.add_argument("--seed", type=whole, default=0, help="of parameters and inputs (default 0)")
    add_rules(parser)


def run(args: Arguments, console: Console) -> int:
    """Infer, measure, print, and fail if something is missing."""
    from symgraph import api

    found = model(args.model, args)
    with console.working("auditing"):
        symmetry = api.infer(found, rules=rule_book(args))
        options = {"logits": args.logits, "approximate": args.approximate, "seed": args.seed}
        outcome = api.audit(found, symmetry=symmetry, rules=rule_book(args), **options)
    console.result(outcome, {"complete": outcome.complete, **asdict(outcome)})
    outcome.raise_if_incomplete()
    return 0
