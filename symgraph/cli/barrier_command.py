"""`symgraph barrier`: loss and metrics between models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.parser import (
    WEIGHTED_HELP,
    Arguments,
    Commands,
    add_data,
    add_device,
    add_mixtures,
    add_overwrite,
    add_recalibration,
    add_rules,
    add_trust,
)
from symgraph.errors import UsageError

if TYPE_CHECKING:
    from symgraph.io.models import Model
    from symgraph.measure.result import LossBarrier

_EXAMPLES = """
symgraph barrier a b --data my-dataset --metrics accuracy
symgraph barrier a b --data test.txt --metrics perplexity --limit 200 --plot barrier.png
symgraph barrier a b --data my_package.data:test_batches --json
symgraph barrier a b c --data my-dataset --plot triangle.png        mixtures of all three
symgraph barrier a b --data my-dataset --recalibrate my-dataset     batch norms: new statistics
symgraph barrier a b-aligned --data test.txt --product
"""
_DETAILS = """
Evaluates (1 - lambda) A + lambda B at points of lambda from 0 to 1. The loss barrier is the largest
distance above the chord between the two losses at the ends; below zero a mixture beats the chord.

Of more than two models, mixtures are evaluated: pairs, the even one, and a lattice of weights. The loss
barrier is then the largest distance above the mean of their own losses, with the same weights.

With --product the same is measured for mixtures of two models in product form as well: inside of heads the
products of queries and keys, of values and outputs are mixed, not their factors. Such a mixture has up to
twice the rank of a head and is no model of the architecture: a figure to compare with others', no checkpoint.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    about = "measure the loss barrier between two models or more"
    parser = commands.add("barrier", run, about, details=_DETAILS, examples=_EXAMPLES)
    parser.add_argument("models", metavar="MODEL", nargs="+", help=f"two models or more: {WEIGHTED_HELP}")
    add_trust(parser)
    add_data(parser, required=True)
    add_mixtures(parser)
    add_recalibration(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the mixtures that are drawn (default 0)")
    parser.add_argument("--refine", action="store_true", help="of two models: place three more points at the maximum")
    add_device(parser, ("float64", "float32"), None, " (default: that of the checkpoint, at least float32)")
    parser.add_argument("--plot", metavar="FILE", help="also draw the curves (.png, .svg, .pdf)")
    parser.add_argument("--out", metavar="FILE", help="also write the result as JSON")
    add_overwrite(parser)
    text = "also mix the products inside of heads (see above)"
    parser.add_argument("--product", action="store_true", help=text)
    add_rules(parser)


def run(args: Arguments, console: Console) -> int:
    """Load, evaluate, draw, write, print."""
    from symgraph.io.files import write_text

    _check(args)
    models = [inputs.weighted(spec, args) for spec in args.models]
    found, product = _measured(models, args, console)
    if args.plot:
        _draw(found, product, args)
    text, plain = str(found), found.to_json()
    if product is not None:
        text = f"{text}\n\nin product form, which is no model of the architecture\n\n{product}"
        plain = json.dumps({"loss_barrier": found.to_plain(), "product_form": product.to_plain()}, indent=2)
    if args.out:
        write_text(args.out, plain, overwrite=args.overwrite)
    console.result(text, plain)
    for path in filter(None, (args.plot, args.out)):
        console.remark(f"wrote {path}")
    return 0


def _draw(found: LossBarrier, product: LossBarrier | None, args: Arguments) -> None:
    from symgraph.measure.plots import barrier_plot

    # Whole paths would not fit.
    short = [Path(spec).name or spec for spec in args.models]
    title = "Between " + (" and ".join(short) if len(short) == 2 else ", ".join(short))
    if product is None:
        found.plot(args.plot, title=title, overwrite=args.overwrite)
        return
    curves = {found.loss.name: found, "in product form": product}
    barrier_plot(curves, args.plot, title=title, overwrite=args.overwrite)


def _check(args: Arguments) -> None:
    from symgraph.measure.mixture import check_weights

    count = len(args.models)
    if count < 2:
        raise UsageError(f"{count} model has no barrier", remedy="name two models or more")
    if args.refine and count > 2:
        raise UsageError(f"--refine is for two models, not {count}", remedy="raise --resolution or --samples")
    if args.product and (count > 2 or args.recalibrate):
        raise UsageError("--product is for two models as they are", remedy="leave out --product")
    if count == 2 and (args.mixture or args.resolution or args.samples):
        raise UsageError("mixtures of two models are points of a segment", remedy="use --points")
    for weights in args.mixture or ():
        check_weights(weights, count)
    inputs.check_device(args.device)
    inputs.refuse_files(args, args.plot, args.out)


def _measured(models: list[Model], args: Arguments, console: Console) -> tuple[LossBarrier, LossBarrier | None]:
    """The barrier in the models' own architecture, and in product form where that is asked for."""
    import torch

    from symgraph import api
    from symgraph.io.checkpoint import check_same_architecture

    # Before any data is read.
    for other in models[1:]:
        check_same_architecture(models[0], other)
    found, training = inputs.batches(args, models[0]), inputs.recalibration(args, models[0])
    how: dict[str, Any] = {"dtype": getattr(torch, args.dtype) if args.dtype else None, "refine": args.refine}
    own = inputs.measure("loss barrier", models, found, args, console, recalibrate=training, **how)
    if not args.product:
        return own, None
    book = inputs.rule_book(args)
    how |= {"product": api.infer(models[0], rules=book), "book": book}
    return own, inputs.measure("loss barrier in product form", models, found, args, console, **how)
