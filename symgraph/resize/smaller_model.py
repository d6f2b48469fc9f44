"""A model in a smaller shape, whose weights mean nothing yet: by a config of its class, or as a copy of the module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from symgraph.errors import CheckpointError, TraceError, UsageError, one_line
from symgraph.inference.read_forms import as_read
from symgraph.io.models import Model
from symgraph.ir import Tensor as Meta
from symgraph.resize.lifting import length_in
from symgraph.resize.smaller import Smaller
from symgraph.resize.smaller_config import instance, smaller_config
from symgraph.resize.smaller_module import smaller_module
from symgraph.resize.smaller_numbers import with_numbers
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import example_inputs
from symgraph.tracing.wrap import is_pretrained

_Read = TypeVar("_Read")


def smaller_model(model: Model, wanted: Smaller) -> tuple[Model, tuple[str, ...]]:
    """A model in the wanted shape, whose weights mean nothing yet, and what is to be said of it."""
    if is_pretrained(model.module):
        config = smaller_config(model.module, wanted)
        if config is not None:
            module = instance(model.module, config)
            return replace(model, module=module, config=config, files=()), ()
    module = smaller_module(model.module, wanted.after, wanted.gone)
    args, named = _inputs(model)
    changes = with_numbers(module, model.module, wanted, args, named)
    why = "no config of its class has these sizes: " if is_pretrained(model.module) else ""
    notes = [f"{why}a copy of the module with smaller parameters"]
    notes += [f"numbers of its code changed: {', '.join(map(str, changes))}"] if changes else []
    return replace(model, module=module, config=None, files=()), tuple(notes)


def _inputs(model: Model) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs that the model runs on."""
    own = model.example if model.example is not None else example_inputs(model.module)
    return ((), dict(own)) if isinstance(own, Mapping) else (tuple(own), {})


def read_of(like: Model, read: Callable[[], _Read]) -> _Read:
    """What is read of a model in a smaller shape, whose module is run for it.

    Raises:
        UsageError: it does not run.
    """
    try:
        return read()
    except (TraceError, CheckpointError) as error:
        raise _written_in(like, f"with smaller parameters it does not run: {one_line(error)}") from error


def _written_in(like: Model, cause: str) -> UsageError:
    remedy = "let the code take its sizes from its parameters, or prune other spaces"
    return UsageError(f"{like.spec} cannot be pruned: its code has sizes written in", cause=cause, remedy=remedy)


def check_lengths(like: Model, symmetry: SymmetryGraph, fewer: SymmetryGraph, wanted: Smaller) -> None:
    """Raise where a value is not as long as it should be: code may run in a shape that is wrong."""
    symmetry, fewer = as_read(symmetry), as_read(fewer)
    read = {*symmetry.graph.outputs, *(name for name, users in symmetry.graph.users.items() if users)}
    for before, now in zip(symmetry.graph.nodes, fewer.graph.nodes, strict=False):
        axes = symmetry.values.get(before.name) if before.name in read else None
        if axes is None or before.target != now.target or not isinstance(now.result, Meta):
            continue
        expected = tuple(length_in(term, wanted.sizes) for term in axes)
        if expected != tuple(now.shape):
            raise _written_in(like, f"{now.where} makes {tuple(now.shape)} where {expected} is expected")
