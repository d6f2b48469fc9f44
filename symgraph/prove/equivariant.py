"""Whether a module is equivariant, f(g x) = g f(x): in the user's own module, on its example inputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import VerifyError
from symgraph.inference.open_ends import first_output
from symgraph.orbit.representation import Axes, Representation, shape_of
from symgraph.tracing.sampling import float64
from symgraph.tracing.wrap import evaluating

# An angle that no finite group of turns has.
_ANGLE = 1.0
_TOLERANCE = 1e-7


def acted(tensor: Tensor, axes: Axes, actions: Mapping[str, Tensor]) -> Tensor:
    """A tensor after an element has acted: matrices (n, n) by the names of axes."""
    sizes = {name: len(matrix) for name, matrix in actions.items()}
    moved = tensor.reshape(shape_of(axes, tuple(tensor.shape), sizes, "the tensor"))
    for dim, name in enumerate(name for names in axes for name in names):
        if name in actions:
            moved = torch.tensordot(actions[name].to(moved), moved, dims=([1], [dim])).movedim(0, dim)
    return moved.reshape(tensor.shape)


@torch.no_grad()
def unequal(
    module: nn.Module, call: Mapping[str, Any], representation: Representation, state: Mapping[str, Tensor]
) -> dict[str, float]:
    """How far f(g x) is from g f(x), relative to f, for every generator, in float64 where the code can."""
    model = copy.deepcopy(module).double()
    given = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in call.items()
    }
    weights = float64(state)

    def outputs(moved: Mapping[str, Any]) -> Tensor:
        return first_output(torch.func.functional_call(model, weights, (), {**given, **moved}))

    changes = {}
    with evaluating(model):
        plain = outputs({})
        for name, actions in zip(representation.group, representation.generators(_ANGLE), strict=True):
            moved = {name: acted(given[name], axes, actions) for name, axes in representation.input_axes.items()}
            wanted = acted(plain, representation.output_axes, actions)
            scale = float(wanted.abs().max()) or 1.0
            changes[name] = float((outputs(moved) - wanted).abs().max()) / scale
    return changes


def require_equivariant(
    module: nn.Module, call: Mapping[str, Any], representation: Representation, state: Mapping[str, Tensor]
) -> None:
    """Raise where f(g x) = g f(x) fails on the example inputs.

    Raises:
        VerifyError: naming the generator and by how much.
    """
    changes = unequal(module, call, representation, state)
    worst = max(changes, key=changes.__getitem__)
    if not changes[worst] <= _TOLERANCE:
        raise VerifyError(
            f"f(g x) = g f(x) fails for {worst!r}: the outputs differ by {changes[worst]:.1e} of their size",
            cause="the weights were projected on those that the group does not move; so the actions on inputs and "
            "output are not those of one group, or a space carries what the operators on it do not admit",
            remedy="check the actions on one input by hand; or let spaces stay: hidden: {'*': trivial}",
        )
