"""Symmetries written into graphs of torch.fx, where other passes read them."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch.export import ExportedProgram

from symgraph.errors import UsageError
from symgraph.inference.pipeline import infer as _infer
from symgraph.inference.sources import RuleSources, called_with, require_inputs, rule_book
from symgraph.inference.sources import model as model_of
from symgraph.io.example import Size
from symgraph.symmetry.edges import Axis, axes_of, terms_of
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace_nodes

SYMMETRY = "symmetry"


def annotate(
    program: fx.GraphModule | ExportedProgram,
    example: Any = None,
    *,
    input_size: Size | None = None,
    rules: RuleSources = None,
) -> SymmetryGraph:
    """Writes what acts on every tensor of a torch.fx graph into its nodes, and gives the symmetry graph.

    `node.meta["symmetry"]` is a tuple with an `Axis` for each axis of the node's value: its size, its term in the names
    of spaces, the spaces in it, and the class on each. Nodes of which nothing is known have no such entry.

    Args:
        example, input_size: inputs, or the shape of one, as for `trace`; exported programs bring theirs.

    Raises:
        UsageError: this is no graph of torch.fx.
        TraceError: it cannot be run on these inputs.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> traced = torch.fx.symbolic_trace(net)
    >>> graph = symgraph.annotate(traced, torch.randn(5, 6))
    >>> [(node.name, node.meta["symmetry"][-1].term) for node in traced.graph.nodes if node.op == "call_module"]
    [('_0', 'hidden'), ('_1', 'hidden'), ('_2', '3')]
    """
    given: Any = program
    if not isinstance(given, fx.GraphModule | ExportedProgram):
        what = f"{type(given).__name__} is no graph of torch.fx"
        raise UsageError(what, remedy="give a torch.fx.GraphModule, or an exported program")
    found = model_of(program, example, input_size=input_size)
    args, named = called_with(found)
    require_inputs(found, args, named)
    graph, values = trace_nodes(found.module, args, named, name=type(found.module).__name__)
    symmetry = _infer(graph, rule_book(rules))
    known = {n: axes_of(symmetry, terms) for n, v in values.items() if (terms := terms_of(symmetry, v)) is not None}
    if isinstance(program, ExportedProgram):
        known |= _of_state(program, symmetry)
    for node in program.graph.nodes:
        node.meta.pop(SYMMETRY, None)
        if node.name in known:
            node.meta[SYMMETRY] = known[node.name]
    return symmetry


def _of_state(program: ExportedProgram, symmetry: SymmetryGraph) -> dict[str, tuple[Axis, ...]]:
    """What acts on parameters and buffers, by the placeholders that an exported program has for them."""
    signature = program.graph_signature
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    tied = symmetry.graph.tied
    terms = {name: terms_of(symmetry, tied.get(target, target)) for name, target in held.items()}
    return {name: axes_of(symmetry, found) for name, found in terms.items() if found is not None}
