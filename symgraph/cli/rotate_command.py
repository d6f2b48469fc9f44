"""`symgraph rotate`: fuse a rotation into a checkpoint, for quantisers."""

from __future__ import annotations

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.data_inputs import scoring
from symgraph.cli.parser import (
    DATA_HELP,
    WEIGHTED_HELP,
    Arguments,
    Commands,
    add_model,
    add_options,
    add_out,
    add_reading,
    add_rules,
    at_least,
)
from symgraph.errors import read_at
from symgraph.match.match_options import Settings
from symgraph.orbit.descent_options import DescentOptions

CHOICES = ("hadamard", "random", "learned")
# The same as of the module that writes for them, which the help does not need.
TOOLS = ("llm-compressor", "auto-round")
_EXAMPLES = """
symgraph rotate my-checkpoint --out rotated
symgraph rotate my-checkpoint --out rotated --with learned --bits 4 --group 128
symgraph rotate my-checkpoint --out rotated --with learned --bits 4 --inputs 4 --data my-texts --full
symgraph rotate my-checkpoint --out rotated --spaces residual --seed 1
symgraph rotate tied-checkpoint --out rotated --tied untie      cut shared embeddings: a larger group
symgraph rotate my-checkpoint --out recipe.yaml --emit llm-compressor      how that tool rotates it
"""
_DETAILS = """
Fuses rotations that the model's group admits into its weights: of the residual stream, and of the inside of
attention heads. Gains of norms go into the matrices beside them. The result is a checkpoint of the same class
that computes what it computed (or nothing is written), at weights that lose less when they are rounded.

learned goes down the error of rounding the matrices to so many bits, over the whole orbit and without data;
with --data from there on down what rounding changes of what the model predicts.

--emit writes no checkpoint, but what a tool that rotates by itself has to be told so that the function stays,
from the same group, also for models that it has no names for; or why it would change the function anyway.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    about = "fuse a rotation into a checkpoint, for quantisers"
    parser = commands.add("rotate", run, about, details=_DETAILS, examples=_EXAMPLES)
    add_model(parser, "model", help=WEIGHTED_HELP)
    add_out(parser)
    text = "a Hadamard rotation with random signs (default), a uniform one, or one that is learned from there"
    parser.add_argument("--with", dest="by", choices=CHOICES, default=CHOICES[0], help=text)
    text = "rotate these spaces only; * stands for any text (default: all that can be)"
    parser.add_argument("--spaces", metavar="PATTERN", nargs="+", default=["*"], help=text)
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    text = "the precision that the error is stated for, and learned by (default 4)"
    parser.add_argument("--bits", type=at_least(2), default=4, metavar="N", help=text)
    text = "inputs of a matrix that share a step (default: all of an output)"
    parser.add_argument("--group", type=at_least(1), default=0, metavar="N", help=text)
    text = "learn on from there on this data, by what rounding changes of what is predicted; none: inputs made up"
    parser.add_argument("--data", metavar="SPEC", help=f"{text}; {DATA_HELP}")
    text = "round what matrices read as well, to so many bits at each position (default: as it is)"
    parser.add_argument("--inputs", type=at_least(2), metavar="N", help=text)
    parser.add_argument("--split", help="which split of the data (default: the training one)")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="use so many of its examples")
    text = "write what this tool has to be told of the model to OUT, and rotate nothing"
    parser.add_argument("--emit", choices=TOOLS, help=text)
    add_options(parser, Settings, "tied")
    add_rules(parser)
    add_reading(parser)
    learning = parser.add_argument_group("learning")
    add_options(learning, DescentOptions, "steps", "lr")
    text = "invertible matrices inside of heads and scales of units move too (default: rotations alone)"
    learning.add_argument("--full", action="store_true", help=text)
    parser.set_defaults(steps=200, lr=0.02)


def run(args: Arguments, console: Console) -> int:
    """Load, rotate, write."""
    from symgraph.match.rotate import rotate

    if args.emit:
        return _emit(args, console)
    if args.by != "learned":
        inputs.refuse_unread(args, "give --with learned", "steps", "lr", "full", "data", "inputs")
    if args.data is None:
        inputs.refuse_unread(args, "name data with --data", "split", "limit", "inputs")
    found = inputs.rewritten(args)
    data = scoring(args)
    with read_at(by="--with"), console.working("rotating"):
        rotated = rotate(
            found,
            by=args.by,
            spaces=args.spaces,
            bits=args.bits,
            group=args.group,
            data=None if data is None else data.training(found),
            inputs=args.inputs or 0,
            seed=args.seed,
            tied=args.tied,
            rules=inputs.rule_book(args),
            options={"steps": args.steps, "lr": args.lr, "full": args.full},
        )
    out = rotated.save_pretrained(args.out, command=args.typed, **inputs.writing(args))
    console.wrote(rotated, out)
    return 0


def _emit(args: Arguments, console: Console) -> int:
    """Write what a tool has to be told."""
    from symgraph.match.quantiser_mapping import quantiser_mapping

    inputs.refuse_unread(args, "leave out --emit", "by", "spaces", "seed", "bits", "group", "tied")
    inputs.refuse_unread(args, "leave out --emit", "steps", "lr", "full", "data", "inputs", "split", "limit")
    inputs.refuse_files(args, args.out)
    found = inputs.weighted(args.model, args)
    with console.working("reading the model"):
        mapping = quantiser_mapping(found, tool=args.emit, rules=inputs.rule_book(args))
    out = mapping.save(args.out, overwrite=args.overwrite)
    console.wrote(mapping, out)
    return 0
