"""Convolutions without padding as what they are: a linear map of all that is in a window.

So are all with one tap at every position. Those of several taps are taken apart where they read a value that the model
made itself: of what comes in nothing is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

from symgraph.ir import Graph, Kind, Node, Ref, Shape, resized
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
    unpadded = given.get("padding") == "valid" or set(_for_every_axis(given.get("padding"), 0, 1)) == {0}
    batched = len(source.shape) == len(weight.shape) == len(node.shape)
    if weight.kind is not Kind.PARAMETER or not unpadded or given.get("groups", 1) != 1 or not batched:
        return False
    strides = _for_every_axis(given.get("stride"), 1, len(weight.shape) - 2)
    return set(weight.shape[2:]) == set(strides) == {1} or source.name in made


def _for_every_axis(given: object, default: int, axes: int) -> tuple[int, ...]:
    """An argument that may be left out, or be one number for all axes."""
    if given is None:
        return (default,) * axes
    numbers = tuple(given) if isinstance(given, list | tuple) else (given,)
    return numbers * axes if len(numbers) == 1 else numbers


def _map(graph: Graph, node: Node) -> tuple[Node, ...]:
    given = arguments(node) or {}
    weight, source = graph.by_name[given["weight"].name], graph.by_name[given["input"].name]
    rank, kernel, written, entries = len(node.shape), weight.shape[2:], weight.shape[0], prod(weight.shape[1:])
    strides, dilations = (_for_every_axis(given.get(key), 1, len(kernel)) for key in ("stride", "dilation"))
    parts = _Parts(node, {source.name: source.shape, weight.name: weight.shape})
    matrix = parts.shaped("matrix", Ref(weight.name), (written, entries))
    windows, channels_last = (source.shape[0], *node.shape[2:]), (0, *range(2, rank), 1)
    if set(kernel) == {1} and strides == kernel:
        read = parts.ordered("channels", Ref(source.name), channels_last)
    else:
        value = Ref(source.name)
        for number, (taps, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
            value = parts.unfolded(number, value, taps, stride, dilation)
        by_window = parts.ordered("windows", value, (*channels_last, *range(rank, rank + len(kernel))))
        read = parts.shaped("entries", by_window, (*windows, entries))
    bias = () if given.get("bias") is None else (given["bias"],)
    mapped = parts.call("map", "aten.linear.default", (read, matrix, *bias), (*windows, written))
    parts.ordered("", mapped, (0, rank - 1, *range(1, rank - 1)))
    return tuple(parts.made)


@dataclass
class _Parts:
    """The calls that a convolution is made of, and the shape of each value."""

    convolution: Node
    shapes: dict[str, Shape]
    made: list[Node] = field(default_factory=list)

    def call(self, part: str, operator: str, args: tuple[object, ...], shape: Shape) -> Ref:
        name = f"{self.convolution.name}.{part}" if part else self.convolution.name
        self.made.append(self.convolution.call(name, operator, args, shape))
        self.shapes[name] = shape
        return Ref(name)

    def shaped(self, part: str, value: Ref, shape: Shape) -> Ref:
        return self.call(part, "aten.reshape.default", (value, shape), shape)

    def ordered(self, part: str, value: Ref, order: tuple[int, ...]) -> Ref:
        shape = self.shapes[value.name]
        return self.call(part, "aten.permute.default", (value, order), tuple(shape[axis] for axis in order))

    def unfolded(self, number: int, value: Ref, taps: int, stride: int, dilation: int) -> Ref:
        """The windows along a spatial axis, the taps of each along a new last axis."""
        axis, last_axis = number + 2, len(self.shapes[value.name])
        reach = (taps - 1) * dilation + 1
        shape = resized(self.shapes[value.name], axis, self.convolution.shape[axis])
        windows = self.call(f"windows{number}", "aten.unfold.default", (value, axis, reach, stride), (*shape, reach))
        if dilation == 1:
            return windows
        every = (windows, last_axis, 0, reach, dilation)
        return self.call(f"taps{number}", "aten.slice.Tensor", every, (*shape, taps))
