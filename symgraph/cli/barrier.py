"""`symgraph barrier`: loss and metrics on the line between two models."""

from __future__ import annotations

from symgraph.cli import inputs
from symgraph.cli.parser import WEIGHTED_HELP, Arguments, Commands, add_data, add_device, add_model, add_overwrite
from symgraph.console import Console

_EXAMPLES = """
symgraph barrier a b --data my-dataset --metrics accuracy
symgraph barrier a b --data test.txt --metrics perplexity --limit 200 --plot barrier.png
symgraph barrier a b --data my_package.data:test_batches --json
"""
_DETAILS = """
Evaluates (1 - lambda) A + lambda B at points of lambda from 0 to 1. The loss barrier is the largest
distance above the chord between the two losses at the ends; below zero a mixture beats the chord.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add(
        "barrier", run, "measure the loss barrier between two models", details=_DETAILS, examples=_EXAMPLES
    )
    add_model(parser, "a", "b", help=WEIGHTED_HELP)
    add_data(parser, required=True)
    parser.add_argument("--refine", action="store_true", help="place three more points around the maximum")
    add_device(parser, ("float64", "float32"), None, " (default: that of the checkpoint, at least float32)")
    parser.add_argument("--plot", metavar="FILE", help="also draw the curves (.png, .svg, .pdf)")
    parser.add_argument("--out", metavar="FILE", help="also write the result as JSON")
    add_overwrite(parser)


def run(args: Arguments, console: Console) -> int:
    """Load, evaluate, draw, write, print."""
    import torch

    from symgraph.checkpoint import check_same_architecture
    from symgraph.files import write_text

    inputs.check_device(args.device)
    inputs.refuse_files(args.plot, args.out, overwrite=args.overwrite)
    a, b = inputs.weighted(args.a, args), inputs.weighted(args.b, args)
    check_same_architecture(a, b)
    dtype = getattr(torch, args.dtype) if args.dtype else None
    batches = inputs.batches(args, a)
    found = inputs.measure("loss barrier", a, b, batches, args, console, dtype=dtype, refine=args.refine)
    if args.plot:
        found.plot(args.plot, title=f"Between {args.a} and {args.b}", overwrite=args.overwrite)
    if args.out:
        write_text(args.out, found.to_json(), overwrite=args.overwrite)
    console.result(found, found.to_json())
    for path in filter(None, (args.plot, args.out)):
        console.remark(f"wrote {path}")
    return 0
