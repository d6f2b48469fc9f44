"""Small nets made of one function, and checks from outside: in the user's module, in eager mode and in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from symgraph import infer
from symgraph.prove.verify import random_transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace


class Net(nn.Module):
    """`forward` is a function of the net and its inputs; tensors become parameters, (tensor, stored) buffers."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, tuple):
                self.register_buffer(name, part[0], persistent=part[1])
            else:
                setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def spread(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in evaluation, with no parameter at a special point."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model.eval()


def error(model: nn.Module, inputs: tuple[Tensor, ...], found: SymmetryGraph | None = None, seed: int = 0) -> float:
    """How far f(g theta) is from f(theta), by the module itself, for random elements of all inferred groups at once."""
    symmetry = found if found is not None else infer(trace(model, inputs))
    wide = copy.deepcopy(model).double()
    given = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    state = {k: v.detach().to(torch.complex128) if v.is_complex() else v.detach() for k, v in state_of(wide).items()}
    moved = random_transform(symmetry, state, torch.Generator().manual_seed(seed)).apply(state)
    own = dict(wide.named_parameters()) | dict(wide.named_buffers())
    with torch.no_grad():
        before, after = (
            torch.func.functional_call(wide, {k: v for k, v in s.items() if k in own}, given) for s in (state, moved)
        )
    return float((before - after).abs().max() / before.abs().max())
