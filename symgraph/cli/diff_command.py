"""`symgraph diff`: what two models' symmetry graphs, or those of one model under two sets of rules, do not share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from symgraph.cli.console import Console
from symgraph.cli.inputs import traced
from symgraph.cli.parser import MODEL_HELP, Arguments, Commands, add_rules, add_trust
from symgraph.errors import UsageError

if TYPE_CHECKING:
    from symgraph.symmetry.graph import SymmetryGraph

_EXAMPLES = """
symgraph diff old-checkpoint new-checkpoint              which spaces are gained, lost, larger or smaller?
symgraph diff my-checkpoint --rules-b my-rules           what do my rules change?
symgraph diff yesterday.json my-checkpoint               against what `inspect --json` printed
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    details = "Spaces are the same where they stand on the same parameters, else by name; repeated layers are one line."
    about = "compare two symmetry graphs"
    parser = commands.add("diff", run, about, details=details, examples=_EXAMPLES)
    parser.add_argument("a", metavar="A", help=f"{MODEL_HELP}, or a symmetry graph as JSON")
    parser.add_argument("b", metavar="B", nargs="?", help="another one (default: the same, under other rules)")
    add_trust(parser)
    add_rules(parser)
    for name in ("a", "b"):
        text = f"rules for {name.upper()} alone, in front of those of --rules"
        parser.add_argument(f"--rules-{name}", metavar="DIR", nargs="+", action="extend", default=[], help=text)


def run(args: Arguments, console: Console) -> int:
    """Infer both, compare, print."""
    from symgraph.symmetry.difference import difference

    if args.b is None and args.rules_a == args.rules_b:
        remedy = "name another model, or give rules to one of the two: --rules-b DIR"
        raise UsageError("there is nothing to compare: one model under one set of rules", remedy=remedy)
    specs = (args.a, args.b or args.a)
    first = _symmetry(args.a, args.rules_a, args, console)
    second = _symmetry(specs[1], args.rules_b, args, console)
    found = difference(first, second, _names(specs, (args.rules_a, args.rules_b)))
    console.result(found, found.to_plain())
    return 0


def _symmetry(spec: str, rules: Sequence[str], args: Arguments, console: Console) -> SymmetryGraph:
    from symgraph.inference.sources import infer
    from symgraph.symmetry.graph import SymmetryGraph

    if _is_graph(spec):
        if rules:
            raise UsageError(f"{spec} is a symmetry graph already", remedy="give rules beside a model")
        return SymmetryGraph.from_json(Path(spec))
    graph, _ = traced(spec, args, console, f"tracing {spec}")
    with console.working(f"inferring {spec}"):
        return infer(graph, rules=[*rules, *args.rules])


def _is_graph(spec: str) -> bool:
    """Whether this is a file that `inspect --json` wrote, and no config."""
    path = Path(spec)
    if path.suffix != ".json" or not path.is_file():
        return False
    return '"fingerprint"' in path.read_text(encoding="utf-8", errors="replace")


def _names(specs: tuple[str, str], rules: tuple[Sequence[str], Sequence[str]]) -> tuple[str, str]:
    """What the two are called: by their rules where the model is one."""
    told = [f"{spec} with {', '.join(own)}" if own else spec for spec, own in zip(specs, rules, strict=True)]
    return told[0], told[1]
