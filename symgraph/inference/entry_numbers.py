"""Which entry stands where, as numbers: structural operators are carried out on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from symgraph.ir import Graph, Kind, Node
from symgraph.ir import Tensor as Meta
from symgraph.tracing.interpreter import Interpreter


def moved(graph: Graph, nodes: tuple[Node, ...], given: dict[str, Tensor]) -> Tensor:
    """What the last of some calls makes of numbers that stand for the values they read."""
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
    kept = [any(varies(t, i) for t in tensors) for i in range(tensors[0].dim())]
    window = tuple(slice(None) if varies else slice(1) for varies in kept)
    return [t[window] for t in tensors]


def varies(numbers: Tensor, dim: int) -> bool:
    """Whether numbers may differ along a dimension, as far as strides tell."""
    return numbers.shape[dim] > 1 and numbers.stride(dim) != 0


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
