"""A graph that computes a pattern, for testing what patterns match and must not match."""

from __future__ import annotations

import torch

from symgraph.ir import Graph, Kind, Node, Ref, Tensor
from symgraph.rules.expression import Term
from symgraph.rules.pattern import Pattern

_DUMMY = Tensor((2, 3, 4, 6), "float32")


def as_graph(pattern: Pattern) -> tuple[Graph, Node]:
    """A graph that computes a pattern on inputs of one fixed shape."""
    nodes: dict[Term, Node] = {}

    def build(term: Term) -> object:
        if term.kind in ("constant", "any"):
            return None if term.kind == "any" else term.value
        if term.kind == "list":
            return tuple(build(item) for item in term.items)
        if term not in nodes:
            name = f"{term.value}_{len(nodes)}"
            if term.kind == "var":
                nodes[term] = Node(name, Kind.INPUT, name, result=_DUMMY)
            else:
                args = tuple(build(item) for item in term.items)
                kwargs = tuple((name, build(term)) for name, term in term.keywords)
                nodes[term] = Node(name, Kind.CALL, _overload(term.value, args), args, kwargs, _DUMMY)
        return Ref(nodes[term].name)

    build(pattern.tree)
    root = nodes[pattern.tree]
    return Graph(tuple(nodes.values()), (root.name,)), root


def _overload(name: str, args: tuple[object, ...]) -> str:
    """An overload of an operator that takes these arguments."""
    preferred = ("default", "Tensor", "dim", "int", "Tensor_Scalar", "dim_IntList", "self", "using_ints", "self_int")
    packet = getattr(torch.ops.aten, name)
    if name == "pow" and not isinstance(args[1], Ref):
        return "aten.pow.Tensor_Scalar"
    if name == "mean":
        return "aten.mean.dim" if len(args) > 1 else "aten.mean.default"
    if name == "sum":
        return "aten.sum.dim_IntList" if len(args) > 1 else "aten.sum.default"
    overload = next((overload for overload in preferred if overload in packet.overloads()), packet.overloads()[0])
    return f"aten.{name}.{overload}"
