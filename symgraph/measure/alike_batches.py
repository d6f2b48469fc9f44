"""Batches of one shape, and the graph that takes them: what looks at the values inside of a network needs both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from symgraph.errors import DataError
from symgraph.io.example import LABEL_KEYS
from symgraph.ir import Graph
from symgraph.measure.batches import batch_tensors, repeatable
from symgraph.measure.forward import accepted_names
from symgraph.tracing import trace

Inputs = dict[str, Tensor]


def alike(network: nn.Module, data: Any, purpose: str) -> AlikeBatches:
    """The batches of some data that have the shape of the first one.

    Args:
        purpose: what they are for, as the end of "no batches to ...".

    Raises:
        DataError: there are none.
    """
    accepted = accepted_names(network)
    given = (_inputs(raw, accepted) for raw in repeatable(data, "training data"))
    first = next(given, None)
    if first is None:
        raise DataError(f"no batches to {purpose}", remedy="check the length of the data")
    return AlikeBatches(_traced(network, first, accepted), given, first, accepted)


class AlikeBatches:
    """Batches of one shape under the names of the inputs of `graph`, which is traced with them; others are counted."""

    def __init__(self, graph: Graph, rest: Iterable[Inputs], first: Inputs, accepted: frozenset[str]) -> None:
        self.graph, self.rest, self.first, self.accepted, self.left_out = graph, rest, first, accepted, 0
        self.names = [str(input_node.target) for input_node in graph.inputs]

    def __iter__(self) -> Iterator[Inputs]:
        yield self._named(self.first)
        shapes = {name: tensor.shape for name, tensor in self.first.items()}
        for batch in self.rest:
            if {name: tensor.shape for name, tensor in batch.items()} == shapes:
                yield self._named(batch)
            else:
                self.left_out += 1

    def _named(self, given: Inputs) -> Inputs:
        """Under the names of the graph's inputs; unnamed ones in their order."""
        if set(self.names) <= set(given):
            return {name: given[name] for name in self.names}
        return dict(zip(self.names, given.values(), strict=False))


def _inputs(raw: Any, accepted: frozenset[str]) -> Inputs:
    """What the network is called with, by name where it takes names; labels left out."""
    tensors = {name: tensor for name, tensor in batch_tensors(raw).items() if name not in LABEL_KEYS}
    named = {name: tensor for name, tensor in tensors.items() if name in accepted}
    return named or tensors


def _traced(network: nn.Module, first: Mapping[str, Tensor], accepted: frozenset[str]) -> Graph:
    named = set(first) <= accepted
    args, kwargs = ((), dict(first)) if named else (tuple(first.values()), {})
    return trace(network, args, kwargs, name=type(network).__name__)
