"""What acts on inputs and outputs as well: a model whose ends are parameters.

A model is equivariant, f(g x) = g f(x), exactly where the pairing <f(x), v> is invariant under g on weights, on x and,
by the inverse transpose, on v. So the pairing is traced with x and v among its parameters, and inference finds what
may act on all axes of inputs and outputs, and on every space between, in one graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from symgraph.errors import UsageError, near

WITHIN = "model."


class OpenEnds(nn.Module):
    """The pairing of a model's output with a tensor, as a function of weights, inputs and that tensor.

    Args:
        model: any module; its first floating output is the one that is paired.
        call: its inputs, in order or by name.
        shapes: of each input that may move, a shape in which axes that are flattened have dimensions of their own.
        output: what the model returns for the call, in such a shape.
    """

    def __init__(
        self, model: nn.Module, call: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], output: Tensor
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs = nn.ParameterDict()
        self._given = dict(call)
        for name, value in call.items():
            if name in shapes:
                self.inputs[name] = nn.Parameter(value.detach().clone().reshape(shapes[name]))
        self.output = nn.Parameter(torch.randn_like(output))

    def forward(self, one: Tensor) -> Tensor:
        """The pairing, times a number."""
        moving = {name: x.reshape(self._given[name].shape) for name, x in self.inputs.items()}
        found = first_output(self.model(**{**self._given, **moving}))
        return one * torch.dot(found.flatten(), self.output.flatten())


def first_output(outputs: Any) -> Tensor:
    """The first floating tensor among what a model returns.

    Raises:
        UsageError: there is none.
    """
    for value in pytree.tree_leaves(outputs):
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    raise UsageError("the model returns no floating tensor", remedy="give a model whose output the group can act on")


def named_call(model: nn.Module, example: Any) -> dict[str, Any]:
    """Example inputs by the names of the arguments."""
    if isinstance(example, Mapping):
        return dict(example)
    return dict(inspect.signature(model.forward).bind(*(example or ())).arguments)


def require_inputs_named(call: Mapping[str, Any], names: Mapping[str, Any], model: nn.Module) -> None:
    """Raise where a representation acts on an input that the model has not, or that is no floating tensor."""
    for name in names:
        if name not in call:
            what = f"the representation acts on {name!r}, which is no input of {type(model).__name__}"
            raise UsageError(what, remedy=near(name, list(call), f"inputs: {', '.join(call)}"))
        if not isinstance(call[name], Tensor) or not call[name].is_floating_point():
            what = f"the input {name!r} is no floating tensor"
            raise UsageError(what, remedy="leave it out: what is not named stays")
