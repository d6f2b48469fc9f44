"""`symgraph barrier`: loss and metrics on the line between two models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from symgraph.cli import inputs
from symgraph.cli.parser import (
    WEIGHTED_HELP,
    Arguments,
    Commands,
    add_data,
    add_device,
    add_model,
    add_overwrite,
    add_rules,
)
from symgraph.console import Console

if TYPE_CHECKING:
    import torch

    from symgraph.data import Batches
    from symgraph.loss_curve import LossBarrier
    from symgraph.models import Model

_EXAMPLES = """
symgraph barrier a b --data my-dataset --metrics accuracy
symgraph barrier a b --data test.txt --metrics perplexity --limit 200 --plot barrier.png
symgraph barrier a b --data my_package.data:test_batches --json
symgraph barrier a b-aligned --data test.txt --product
"""
_DETAILS = """
Evaluates (1 - lambda) A + lambda B at points of lambda from 0 to 1. The loss barrier is the largest
distance above the chord between the two losses at the ends; below zero a mixture beats the chord.

With --product the same is measured for mixtures in product form as well: inside of heads the products
of queries and keys, of values and outputs are mixed, not their factors. Such a mixture has up to twice
the rank of a head and is no model of the architecture: a figure to compare with others', no checkpoint.
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
    text = "also mix the products inside of heads (see above)"
    parser.add_argument("--product", action="store_true", help=text)
    add_rules(parser)


def run(args: Arguments, console: Console) -> int:
    """Load, evaluate, draw, write, print."""
    import torch

    from symgraph.checkpoint import check_same_architecture
    from symgraph.files import write_text
    from symgraph.plots import barrier_plot

    inputs.check_device(args.device)
    inputs.refuse_files(args.plot, args.out, overwrite=args.overwrite)
    a, b = inputs.weighted(args.a, args), inputs.weighted(args.b, args)
    check_same_architecture(a, b)
    dtype = getattr(torch, args.dtype) if args.dtype else None
    batches = inputs.batches(args, a)
    found = inputs.measure("loss barrier", a, b, batches, args, console, dtype=dtype, refine=args.refine)
    product = _in_product_form(a, b, batches, args, console, dtype) if args.product else None
    if args.plot:
        curves = {found.loss.name: found} | ({} if product is None else {"in product form": product})
        barrier_plot(curves, args.plot, title=f"Between {args.a} and {args.b}", overwrite=args.overwrite)
    text, plain = str(found), found.to_json()
    if product is not None:
        text = f"{text}\n\nin product form, which is no model of the architecture\n\n{product}"
        both = {"loss_barrier": inputs.plain_barrier(found), "product_form": inputs.plain_barrier(product)}
        plain = json.dumps(both, indent=2)
    if args.out:
        write_text(args.out, plain, overwrite=args.overwrite)
    console.result(text, plain)
    for path in filter(None, (args.plot, args.out)):
        console.remark(f"wrote {path}")
    return 0


def _in_product_form(
    a: Model, b: Model, batches: Batches, args: Arguments, console: Console, dtype: torch.dtype | None
) -> LossBarrier:
    from symgraph import api

    book = inputs.rule_book(args)
    symmetry = api.infer(a, rules=book)
    label = "loss barrier in product form"
    given: dict[str, Any] = {"dtype": dtype, "refine": args.refine, "product": symmetry, "book": book}
    return inputs.measure(label, a, b, batches, args, console, **given)
