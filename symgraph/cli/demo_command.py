"""`symgraph demo`: everything once, on real data."""

from __future__ import annotations

from symgraph.cli.console import Console
from symgraph.cli.parser import Arguments, Commands, add_overwrite, whole

_DETAILS = """
Trains two small vision transformers from different seeds on scikit-learn's handwritten digits, infers and
verifies their symmetries, aligns one to the other by their weights and from there by learning, and measures
loss and accuracy on the line between them, on images that neither has seen: as trained, matched, and learned.
Takes about a minute, needs no network and no GPU.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    examples = "symgraph demo\nsymgraph demo --out somewhere --seed 7"
    parser = commands.add("demo", run, "train, align and compare two small models", details=_DETAILS, examples=examples)
    text = "the folder to write to (default: symgraph-demo, or symgraph-demo-2 and so on if it exists)"
    parser.add_argument("--out", metavar="FOLDER", help=text)
    parser.add_argument("--seed", type=whole, default=0, help="of the first model; the second has the next (default 0)")
    add_overwrite(parser)


def run(args: Arguments, console: Console) -> int:
    """Run the demo and print what it found."""
    from symgraph.cli import demo_run as demo

    found = demo.run(args.out, seed=args.seed, overwrite=args.overwrite, console=console)
    console.result(found, found.to_plain())
    return 0
