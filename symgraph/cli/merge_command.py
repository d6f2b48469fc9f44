"""`symgraph merge`: the weighted mean of aligned models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.data_inputs import recalibration
from symgraph.cli.parser import (
    WEIGHTED_HELP,
    Arguments,
    Commands,
    add_device,
    add_dry_run,
    add_matching,
    add_options,
    add_out,
    add_reading,
    add_recalibration,
    add_rules,
    add_trust,
    chosen,
    not_negative,
)
from symgraph.errors import UsageError
from symgraph.io.options import stated
from symgraph.match.match_options import MatchOptions, UniverseSettings

if TYPE_CHECKING:
    from symgraph.io.models import Model

_EXAMPLES = """
symgraph merge a b --weights 0.5 0.5 --out merged
symgraph merge a b c --weights 0.4 0.3 0.3 --out merged
symgraph merge --recipe ties.yaml --out merged         what a recipe of mergekit says, in one basis
torchrun --nproc-per-node 2 -m symgraph merge a b --out merged       shared by two processes
symgraph merge a fine-tuned-a --weights 0.7 0.3 --no-align --out merged     of one origin: aligned already
"""
WRITTEN = " of what is written (default: the widest of the models'); computed in float64"
_DETAILS = """
Brings all models into one basis and writes their weighted mean as an ordinary checkpoint, with a model
card that says how it was made. The order of the models does not matter; the result is in the gauge of the
one that weighs most.

Where norms store statistics of the training data, as batch norms do, --recalibrate computes them anew for
the merged model.

Processes that torchrun has started share the match; the first one alone prints and writes.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add("merge", run, "merge models into one checkpoint", details=_DETAILS, examples=_EXAMPLES)
    parser.add_argument("models", metavar="MODEL", nargs="*", help=f"two models or more: {WEIGHTED_HELP}")
    add_trust(parser, files=False)
    text = "the share of each model, in their order; they sum to one (default: the same for each)"
    parser.add_argument("--weights", metavar="W", nargs="+", type=not_negative, help=text)
    text = "a recipe in mergekit's YAML instead, which names the models: linear, slerp, ties, dare, task arithmetic"
    parser.add_argument("--recipe", metavar="FILE", help=text)
    text = "who runs the recipe (default: symgraph, and mergekit for methods that only it has); its output is checked"
    parser.add_argument("--by", choices=("symgraph", "mergekit"), default="", help=text)
    text = "whose tokens the result has: all models' (union), or those of the one that weighs most (base)"
    parser.add_argument("--vocabulary", choices=("union", "base"), default="", help=f"{text} (default: union)")
    add_out(parser, required=False)
    add_dry_run(parser)
    parser.add_argument("--no-align", dest="align", action="store_false", help="take the models as they are")
    add_options(parser, UniverseSettings, "tied", "on_difference", "checkpoint", "resume")
    add_device(parser, ("float64", "float32", "bfloat16", "float16"), None, WRITTEN)
    add_rules(parser)
    add_matching(parser)
    add_recalibration(parser)
    add_reading(parser)


def run(args: Arguments, console: Console) -> int:
    """Check, load, align, average, write."""
    import torch

    from symgraph.match import merge
    from symgraph.match.merge import write_merged
    from symgraph.measure.mixture import check_weights

    if not args.align:
        inputs.refuse_unread(args, "leave out --no-align", *(n for n in stated(MatchOptions) if n != "seed"))
    if args.recalibrate is None:
        inputs.refuse_unread(args, "name data with --recalibrate", "recalibrate_split", "recalibrate_limit")
    if args.recipe is not None:
        return _by_recipe(args, console)
    inputs.refuse_unread(args, "name a recipe with --recipe", "by")
    if not args.models:
        raise UsageError("there is nothing to merge", remedy="name two models or more, or a --recipe")
    # All that is computed is computed in float64; `--dtype` is that of the result.
    written, args.dtype = args.dtype, "float64"
    args.weights = args.weights or [1 / len(args.models)] * len(args.models)
    check_weights(args.weights, len(args.models))
    inputs.check_run(args)
    inputs.require_out(args, "the merged model")
    deferred = args.recalibrate is None
    inputs.require_room(args, args.models, spooled=len(args.models) if deferred and args.align else 0)
    sources = [inputs.weighted(spec, args, deferred=deferred) for spec in args.models]
    if args.dry_run:
        return _planned(sources, args, console)
    named = recalibration(args)
    training = None if named is None else named.load(sources[0])
    with console.working("merging"):
        merged = merge.merge(
            sources,
            args.weights,
            align=args.align,
            options=chosen(args, MatchOptions),
            recalibrate=training,
            written=None if written is None else getattr(torch, written),
            vocabulary=args.vocabulary,
            **inputs.settings(args, UniverseSettings, spool=deferred),
        )
    out = write_merged(merged, args.out, command=args.typed, **inputs.writing(args))
    console.wrote(merged, out)
    return 0


def _by_recipe(args: Arguments, console: Console) -> int:
    """All that a recipe says."""
    from symgraph.io.recipe import read_recipe
    from symgraph.match.merge import write_merged
    from symgraph.match.recipe_merge import merge_by_recipe
    from symgraph.measure.blending import METHODS

    if args.models or args.weights is not None or args.recalibrate is not None or args.dry_run:
        cause = "a recipe names its models and their weights, and is run at once"
        raise UsageError("a recipe and more than that", cause=cause, remedy="leave out one of them")
    inputs.refuse_unread(args, "say it in the recipe, `tokenizer: {source: union}`", "vocabulary")
    inputs.check_device(args.device)
    args.models = read_recipe(args.recipe, METHODS).names
    inputs.require_out(args, "the merged model")
    dtype, args.dtype = args.dtype, "float64"
    if dtype is not None:
        raise UsageError(f"--dtype {dtype} with a recipe", remedy="name it as `dtype` in the recipe")
    inputs.require_room(args, args.models, spooled=len(args.models) if args.align else 0)
    models = {name: inputs.weighted(name, args, deferred=True) for name in args.models}
    how = {"align": args.align, "seed": args.seed, "by": args.by, "options": chosen(args, MatchOptions)}
    with console.working("merging"):
        settings = inputs.settings(args, UniverseSettings, spool=True)
        merged = merge_by_recipe(args.recipe, models=models, **inputs.trusted(args), **how, **settings)
    out = write_merged(merged, args.out, command=args.typed, **inputs.writing(args))
    console.wrote(merged, out)
    return 0


def _planned(sources: Sequence[Model], args: Arguments, console: Console) -> int:
    """What would be done, and what it would take."""
    from symgraph.match.cost import cost_of_mean
    from symgraph.match.plan import plan

    if args.align:
        settings = inputs.settings(args, UniverseSettings)
        planned = plan(sources, common=True, options=chosen(args, MatchOptions), **settings)
        return inputs.show_program(planned, args, console, {str(i): m for i, m in enumerate(sources)}, written=1)
    cost = cost_of_mean(sources)
    console.result(cost, {"cost": cost.to_plain()})
    return 0
