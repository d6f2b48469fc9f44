"""Tied embeddings: keep them, which restricts the group, or untie them, which costs parameters."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

from symgraph.errors import UsageError, argument
from symgraph.io.checkpoint import tied_names
from symgraph.io.models import Model, quiet
from symgraph.tracing.meta import weightless


@dataclass(frozen=True, slots=True)
class Untied:
    """A model with its ties cut, and what that costs."""

    model: Model
    cut: tuple[str, ...]
    added: int

    def __str__(self) -> str:
        return f"untied {', '.join(self.cut)}: {self.added:,} more parameters, and a larger group"


def untie(model: Model) -> Untied:
    """The same function without shared tensors, in a config that says so.

    Raises:
        UsageError: the model has no ties, or its class has no option to untie them.
    """
    ties = tied_names(model.module)
    if not ties:
        return Untied(model, (), 0)
    if model.config is None or not hasattr(model.config, "tie_word_embeddings"):
        raise UsageError(
            f"{model.spec}: {', '.join(sorted(ties))} cannot be untied",
            cause="only a transformers config with tie_word_embeddings says how to build the model without ties",
            remedy=argument("tied", "keep"),
        )
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = False
    with quiet(), weightless():
        built: Any = type(model.module)
        shell = built._from_config(config)
    state = model.module.state_dict(keep_vars=True)
    untied = {
        name: state[name].detach().clone() if name in ties else state[name].detach() for name in shell.state_dict()
    }
    shell.load_state_dict(untied, assign=True)
    _buffers(model.module, shell)
    left = tied_names(shell)
    if left:
        names = ", ".join(sorted(left))
        raise UsageError(
            f"{model.spec}: its class ties {names} whatever the config says", remedy=argument("tied", "keep")
        )
    cut = tuple(sorted(ties))
    return Untied(replace(model, module=shell.eval(), config=config), cut, sum(untied[name].numel() for name in cut))


def _buffers(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Buffers that checkpoints do not store, which `load_state_dict` leaves on the meta device."""
    values = dict(source.named_buffers())
    for name, buffer in list(target.named_buffers()):
        if buffer.is_meta and name in values:
            owner, _, leaf = name.rpartition(".")
            target.get_submodule(owner).register_buffer(leaf, values[name], persistent=False)
