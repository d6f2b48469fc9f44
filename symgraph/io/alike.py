"""Whether two models of one class compute alike, whatever their configs say: by their traces and constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from symgraph.errors import TraceError
from symgraph.io.models import Model
from symgraph.ir import Graph, Node
from symgraph.tracing import state_of, trace


def compute_alike(one: Model, other: Model) -> bool:
    """Whether two models are one function of their parameters: the same graph, with the same unstored numbers."""
    try:
        first, second = _traced(one), _traced(other)
    except TraceError:
        return False
    if list(map(_call, first.nodes)) != list(map(_call, second.nodes)) or first.outputs != second.outputs:
        return False
    held, given = state_of(one.module), state_of(other.module)
    return all(_equal(held.get(name), given.get(name)) for name in first.transient)


def _traced(model: Model) -> Graph:
    example = model.example
    if isinstance(example, Mapping):
        return trace(model.module, kwargs=example)
    return trace(model.module, example if isinstance(example, tuple) else ())


def _call(node: Node) -> tuple[Any, ...]:
    """What a node computes, wherever in the code it stands."""
    return node.name, node.kind, node.target, node.args, node.kwargs, node.result


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether two constants are known to be equal."""
    if one is None or other is None or one.is_meta or other.is_meta:
        return one is other
    return one.shape == other.shape and torch.equal(one, other)
