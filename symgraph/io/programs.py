"""Models that are traced already: exported programs, files of them, and torch.fx graphs."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from symgraph.errors import CheckpointError, one_line
from symgraph.io.example import Call, example_of
from symgraph.io.files import atomic_path

SUFFIX = ".pt2"


def load_program(path: Path) -> ExportedProgram:
    """An exported program from the file that `torch.export.save` wrote; tensors are all that is unpickled.

    Raises:
        CheckpointError: it is something else.
    """
    try:
        # Torch falls back to unpickling anything.
        with patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):
            return torch.export.load(path)
    except Exception as e:
        remedy = "write it with torch.export.save, by the torch that is installed here"
        raise CheckpointError(f"{path} is no exported program", cause=one_line(e), remedy=remedy) from e


def save_program(program: ExportedProgram, path: Path, *, overwrite: bool = False) -> Path:
    """Writes an exported program to a file that `torch.export.load` reads."""
    with atomic_path(path, overwrite=overwrite) as temporary, open(temporary, "wb") as file:
        torch.export.save(program, file)
    return path


def module_of(program: ExportedProgram) -> nn.Module:
    """The program as a module that can be called, moved and copied."""
    return callable_module(program.module(check_guards=False))


def callable_module(module: nn.Module) -> nn.Module:
    """A module whose modes can be set: those of exported programs refuse that, and compute the same in both."""
    if not {"eval", "train"} & vars(module).keys():
        return module
    copied = copy.copy(module)
    for name in ("eval", "train"):
        vars(copied).pop(name, None)
    return copied


def own_example(given: ExportedProgram | nn.Module, module: nn.Module) -> Call | None:
    """The inputs that a program was exported with, or others of the shapes that the inputs of a traced graph have."""
    if isinstance(given, ExportedProgram):
        return None if given.example_inputs is None else _called(module, *given.example_inputs)
    if not isinstance(given, fx.GraphModule):
        return None
    described = [_described(node) for node in given.graph.nodes if node.op == "placeholder"]
    if not described or not all(isinstance(tensor, Tensor) for tensor in described):
        return None
    inputs = [_like(tensor) for tensor in described if isinstance(tensor, Tensor)]
    form = getattr(given, "_in_spec", None)
    return tuple(inputs) if form is None else _called(module, *pytree.tree_unflatten(inputs, form))


def with_weights(program: ExportedProgram, state: Mapping[str, Tensor]) -> ExportedProgram:
    """The same program with other tensors under the names of its state."""
    copied = copy.copy(program)
    changed = {name: _in_place_of(tensor, state.get(name)) for name, tensor in program.state_dict.items()}
    copied._state_dict = changed
    return copied


def _in_place_of(own: Tensor, given: Tensor | None) -> Tensor:
    if given is None:
        return own
    placed = given.detach().to(own.device, own.dtype, copy=True)
    return nn.Parameter(placed, own.requires_grad) if isinstance(own, nn.Parameter) else placed


def _called(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> Call | None:
    if not kwargs:
        return example_of(module, tuple(args))
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def _described(placeholder: fx.Node) -> Any:
    return placeholder.meta.get("val", placeholder.meta.get("example_value"))


def _like(described: Tensor) -> Tensor:
    """Numbers of a shape and a dtype: random ones, or zeros where they are counted or looked up."""
    shape = [int(size) for size in described.shape]
    if not described.is_floating_point():
        return torch.zeros(shape, dtype=described.dtype)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(described.dtype)
