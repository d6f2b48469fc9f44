"""`symgraph inspect`: the symmetry graph of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from symgraph.cli.console import Console
from symgraph.cli.inputs import refuse_files, rule_book, traced
from symgraph.cli.parser import Arguments, Commands, add_model, add_overwrite, add_rules
from symgraph.errors import UsageError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from symgraph.ir import Graph
    from symgraph.symmetry.graph import SymmetryGraph

_EXAMPLES = """
symgraph inspect my-checkpoint                     its spaces and their groups, as a table
symgraph inspect my-checkpoint/config.json         the same, from the config alone
symgraph inspect my-checkpoint --html page.html    a page to click through: drawing, table, evidence, laws
symgraph inspect my-checkpoint --legend            the table, and what its words mean
symgraph inspect my_package.nets:make --strict     fail if an operator has no rule
symgraph inspect my-checkpoint --format mermaid    a drawing for Markdown
symgraph inspect my-checkpoint --emit graph        the traced graph that all this follows from
symgraph inspect my-checkpoint --emit spaces       what is known after this stage of the inference
"""
# Spelt out, so that the help needs no stage; a test compares them.
STAGES = """graph (as traced), unstack, offsets, sums, measure, turns, idioms, decompose, zeros, cut, rules, branches,
equations, frames, gains, ties, spaces, exchanges, fibres, names, families, symmetry (default)"""
# The same, so that the help needs none of the writers.
FORMATS = ("table", "json", "dot", "mermaid", "graphml")


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    details = "Needs no weights: the model is traced with shapes only, so large models take seconds."
    parser = commands.add("inspect", run, "show the symmetries of a model", details=details, examples=_EXAMPLES)
    add_model(parser, "model")
    parser.add_argument("--rigid", action="store_true", help="list the spaces as well that admit the identity only")
    parser.add_argument("--no-fold", action="store_true", help="list every layer, also those that are alike")
    text = "how it is printed: as a table (default), as JSON, or for Graphviz, Markdown, or Gephi and yEd"
    parser.add_argument("--format", choices=FORMATS, default="table", help=text)
    parser.add_argument("--legend", action="store_true", help="print what the words of the table mean as well")
    parser.add_argument("--emit", metavar="STAGE", default="symmetry", help=f"print what this stage made: {STAGES}")
    parser.add_argument("--dimension", action="store_true", help="print the dimension of the group as well")
    parser.add_argument("--strict", action="store_true", help="fail if an operator has no rule (exit code 5)")
    add_rules(parser)
    files = parser.add_argument_group("files")
    text = "write a page that opens from disk: a drawing, a table, and the evidence for everything in them"
    files.add_argument("--html", metavar="FILE", help=text)
    text = "write what Model Explorer lays over the graph of a .pt2 file; of any other model its graph, with that"
    files.add_argument("--overlay", metavar="FILE", help=text)
    add_overwrite(files)


def run(args: Arguments, console: Console) -> int:
    """Trace, infer, print."""
    from symgraph.inference import pipeline
    from symgraph.inference.sources import infer

    pipeline.stages_until(args.emit)
    _check(args)
    refuse_files(args, args.html, args.overlay)
    graph, program = traced(args.model, args, console)
    if args.emit == "graph":
        console.result(graph, _plain_graph(graph))
        return 0
    if args.emit != "symmetry":
        value = pipeline.run(graph, rule_book(args), args.emit)
        console.result(value, {"model": graph.model, "stage": args.emit, "lines": str(value).splitlines()})
        return 0
    symmetry = infer(graph, rules=rule_book(args), strict=args.strict)
    _write(symmetry, program, args, console)
    _print(symmetry, args, console)
    return 0


def _check(args: Arguments) -> None:
    """Raise before any work for options that do not fit together."""
    whole = [f"--{name}" for name in ("html", "overlay", "legend", "dimension") if getattr(args, name)]
    whole += [f"--format {args.format}"] if args.format != "table" else []
    if args.emit != "symmetry" and whole:
        what = f"{whole[0]} shows the symmetry graph, and --emit {args.emit} stops before there is one"
        raise UsageError(what, remedy=f"leave out --emit, or {whole[0]}")
    if args.json and args.format not in ("table", "json"):
        raise UsageError(f"--json and --format {args.format} ask for two forms", remedy="leave out one of them")
    if args.legend and (args.json or args.format != "table"):
        raise UsageError("--legend explains a table, and none is printed", remedy="leave out --legend")


def _write(symmetry: SymmetryGraph, program: ExportedProgram | None, args: Arguments, console: Console) -> None:
    if args.html:
        symmetry.save_html(args.html, overwrite=args.overwrite)
        console.remark(f"wrote {args.html}; open it in a browser")
    if args.overlay:
        from symgraph.inference.overlay import overlay
        from symgraph.io.files import write_text

        write_text(args.overlay, overlay(symmetry, program, rule_book(args)), args.overwrite)
        beside = f"open {args.model} in Model Explorer, and then this"
        first = "open it in Model Explorer" if program is None else beside
        console.remark(f"wrote {args.overlay}; {first}")


def _print(symmetry: SymmetryGraph, args: Arguments, console: Console) -> None:
    from symgraph.symmetry import drawn

    if args.format in drawn.FORMATS:
        console.result(drawn.FORMATS[args.format](symmetry, not args.no_fold), None)
    elif args.format == "json":
        console.result(symmetry.to_json(), None)
    elif console.as_json:
        console.result("", symmetry.to_json())
    else:
        console.result(_text(symmetry, args), None)


def _text(symmetry: SymmetryGraph, args: Arguments) -> str:
    from symgraph.symmetry.glossary import legend, printed
    from symgraph.symmetry.present import table

    parts = [table(symmetry, fold=not args.no_fold, rigid=args.rigid)]
    counted = symmetry.dimension() if args.dimension or args.legend else None
    parts += [str(counted)] if args.dimension else []
    parts += [printed(legend(symmetry, counted))] if args.legend and counted else []
    return "\n\n".join(parts)


def _plain_graph(graph: Graph) -> dict[str, Any]:
    nodes = [
        {
            "name": n.name,
            "kind": str(n.kind),
            "target": n.target,
            "text": str(n),
            "module": n.module,
            "source": n.source,
        }
        for n in graph.nodes
    ]
    return {"model": graph.model, "nodes": nodes, "outputs": list(graph.outputs), "tied": graph.tied}
