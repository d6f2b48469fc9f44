"""The config of a smaller shape, found by experiment: no field is known by its name.

A number of the config (in lists and in parts of it as well) is changed in the proportion of a space, and the model is
made anew on the meta device. Where that changes shapes as predicted and in no other way, the change is kept; the config
is found when all shapes are as predicted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import nn

from symgraph.io.models import quiet
from symgraph.resize.smaller import Smaller
from symgraph.resize.stored_shapes import Shapes
from symgraph.tracing.meta import weightless

Path = tuple[str | int, ...]
Change = tuple[Path, int | float]
# So many changes are tried two at a time, where they are refused alone (heads and their groups).
PAIRED = 12


def smaller_config(module: Any, wanted: Smaller) -> Any | None:
    """A config of the module's class that gives it the wanted shapes; None where none was found."""
    plain = module.config.to_dict()
    search = _Search(module, wanted)
    for unset in (False, True):
        plain = search.improved(plain, list(_changes(plain, wanted.ratios, unset=unset)))
        if not search.wrong(search.shapes(plain)):
            return type(module.config).from_dict(plain)
    return None


def instance(module: Any, config: Any) -> nn.Module:
    """A module of the same class with a config, on the device and in the precision that are set; in evaluation mode."""
    with quiet():
        made: nn.Module = type(module)._from_config(copy.deepcopy(config), dtype=module.dtype)
    return made.eval()


@dataclass
class _Search:
    """What configs make of the shapes, against what is predicted."""

    module: Any
    wanted: Smaller
    known: dict[str, Shapes | None] = field(default_factory=dict)

    def improved(self, plain: dict[str, Any], changes: list[Change]) -> dict[str, Any]:
        """The config with every change that brings it nearer to the wanted shapes, alone or two at a time."""
        left = self._wrong(plain)
        for group in [*((change,) for change in changes), *combinations(changes[:PAIRED], 2)]:
            if left == 0:
                break
            trial = _with(plain, dict(group))
            now = self._wrong(trial)
            if now is not None and left is not None and now < left:
                plain, left = trial, now
        return plain

    def _wrong(self, plain: Mapping[str, Any]) -> int | None:
        return self.wrong(self.shapes(plain))

    def wrong(self, shapes: Shapes | None) -> int | None:
        """How many lengths are not yet as predicted; None where one is neither that nor what it was."""
        before, after = self.wanted.before, self.wanted.after
        if shapes is None:
            return None
        count = len(shapes.keys() & self.wanted.gone)
        for name, shape in shapes.items():
            if len(shape) != len(before.get(name, shape)):
                return None
            for now, old, new in zip(shape, before.get(name, shape), after.get(name, shape), strict=True):
                if now not in (old, new):
                    return None
                count += now != new
        return count

    def shapes(self, plain: Mapping[str, Any]) -> Shapes | None:
        """The shapes of parameters and buffers under a config; None where there is no such model."""
        key = repr(plain)
        if key not in self.known:
            self.known[key] = self._made(plain)
        return self.known[key]

    def _made(self, plain: Mapping[str, Any]) -> Shapes | None:
        # Whatever a config class or a model finds wrong with sizes that nobody has tried.
        try:
            with weightless(), torch.random.fork_rng(devices=()):
                made = instance(self.module, type(self.module.config).from_dict(copy.deepcopy(dict(plain))))
        except Exception:
            return None
        shapes, own = _shapes(made), _shapes(self.module)
        moved = {name for name in shapes.keys() & own.keys() if shapes[name] != own[name]}
        there = own.keys() - self.wanted.gone <= shapes.keys() <= own.keys()
        return shapes if there and moved <= self.wanted.after.keys() else None


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def _changes(plain: Mapping[str, Any], ratios: tuple[tuple[int, int], ...], *, unset: bool) -> Iterator[Change]:
    """Numbers in the proportion of a space, and where asked for what a space has in the place of a setting not made."""
    for path, value in _settings(plain, ()):
        for old, new in ratios:
            if value is None:
                if unset:
                    yield path, new
            elif isinstance(value, float):
                yield path, value * new / old
            elif value * new % old == 0 and value > 1:
                yield path, value * new // old


def _settings(value: Any, path: Path) -> Iterator[tuple[Path, int | float | None]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _settings(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _settings(inner, (*path, number))
    elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield path, value


def _with(plain: Mapping[str, Any], changes: Mapping[Path, int | float]) -> dict[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(dict(plain))
    for path, value in changes.items():
        at: Any = changed
        for key in path[:-1]:
            at[key] = list(at[key]) if isinstance(at[key], tuple) else at[key]
            at = at[key]
        at[path[-1]] = value
    return changed
