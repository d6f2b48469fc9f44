"""A torch.fx graph that gives the result of every node, so that a trace of it has a value for each."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree


class Listed:
    """How many outputs a graph has, and the names of the nodes whose tensors follow them."""

    def __init__(self) -> None:
        self.outputs = 0
        self.names: tuple[str, ...] = ()


class EveryNode(nn.Module):
    """Runs a graph node by node; gives its outputs, then the tensors of all nodes that are `listed`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # An object of its own: torch.export puts attributes back.
        self.listed = Listed()

    def forward(self, *args: Any, **named: Any) -> tuple[Tensor, ...]:
        """The outputs, and the result of each node."""
        run = _Recorded(self.model)
        flat = pytree.tree_leaves((args, named))
        outputs = [
            leaf for leaf in pytree.tree_leaves(run.run(*flat, enable_io_processing=False)) if isinstance(leaf, Tensor)
        ]
        self.listed.outputs, self.listed.names = len(outputs), tuple(run.found)
        return (*outputs, *run.found.values())


class _Recorded(fx.Interpreter):
    """Keeps what each node gave, where that is a tensor."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.found: dict[str, Tensor] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if isinstance(value, Tensor) and node.op != "output":
            self.found[node.name] = value
        return value
