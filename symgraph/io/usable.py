"""Whether weights can be computed with: neither quantised, nor infinite, nor no numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from symgraph.errors import CheckpointError, shorten
from symgraph.io.ranks import current
from symgraph.io.shards import Stored
from symgraph.io.state import check_finite, state_hash
from symgraph.io.sums import noted
from symgraph.tracing.deferred import Deferred


def check_integers(module: nn.Module, spec: str, stored: Mapping[str, Stored]) -> None:
    """Raises where parameters are of a type that nothing can be computed in.

    Raises:
        CheckpointError: naming them.
    """
    state = module.state_dict()
    floating = {name for name, tensor in state.items() if tensor.is_floating_point()}
    # Transformers renames some tensors while loading. Of those that no name is known for, masks and positions may be
    # integers; what is called like a parameter and has as many axes is one.
    forms = {(name.rpartition(".")[2], parameter.ndim) for name, parameter in module.named_parameters()}
    unusable = [name for name, parameter in module.named_parameters() if not computable(parameter.dtype)]
    for name, kept in stored.items():
        form = name.rpartition(".")[2], len(kept.shape)
        if not computable(kept.dtype) and (name in floating or (name not in state and form in forms)):
            unusable.append(name)
    if unusable:
        raise CheckpointError(
            f"{spec}: the weights are quantised",
            cause=f"integers or 8-bit floats in {shorten(unusable)}",
            remedy="name the checkpoint in float32, float16 or bfloat16 that it was made from",
        )


def computable(dtype: torch.dtype) -> bool:
    """Whether a weight of that type stands for itself: integers and 8-bit floats are quantised."""
    return dtype.is_complex or (dtype.is_floating_point and dtype.itemsize > 1)


def check_values(module: nn.Module, spec: str) -> None:
    """Raises where a weight is not finite; of several processes the first one looks.

    Raises:
        CheckpointError: naming the tensors.
    """
    if not current().is_first:
        return
    state = module.state_dict()
    if all(isinstance(tensor, Deferred) for tensor in state.values()):
        # Whatever is asked of weights that stay in their files, this pass over them answers.
        state_hash(state, noted)
    # Attention masks kept as buffers hold minus infinity by design.
    check_finite(state, where=spec, infinite_ok={name for name, _ in module.named_buffers()})
