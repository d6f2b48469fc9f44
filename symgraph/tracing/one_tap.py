"""Convolutions with one tap as what they are: a linear map of the channels at every position."""

from __future__ import annotations

from dataclasses import replace

from symgraph.ir import Graph, Kind, Node, Ref, Tensor
from symgraph.tracing.arguments import arguments

_CONVOLUTIONS = frozenset({"aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default"})


def with_channel_maps(graph: Graph) -> Graph:
    """The graph with each such convolution as a linear map between permutations; the last of these has its name."""
    parts = {node.name: _map(graph, node) for node in graph.calls if _has_one_tap(graph, node)}
    if not parts:
        return graph
    return replace(graph, nodes=tuple(part for node in graph.nodes for part in parts.get(node.name, (node,))))


def _has_one_tap(graph: Graph, node: Node) -> bool:
    given = arguments(node) if node.target in _CONVOLUTIONS else None
    if given is None:
        return False
    weight, source = graph.by_name[given["weight"].name], graph.by_name[given["input"].name]
    plain = all(_every(given.get(key), number) for key, number in (("stride", 1), ("padding", 0)))
    batched = len(source.shape) == len(weight.shape) == len(node.shape)
    learned = weight.kind is Kind.PARAMETER
    return learned and plain and batched and given.get("groups", 1) == 1 and set(weight.shape[2:]) == {1}


def _every(given: object, number: int) -> bool:
    """Whether an argument is this number for every axis; it is where it is left out."""
    return given is None or (set(given) if isinstance(given, list | tuple) else {given}) == {number}


def _map(graph: Graph, node: Node) -> tuple[Node, ...]:
    given = arguments(node) or {}
    weight, source = graph.by_name[given["weight"].name], graph.by_name[given["input"].name]
    rank, dtype = len(node.shape), node.result.dtype if isinstance(node.result, Tensor) else ""
    last, back = (0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1))

    def call(part: str, target: str, args: tuple[object, ...], shape: tuple[int, ...]) -> Node:
        name = f"{node.name}.{part}" if part else node.name
        return replace(node, name=name, target=target, args=args, kwargs=(), result=Tensor(shape, dtype))

    moved = tuple(source.shape[dim] for dim in last)
    bias = () if given.get("bias") is None else (given["bias"],)
    mapped = (*moved[:-1], weight.shape[0])
    return (
        call("matrix", "aten.reshape.default", (Ref(weight.name), weight.shape[:2]), weight.shape[:2]),
        call("channels", "aten.permute.default", (Ref(source.name), last), moved),
        call("map", "aten.linear.default", (Ref(f"{node.name}.channels"), Ref(f"{node.name}.matrix"), *bias), mapped),
        call("", "aten.permute.default", (Ref(f"{node.name}.map"), back), node.shape),
    )
