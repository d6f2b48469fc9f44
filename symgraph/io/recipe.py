"""Recipes of merges in mergekit's YAML: which models, by which method, with which numbers for which tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from symgraph.errors import UsageError
from symgraph.io.decode import Malformed, decode, parse
from symgraph.io.files import existing

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
# Of the last one mergekit computes otherwise, not something else.
_PARAMETERS = ("weight", "density", "t", "normalize", "rescale", "lambda", "int8_mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeModel:
    """A model, and the numbers that are its own."""

    model: str
    parameters: dict[str, Any] = field(default_factory=dict)
    layer_range: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSlice:
    """Layers of models that are merged."""

    sources: tuple[RecipeModel, ...]
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A merge of whole models.

    A setting is a number; a list of numbers, from the first layer to the last; or a list of `value`s, each with a
    `filter`, of which the first counts whose filter is part of a tensor's name.
    """

    merge_method: str
    models: tuple[RecipeModel, ...] = ()
    slices: tuple[RecipeSlice, ...] = ()
    base_model: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | None = None
    name: str | None = None

    @property
    def ingredients(self) -> tuple[RecipeModel, ...]:
        """The models, in their order."""
        return self.models or self.slices[0].sources

    @property
    def written(self) -> torch.dtype | None:
        """The dtype of the result, where one is named."""
        named = self.out_dtype or self.dtype
        return None if named is None else DTYPES[named]

    def setting(self, key: str, model: RecipeModel | None, tensor: str, depth: float, default: float) -> float:
        """The number of a tensor: the model's own, else that of the recipe.

        Args:
            depth: 0 in the first layer, 1 in the last.

        Raises:
            UsageError: it is no number there.
        """
        places = [model.parameters] if model is not None else []
        places += [s.parameters for s in self.slices] + [self.parameters]
        for place in places:
            if key in place and (found := _evaluated(place[key], tensor, depth, key)) is not None:
                return found
        return default


def read_recipe(source: str | Path | Mapping[str, Any], methods: tuple[str, ...]) -> Recipe:
    """A recipe, from a file of YAML or as it stands there.

    Raises:
        UsageError: it cannot be read, names no method of these, or merges parts of models.
    """
    where, plain = _plain(source)
    try:
        found = decode(Recipe, plain)
    except Malformed as error:
        raise UsageError(f"{where} is no recipe", cause=str(error), remedy=_REMEDY) from error
    if found.merge_method not in methods:
        near = get_close_matches(found.merge_method, methods, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"one of {', '.join(methods)}"
        raise UsageError(f"{where}: there is no method {found.merge_method!r} here", remedy=remedy)
    for problem, remedy in _problems(found):
        raise UsageError(f"{where}: {problem}", remedy=remedy)
    return found


_REMEDY = "a recipe is YAML such as: {merge_method: linear, models: [{model: A}, {model: B}]}"


def _plain(source: str | Path | Mapping[str, Any]) -> tuple[str, Any]:
    if isinstance(source, Mapping):
        return "the recipe", dict(source)
    path = existing(str(source))
    if path is None or not path.is_file():
        what = "there is no such file" if path is None else "it is a folder"
        raise UsageError(f"{source}: {what}", remedy="name a recipe, a file of YAML")
    try:
        return str(source), parse(path.read_text(encoding="utf-8"))
    except (Malformed, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} is no recipe", cause=str(error), remedy=_REMEDY) from error


def _problems(found: Recipe) -> Iterator[tuple[str, str]]:
    """What keeps it from being run, each with what to do."""
    if len(found.slices) > 1:
        yield "it puts layers of models one after the other", "merge whole models: one slice, or `models`"
    elif not found.models and not found.slices:
        yield "it names no models", "list them under `models`, each with `model`"
    elif found.models and found.slices:
        yield "it names models twice, under `models` and under `slices`", "leave one of them out"
    elif len({m.layer_range for m in found.ingredients}) > 1:
        yield "the ranges of layers differ", "merge the same layers of all models"
    elif twice := [m.model for i, m in enumerate(found.ingredients) if m in found.ingredients[:i]]:
        yield f"it names {twice[0]} twice", "leave one of them out, or give it another weight"
    elif found.merge_method != "linear" and found.base_model is None:
        yield f"{found.merge_method} needs a base", "name it as `base_model`"
    held = [found.parameters, *(s.parameters for s in found.slices), *(m.parameters for m in found.models)]
    held += [m.parameters for s in found.slices for m in s.sources]
    for key in (k for parameters in held for k in parameters if k not in _PARAMETERS):
        near = get_close_matches(key, _PARAMETERS, n=1)
        yield f"there is no parameter {key!r}", f"did you mean {near[0]}?" if near else f"{', '.join(_PARAMETERS)}"
    for value in (v for parameters in held for v in _numbers(parameters.get("density", 1))):
        if not 0 <= value <= 1:
            yield f"the density {value:g} is no part of the entries", "give a number from 0 to 1"
    for name in filter(None, (found.dtype, found.out_dtype)):
        if name not in DTYPES:
            yield f"there is no dtype {name!r}", f"one of {', '.join(DTYPES)}"
    if found.tokenizer_source not in (None, "base", "union", *(m.model for m in found.ingredients), found.base_model):
        yield f"there is no tokenizer of {found.tokenizer_source!r}", "base, union, or one of the models"


def _numbers(setting: Any) -> Iterator[float]:
    """All numbers of a setting."""
    if isinstance(setting, int | float):
        yield float(setting)
    parts = [setting.get("value")] if isinstance(setting, Mapping) else setting
    for part in parts if isinstance(parts, list) else ():
        yield from _numbers(part)


def _evaluated(setting: Any, tensor: str, depth: float, key: str) -> float | None:
    """A setting at a tensor; None where no filter fits it."""
    if isinstance(setting, bool | int | float):
        return float(setting)
    if isinstance(setting, Mapping):
        setting = [setting]
    if isinstance(setting, list) and setting and all(isinstance(v, int | float) for v in setting):
        place = depth * (len(setting) - 1)
        start = min(int(place), len(setting) - 1)
        end = min(start + 1, len(setting) - 1)
        return float(setting[start] + (place - start) * (setting[end] - setting[start]))
    if isinstance(setting, list) and all(isinstance(v, Mapping) and "value" in v for v in setting):
        fits = (v["value"] for v in setting if v.get("filter") in (None, "*") or str(v["filter"]) in tensor)
        return next((_evaluated(v, tensor, depth, key) for v in fits), None)
    remedy = "give a number, a list of numbers, or a list of values with filters"
    raise UsageError(f"the recipe's `{key}` is {setting!r}", remedy=remedy)
