"""Which entry stands where, as numbers: structural operators are carried out on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from symgraph.ir import Graph, Kind, Node
from symgraph.ir import Tensor as Meta
from symgraph.tracing.interpreter import Interpreter


def moved(graph: Graph, nodes: tuple[Node, ...], given: dict[str, Tensor]) -> Tensor:
    """What the last of some calls makes of numbers that stand for the values they read."""
    if len(nodes) == 1 and nodes[0].target == "aten.index.Tensor":
        return _picked(graph, nodes[0], given)
    return _carried_out(graph, nodes, given)


def _picked(graph: Graph, node: Node, given: dict[str, Tensor]) -> Tensor:
    """What picking makes of them: numbers that are the same all along an axis where nothing is picked are kept once.

    The weights of an expert are picked for each token, and so many of them are larger than any memory.
    """
    value, index = next(iter(node.refs())), node.args[1]
    numbers = given[value]
    picked = (
        [i for i, at in enumerate(index) if at is not None] if isinstance(index, list | tuple) else range(numbers.dim())
    )
    once = tuple(slice(None) if i in picked or varies(numbers, i) else slice(1) for i in range(numbers.dim()))
    return _carried_out(graph, (node,), {**given, value: numbers[once]}).expand(node.shape)


def _carried_out(graph: Graph, nodes: tuple[Node, ...], given: dict[str, Tensor]) -> Tensor:
    inputs = []
    for name, tensor in given.items():
        meta = Meta(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        inputs.append(replace(graph.by_name[name], kind=Kind.INPUT, target=name, args=(), kwargs=(), result=meta))
    run = Interpreter(Graph((*inputs, *nodes), (nodes[-1].name,)))
    try:
        return run.run({}, given)[0]
    except RuntimeError:
        # A view of numbers that stand for all positions at once may not exist.
        return run.run({}, {n: t.contiguous() for n, t in given.items()})[0]


def compact(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors without the positions along dimensions that none of them varies along."""
    kept = [any(varies(tensor, i) for tensor in tensors) for i in range(tensors[0].dim())]
    window = tuple(slice(None) if varies else slice(1) for varies in kept)
    return [tensor[window] for tensor in tensors]


def varies(numbers: Tensor, dim: int) -> bool:
    """Whether numbers may differ along a dimension, as far as strides tell."""
    return numbers.shape[dim] > 1 and numbers.stride(dim) != 0


def stands_anywhere(numbers: Tensor) -> bool:
    """Whether any number is not zero."""
    return bool(compact([numbers])[0].any())


def stands_along(numbers: Tensor, dim: int) -> Tensor:
    """At which positions along a dimension any number is not zero; shapes: (size of the dimension,)."""
    kept = compact([numbers])[0] != 0
    others = [i for i in range(numbers.dim()) if i != dim]
    return (kept.amax(others) if others else kept).expand(numbers.shape[dim])


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same numbers at the same positions."""
    return one.shape == other.shape and torch.equal(*compact([one, other]))


def is_constant(numbers: Tensor, dim: int) -> bool:
    """Whether numbers are the same all along a dimension."""
    if numbers.shape[dim] == 1 or numbers.stride(dim) == 0:
        return True
    kept = compact([numbers])[0]
    return bool((kept == kept.narrow(dim, 0, 1)).all())


def line_along(numbers: Tensor, dim: int) -> Tensor:
    """The numbers along one dimension, at the first position of all others."""
    for i in reversed(range(numbers.dim())):
        numbers = numbers if i == dim else numbers.select(i, 0)
    return numbers
