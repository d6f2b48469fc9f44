"""`symgraph compare`: two models by every way of matching them, in one table and one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.data_inputs import batches, training
from symgraph.cli.parser import (
    WEIGHTED_HELP,
    Arguments,
    Commands,
    add_data,
    add_matching,
    add_method,
    add_model,
    add_overwrite,
    add_rules,
    chosen,
)
from symgraph.errors import UsageError
from symgraph.match.match_options import LearnOptions, MatchOptions

if TYPE_CHECKING:
    from symgraph.match.compare import Compared

WAYS = ("vanilla", "permutations", "weights", "activations", "learned")
_EXAMPLES = """
symgraph compare a b --data my-dataset
symgraph compare a b --data my-dataset --ways vanilla weights --plot compared.svg
symgraph compare a b --data my-dataset --train-data none --metrics accuracy
symgraph compare a b --data my-dataset --html compared.html
"""
_DETAILS = """
Measures the loss barrier between two models as they are, and after they were matched: by permutations alone,
by weights, by activations, and by learned matching. Activations and learning read the train split of --data,
or --train-data; with --train-data none the models make up what they are matched by.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    about = "compare the ways of matching two models"
    parser = commands.add("compare", run, about, details=_DETAILS, examples=_EXAMPLES)
    add_model(parser, "a", "b", help=WEIGHTED_HELP)
    text = "which ways (default: all)"
    parser.add_argument("--ways", metavar="WAY", nargs="+", choices=WAYS, default=list(WAYS), help=text)
    text = "also draw all curves into one picture (.png, .svg, .pdf); may be repeated"
    parser.add_argument("--plot", metavar="FILE", action="append", default=[], help=text)
    text = "also write a page that opens from disk: all curves with error bands, and every figure"
    parser.add_argument("--html", metavar="FILE", help=text)
    add_overwrite(parser)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    add_rules(parser)
    add_method(parser, choose=False)
    add_matching(parser)
    add_data(parser)


def run(args: Arguments, console: Console) -> int:
    """Load, match by every way, measure, print and draw."""
    from symgraph.match.compare import NEED_DATA, compare
    from symgraph.measure.plots import require_picture

    if args.data is None:
        raise UsageError("there is no data to measure on", remedy="name it with --data")
    inputs.check_device(args.device)
    inputs.refuse_files(args, *args.plot, args.html)
    for path in args.plot:
        require_picture(path)
    models = [inputs.weighted(spec, args) for spec in (args.a, args.b)]
    learns = any(way in NEED_DATA for way in args.ways)
    # Data is divided as `align` would divide it.
    args.program, args.method = None, "learned" if learns else "weights"
    held = batches(args, models[0])
    lesson, validation = training(args, models[0], console) if learns else (None, None)
    with console.working("comparing"):
        found = compare(
            models[0],
            models[1],
            held,
            training=lesson,
            validation=validation,
            ways=args.ways,
            options=chosen(args, MatchOptions),
            learning=chosen(args, LearnOptions),
            points=args.points,
            metrics=args.metrics,
            rules=inputs.rule_book(args),
            device=args.device,
        )
    console.result(found, found.to_plain() | _written(found, args))
    return 0


def _written(found: Compared, args: Arguments) -> dict[str, str | list[str] | None]:
    """The pictures and the page that were asked for, by their options; of several pictures all, of one itself."""
    plots = [str(found.plot(path, overwrite=args.overwrite)) for path in args.plot]
    page = str(found.save_html(args.html, overwrite=args.overwrite)) if args.html else None
    return {"plot": plots if len(plots) > 1 else next(iter(plots), None), "html": page}
