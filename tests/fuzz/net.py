"""A model from its description: a stem, steps that each change one stream of values, and a head.

A description is data that prints as Python, so that a failure shows the model and can be built again from the text.
Parameters are made where a step first asks for them, named after the step and their shape. A step that is `like` an
earlier one asks under the earlier one's name, so that the two share whatever has the same role and shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Step = dict[str, Any]
BATCH = 2
VOCABULARY = 5
FEATURES = 3
# Streams grow by concatenation; beyond these a step that would widen them leaves them as they are.
WIDEST, LONGEST = 8, 6


@dataclass(frozen=True)
class Description:
    """What a model is made of; values are of shape (batch, length, width) throughout."""

    stem: str = "linear"
    width: int = 4
    length: int = 3
    steps: tuple[Step, ...] = ()
    head: str = "linear"

    def inputs(self) -> tuple[Tensor, ...]:
        """Example inputs."""
        if "embedding" in self.stem:
            return (torch.randint(0, VOCABULARY, (BATCH, self.length)),)
        return (torch.randn(BATCH, self.length, FEATURES),)


@dataclass
class Scope:
    """What a step works with: parameters under its own name, values that were kept, and further outputs."""

    net: Net
    name: str
    kept: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def module(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        """The module of that name, made if this is the first use."""
        key = f"{self.name}_{name}"
        if key not in self.net.parts:
            self.net.parts[key] = make().eval()
        return self.net.parts[key]

    def parameter(self, name: str, *shape: int) -> nn.Parameter:
        """The parameter of that name and shape, made if this is the first use."""
        key = f"{self.name}_{name}_{'x'.join(map(str, shape))}"
        if key not in self.net.tensors:
            self.net.tensors[key] = nn.Parameter(torch.randn(shape) * max(shape[1:], default=4) ** -0.5)
        found: nn.Parameter = self.net.tensors[key]
        return found

    def linear(self, name: str, x: Tensor, to: int, bias: bool = True) -> Tensor:
        """A linear map of the last axis."""
        n = x.shape[-1]
        found: Tensor = self.module(f"{name}_{n}x{to}{'b' if bias else ''}", lambda: nn.Linear(n, to, bias))(x)
        return found

    def other(self, at: int, x: Tensor) -> Tensor:
        """A value that was kept before, or the stream itself."""
        return self.kept[at % len(self.kept)] if self.kept else x


class Net(nn.Module):
    """A described model."""

    def __init__(self, description: Description) -> None:
        from .steps import HEADS, STEMS, STEPS

        super().__init__()
        self.description = description
        self.parts, self.tensors = nn.ModuleDict(), nn.ParameterDict()
        self._stem, self._steps, self._head = STEMS[description.stem], STEPS, HEADS[description.head]
        with torch.no_grad():
            self(*description.inputs())
        self.eval()

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        """All outputs, the head's last."""
        d = self.description
        scope = Scope(self, "stem")
        x = self._stem(scope, given, d.width)
        for i, step in enumerate(d.steps):
            scope.name = f"s{step.get('like', i)}"
            x = self._steps[step["kind"]](scope, x, step)
        scope.name = "head"
        return (*scope.outputs, self._head(scope, x))


def build(description: Description, seed: int = 0) -> Net:
    """The model, with initial parameters of its own for each seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(description)
