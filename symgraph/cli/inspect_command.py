"""`symgraph inspect`: the symmetry graph of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from symgraph.cli.console import Console
from symgraph.cli.inputs import architecture, rule_book
from symgraph.cli.parser import Arguments, Commands, add_model, add_rules

if TYPE_CHECKING:
    from symgraph.ir import Graph
    from symgraph.symmetry.graph import SymmetryGraph

_EXAMPLES = """
symgraph inspect my-checkpoint                     its spaces and their groups, as a table
symgraph inspect my-checkpoint/config.json         the same, from the config alone
symgraph inspect my_package.nets:make --strict     fail if an operator has no rule
symgraph inspect my-checkpoint --emit graph        the traced graph that all this follows from
symgraph inspect my-checkpoint --emit spaces       what is known after this stage of the inference
"""
# Spelt out, so that the help needs no stage; a test compares them.
STAGES = """graph (as traced), unstack, measure, idioms, decompose, zeros, cut, rules, branches, equations, frames,
gains, ties, spaces, exchanges, fibres, names, families, symmetry (default)"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    details = "Needs no weights: the model is traced with shapes only, so large models take seconds."
    parser = commands.add("inspect", run, "show the symmetries of a model", details=details, examples=_EXAMPLES)
    add_model(parser, "model")
    parser.add_argument("--rigid", action="store_true", help="list the spaces as well that admit the identity only")
    parser.add_argument("--no-fold", action="store_true", help="list every layer, also those that are alike")
    parser.add_argument("--emit", metavar="STAGE", default="symmetry", help=f"print what this stage made: {STAGES}")
    parser.add_argument("--dimension", action="store_true", help="print the dimension of the group as well")
    parser.add_argument("--strict", action="store_true", help="fail if an operator has no rule (exit code 5)")
    add_rules(parser)


def run(args: Arguments, console: Console) -> int:
    """Trace, infer, print."""
    from symgraph import api
    from symgraph.inference import pipeline

    pipeline.stages_until(args.emit)
    found = architecture(args.model, args)
    with console.steps("tracing"):
        graph = api.trace(found)
    if args.emit == "graph":
        console.result(graph, _plain_graph(graph))
        return 0
    if args.emit != "symmetry":
        value = pipeline.run(graph, rule_book(args), args.emit)
        console.result(value, {"model": graph.model, "stage": args.emit, "lines": str(value).splitlines()})
        return 0
    symmetry = api.infer(graph, rules=rule_book(args), strict=args.strict)
    console.result(_text(symmetry, args), symmetry.to_json())
    return 0


def _text(symmetry: SymmetryGraph, args: Arguments) -> str:
    from symgraph.symmetry.present import table

    text = table(symmetry, fold=not args.no_fold, rigid=args.rigid)
    return f"{text}\n\n{symmetry.dimension()}" if args.dimension else text


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
