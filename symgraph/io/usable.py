"""Whether weights can be computed with: neither quantised, nor infinite, nor no numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from symgraph.errors import CheckpointError, shorten
from symgraph.io.state import check_finite, stored_shape


def check_integers(module: nn.Module, spec: str, stored: Mapping[str, tuple[Path, torch.dtype]]) -> None:
    """Raises where parameters are of a type that nothing can be computed in.

    Raises:
        CheckpointError: naming them.
    """
    state = module.state_dict()
    floating = {n for n, t in state.items() if t.is_floating_point()}
    # Transformers renames some tensors while loading. Of those that no name is known for, masks and positions may be
    # integers; what is called like a parameter and has as many axes is one.
    forms = {(n.rpartition(".")[2], p.ndim) for n, p in module.named_parameters()}
    found = [n for n, p in module.named_parameters() if not computable(p.dtype)]
    for n, (file, dtype) in stored.items():
        if not computable(dtype) and (n in floating or (n not in state and _form(file, n) in forms)):
            found.append(n)
    if found:
        raise CheckpointError(
            f"{spec}: the weights are quantised",
            cause=f"integers or 8-bit floats in {shorten(found)}",
            remedy="name the checkpoint in float32, float16 or bfloat16 that it was made from",
        )


def _form(file: Path, name: str) -> tuple[str, int]:
    return name.rpartition(".")[2], len(stored_shape(file, name))


def computable(dtype: torch.dtype) -> bool:
    """Whether a weight of that type stands for itself: integers and 8-bit floats are quantised."""
    return dtype.is_complex or (dtype.is_floating_point and dtype.itemsize > 1)


def check_values(module: nn.Module, spec: str) -> None:
    """Raises where a weight is not finite.

    Raises:
        CheckpointError: naming the tensors.
    """
    # Attention masks kept as buffers hold minus infinity by design.
    check_finite(module.state_dict(), where=spec, infinite_ok={n for n, _ in module.named_buffers()})
