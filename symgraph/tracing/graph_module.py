"""A graph as a module, so that whatever takes a model takes a graph and a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import TraceError, UsageError, shorten
from symgraph.ir import Graph, Kind
from symgraph.ir import Tensor as Meta
from symgraph.tracing.interpreter import Interpreter


class GraphModule(nn.Module):
    """Runs a graph, with parameters and buffers under the names that the graph has for them.

    Args:
        traced: the graph, from whatever front end.
        state: its parameters and buffers, and any tensors that the graph does not read; on the meta device where none
            is given. Further names of shared tensors are left out.

    Raises:
        UsageError: the state lacks a tensor of the graph, or one has another shape.
    """

    def __init__(self, traced: Graph, state: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.traced = traced
        held = _empty(traced) if state is None else state
        _check(traced, held)
        for name, node in traced.state.items():
            owner, _, leaf = name.rpartition(".")
            tensor = held[name].detach()
            if node.kind is Kind.PARAMETER:
                parameter = nn.Parameter(tensor, requires_grad=tensor.is_floating_point() or tensor.is_complex())
                _submodule(self, owner).register_parameter(leaf, parameter)
            else:
                stored = name not in traced.transient
                _submodule(self, owner).register_buffer(leaf, tensor, persistent=stored)
        for name in held.keys() - traced.state.keys() - traced.tied.keys():
            owner, _, leaf = name.rpartition(".")
            _submodule(self, owner).register_buffer(leaf, held[name].detach())
        self.eval()

    def graph(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> Graph:
        """The graph itself, for inputs of its own shapes.

        Raises:
            TraceError: the inputs have other shapes.
        """
        given = dict(zip((input_node.target for input_node in self.traced.inputs), args, strict=False)) | dict(named)
        for node in self.traced.inputs:
            tensor = given.get(node.target)
            if isinstance(tensor, Tensor) and tuple(tensor.shape) != node.shape:
                raise TraceError(
                    f"the graph {self.traced.model} is of other inputs",
                    cause=f"{node.target} is {tuple(tensor.shape)} where the graph has {node.shape}",
                    remedy="give inputs of the shapes that the graph was made for, or the module itself",
                )
        return self.traced

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """The outputs of the graph: one, or a tuple of several."""
        tensors = dict(self.named_parameters()) | dict(self.named_buffers())
        first = next((tensor for tensor in tensors.values() if tensor.is_floating_point()), torch.empty(0))
        outputs = Interpreter(self.traced, dtype=first.dtype, device=first.device).run(tensors, inputs or named)
        return outputs[0] if len(outputs) == 1 else outputs


def _submodule(root: nn.Module, path: str) -> nn.Module:
    for part in filter(None, path.split(".")):
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    return root


def _empty(graph: Graph) -> dict[str, Tensor]:
    return {name: _meta(node.result) for name, node in graph.state.items()}


def _meta(described: Any) -> Tensor:
    return torch.empty(described.shape, dtype=getattr(torch, described.dtype), device="meta")


def _check(graph: Graph, state: Mapping[str, Tensor]) -> None:
    if lacking := [name for name in graph.state if name not in state]:
        remedy = "give all parameters and buffers, those that checkpoints do not store as well"
        raise UsageError("the state does not fit the graph", cause=f"it lacks {shorten(lacking)}", remedy=remedy)
    other = [
        f"{name} {tuple(state[name].shape)} instead of {node.shape}"
        for name, node in graph.state.items()
        if isinstance(node.result, Meta) and tuple(state[name].shape) != node.shape
    ]
    if other:
        remedy = "give the state of the model that was traced"
        raise UsageError("the state does not fit the graph", cause=f"wrong shapes: {shorten(other)}", remedy=remedy)
