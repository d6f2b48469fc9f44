"""`symgraph verify`: prove the inferred symmetries on the model itself."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from symgraph.cli.console import Console
from symgraph.cli.inputs import model, rule_book
from symgraph.cli.parser import Arguments, Commands, add_model, add_rules, at_least, whole

_EXAMPLES = """
symgraph verify my-checkpoint
symgraph verify my-checkpoint/config.json          at random weights
symgraph verify my_package.nets:make --samples 10 --no-each
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    details = (
        "Applies random elements of every inferred group to the weights, and compares the outputs in float64.\n"
        "Exit code 6 if they differ by more than 1e-9, relative to the largest output."
    )
    parser = commands.add(
        "verify", run, "prove the symmetries of a model by sampling", details=details, examples=_EXAMPLES
    )
    add_model(parser, "model")
    parser.add_argument("--samples", type=at_least(1), default=2, metavar="N", help="random elements (default 2)")
    text = "also try each space alone, so that a failure names it (default)"
    parser.add_argument("--each", action=argparse.BooleanOptionalAction, default=True, help=text)
    parser.add_argument("--seed", type=whole, default=0, help="of the random elements (default 0)")
    add_rules(parser)


def run(args: Arguments, console: Console) -> int:
    """Infer, verify, print, and fail if the proof fails."""
    from symgraph import api

    found = model(args.model, args)
    with console.working("verifying"):
        symmetry = api.infer(found, rules=rule_book(args))
        outcome = api.verify(found, symmetry=symmetry, samples=args.samples, each=args.each, seed=args.seed)
    if not found.has_weights:
        console.remark(f"{args.model} has no weights: verified at random ones")
    console.result(outcome, {"passed": outcome.passed, "random_weights": not found.has_weights, **asdict(outcome)})
    outcome.raise_if_failed()
    return 0
