"""What parameters that no trace reads may meet is frozen.

A parameter that the traced inputs do not reach is used for others (pictures, sound, masked positions), in ways of which
nothing is known. Spaces as wide as one of its axes may be on it: an operator that no rule covers stands in for those
uses, and reads every value that lies on such a space, so that neither elements nor constants move there.
"""

from __future__ import annotations

from dataclasses import replace

from symgraph.errors import shorten
from symgraph.ir import Graph, Kind, Node, Ref, Tensor
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Leaf

UNREAD = "symgraph.unread"


def with_unread(symmetry: SymmetryGraph) -> Graph | None:
    """The traced graph with a stand-in for all uses of unread parameters; None where they can meet nothing."""
    graph = symmetry.graph
    sizes = {n for name in graph.unread for n in graph.parameters[name].shape if n > 1}
    spaces = {space.id for space in symmetry.active if space.size in sizes}
    values = [
        Ref(node.name)
        for node in graph.calls
        if any(isinstance(t, Leaf) and t.space in spaces for t in symmetry.values.get(node.name, ()))
    ]
    if not values:
        return None
    where = f"uses of {graph.unread[0]} and others" if graph.unread[1:] else f"a use of {graph.unread[0]}"
    node = Node(UNREAD, Kind.CALL, UNREAD, tuple(values), result=Tensor((), "float32"), module=where)
    return replace(graph, nodes=(*graph.nodes, node), outputs=(*graph.outputs, UNREAD))


def told(graph: Graph) -> tuple[str, ...]:
    """What was traced beside the plain inputs, and what no trace reads."""
    return (*(f"traced on {kind} as well" for kind in graph.kinds), *unreached(graph))


def unreached(graph: Graph) -> tuple[str, ...]:
    """What is not known of a model: kinds of input that were not traced, parameters that no trace reads."""
    found = [f"not traced on {why}" for why in graph.untraced]
    if graph.unread:
        names = shorten(graph.unread)
        found.append(f"no trace reads {names}: frozen, and so is every space as wide as one of their axes")
    return tuple(found)
