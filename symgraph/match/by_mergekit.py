"""Recipes run by mergekit on models that are in one basis, and its result checked before it counts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.io import checkpoint
from symgraph.io.checkpoint import read_state
from symgraph.io.decode import brief
from symgraph.io.mergekit import Run
from symgraph.io.models import Model
from symgraph.io.recipe import Recipe
from symgraph.measure.mixture import State, moves
from symgraph.tracing.deferred import cast

# What mergekit asks for where we have defaults.
_USUAL = {"weight": 1.0, "t": 0.5}
# What is done here: tokens are joined before, and what is written is rounded after.
_OURS = ("name", "out_dtype", "tokenizer", "tokenizer_source")


def check_readable(models: Iterable[Model]) -> None:
    """Raise for models that mergekit does not read.

    Raises:
        UsageError: one is none of transformers.
    """
    for other in (model.spec for model in models if model.config is None):
        remedy = "name checkpoints, or take a method that symgraph has"
        raise UsageError(f"mergekit reads models of transformers, and {other} is none", remedy=remedy)


@dataclass(frozen=True, slots=True)
class ByMergekit:
    """A recipe for mergekit, on models of one shape with their states, by their names."""

    recipe: Recipe
    models: Mapping[str, Model]
    states: Mapping[str, State]
    seed: int
    trusted: Mapping[str, Any]
    scratch: str | Path | None = None

    def state(self, stored: Mapping[str, torch.dtype]) -> State:
        """All tensors, in these dtypes; integers, and statistics of norms, are those of the base.

        Raises:
            CheckpointError: mergekit failed, or what it wrote is not the merge.
        """
        first = next(iter(self.states))
        fixed = {name for name, _ in self.models[first].module.named_buffers()}
        # It is only here for a while: rounded once, in the end.
        wide = torch.float64 if torch.float64 in stored.values() else torch.float32
        with tempfile.TemporaryDirectory(prefix=".mergekit-", dir=self.scratch) as name:
            folder = Path(name)
            places = {n: self._written(n, folder / str(i), wide) for i, n in enumerate(self.states)}
            found = Run(folder, places[first], wide).merge(self._plain(places, wide), self.seed, self.trusted)
            merged = read_state(found)
        own = self.states[first]
        mixed = {name for name, tensor in own.items() if moves(tensor) and name not in fixed and name in merged}
        # What is one tensor under several names stays one.
        once: dict[int, Tensor] = {}
        for n, tensor in own.items():
            once.setdefault(id(tensor), cast(merged[n], stored.get(n, tensor.dtype)) if n in mixed else tensor)
        return {name: once[id(tensor)] for name, tensor in own.items()}

    def _written(self, name: str, folder: Path, dtype: torch.dtype) -> Path:
        state = self.states[name]
        stored = {name: dtype if tensor.dtype.is_floating_point else tensor.dtype for name, tensor in state.items()}
        return checkpoint.write(self.models[name], state, folder, stored=stored)

    def _plain(self, places: Mapping[str, Path], dtype: torch.dtype) -> dict[str, Any]:
        """The recipe with paths in the place of names; tokens are joined already."""
        named = self.recipe.renamed({name: str(p) for name, p in places.items()})
        # mergekit would add it to the mean.
        unread = named.merge_method == "linear" and named.base not in {
            ingredient.model for ingredient in named.ingredients
        }
        parameters = {**_USUAL, **named.parameters}
        plain: dict[str, Any] = brief(replace(named, base_model=None if unread else named.base, parameters=parameters))
        kept = {k: v for k, v in plain.items() if k not in _OURS}
        return {**kept, "dtype": str(dtype).removeprefix("torch.")}
