"""Convolutions without padding as what they are: a linear map of all that is in a window.

So are all with one tap at every position. Those of several taps are taken apart where they read a value that the model
made itself: of what comes in nothing is asked.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from symgraph.ir import Graph, Kind, Node, Ref, Tensor
from symgraph.tracing.arguments import arguments

_CONVOLUTIONS = frozenset(f"aten.conv{axes}d.{overload}" for axes in (1, 2, 3) for overload in ("default", "padding"))


def with_window_maps(graph: Graph) -> Graph:
    """The graph with each such convolution as a linear map between permutations; the last of these has its name."""
    made = _made_by_the_model(graph)
    parts = {node.name: _map(graph, node) for node in graph.calls if _is_of_whole_windows(graph, node, made)}
    if not parts:
        return graph
    return replace(graph, nodes=tuple(part for node in graph.nodes for part in parts.get(node.name, (node,))))


def _made_by_the_model(graph: Graph) -> set[str]:
    """The values that depend on a parameter."""
    made = set[str]()
    for node in graph.nodes:
        if node.kind is Kind.PARAMETER or not made.isdisjoint(node.refs()):
            made.add(node.name)
    return made


def _is_of_whole_windows(graph: Graph, node: Node, made: set[str]) -> bool:
    given = arguments(node) if node.target in _CONVOLUTIONS else None
    if given is None:
        return False
    weight, source = graph.by_name[given["weight"].name], graph.by_name[given["input"].name]
    whole = given.get("padding") == "valid" or _every(given, "padding", 0)
    plain = whole and given.get("groups", 1) == 1
    if weight.kind is not Kind.PARAMETER or not plain or not len(source.shape) == len(weight.shape) == len(node.shape):
        return False
    strides = _for_every_axis(given.get("stride"), 1, len(weight.shape) - 2)
    return set(weight.shape[2:]) == set(strides) == {1} or source.name in made


def _every(given: dict[str, object], key: str, number: int) -> bool:
    """Whether an argument is this number for every axis; it is where it is left out."""
    return set(_for_every_axis(given.get(key), number, 1)) == {number}


def _for_every_axis(given: object, default: int, axes: int) -> tuple[int, ...]:
    """An argument that may be left out, or be one number for all axes."""
    if given is None:
        return (default,) * axes
    numbers = tuple(given) if isinstance(given, list | tuple) else (given,)
    return numbers * axes if len(numbers) == 1 else numbers


def _map(graph: Graph, node: Node) -> tuple[Node, ...]:
    given = arguments(node) or {}
    weight, source = graph.by_name[given["weight"].name], graph.by_name[given["input"].name]
    dtype = node.result.dtype if isinstance(node.result, Tensor) else ""
    rank, kernel, written, entries = len(node.shape), weight.shape[2:], weight.shape[0], prod(weight.shape[1:])
    strides, dilations = (_for_every_axis(given.get(key), 1, len(kernel)) for key in ("stride", "dilation"))
    made: list[Node] = []

    def call(part: str, operator: str, args: tuple[object, ...], shape: tuple[int, ...]) -> Ref:
        name = f"{node.name}.{part}" if part else node.name
        made.append(replace(node, name=name, target=operator, args=args, kwargs=(), result=Tensor(shape, dtype)))
        return Ref(name)

    def ordered(part: str, value: Ref, shape: tuple[int, ...], order: tuple[int, ...]) -> Ref:
        return call(part, "aten.permute.default", (value, order), tuple(shape[axis] for axis in order))

    matrix = call("matrix", "aten.reshape.default", (Ref(weight.name), (written, entries)), (written, entries))
    windows, last = (source.shape[0], *node.shape[2:]), (0, *range(2, rank), 1)
    if set(kernel) == {1} and strides == kernel:
        read = ordered("channels", Ref(source.name), source.shape, last)
    else:
        value, shape = Ref(source.name), source.shape
        for axis, (taps, stride, apart) in enumerate(zip(kernel, strides, dilations, strict=True), 2):
            reach, last_axis = (taps - 1) * apart + 1, len(shape)
            shape = (*shape[:axis], node.shape[axis], *shape[axis + 1 :], reach)
            value = call(f"windows{axis - 2}", "aten.unfold.default", (value, axis, reach, stride), shape)
            if apart > 1:
                shape = (*shape[:-1], taps)
                value = call(f"taps{axis - 2}", "aten.slice.Tensor", (value, last_axis, 0, reach, apart), shape)
        by_window = ordered("windows", value, shape, (*last, *range(rank, len(shape))))
        read = call("entries", "aten.reshape.default", (by_window, (*windows, entries)), (*windows, entries))
    bias = () if given.get("bias") is None else (given["bias"],)
    mapped = call("map", "aten.linear.default", (read, matrix, *bias), (*windows, written))
    ordered("", mapped, (*windows, written), (0, rank - 1, *range(1, rank - 1)))
    return tuple(made)
