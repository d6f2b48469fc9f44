"""Recipes of merges in mergekit's YAML: which models, by which method, with which numbers for which tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from symgraph.errors import UsageError
from symgraph.io.decode import Malformed, decode, parse
from symgraph.io.files import existing
from symgraph.io.mergekit import BASELESS, THEIRS
from symgraph.io.recipe_numbers import evaluated, filters, numbers

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
    base_model: str | None = None

    @property
    def layers(self) -> tuple[int, int] | None:
        """The first layer, and the one after the last; None of all."""
        return self.sources[0].layer_range if self.sources else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeTokenizer:
    """Whose tokens the result has: all models' (union), those of the base, or those of the model that is named."""

    source: str = "union"
    pad_to_multiple_of: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is: in which layer of how many; outside of layers, before them or after."""

    layer: int | None = None
    layers: int = 1
    after: bool = False


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
    tokenizer: RecipeTokenizer | None = None
    name: str | None = None

    @property
    def ingredients(self) -> tuple[RecipeModel, ...]:
        """The models, in their order."""
        return self.models or self.slices[0].sources

    @property
    def names(self) -> list[str]:
        """The names of all models, each once: the base first, where there is one."""
        listed = (model.model for model in self.ingredients)
        return list(dict.fromkeys([*([self.base] if self.base else []), *listed]))

    @property
    def all_parameters(self) -> Iterator[dict[str, Any]]:
        """The settings of the recipe, of its slices and of its models."""
        yield self.parameters
        yield from (model.parameters for model in self.models)
        for part in self.slices:
            yield from (part.parameters, *(source.parameters for source in part.sources))

    @property
    def filters(self) -> list[str]:
        """All parts of names of tensors that settings ask for."""
        settings = (setting for parameters in self.all_parameters for setting in parameters.values())
        return list(dict.fromkeys(part for setting in settings for part in filters(setting)))

    @property
    def base(self) -> str | None:
        """The model that others are compared with, where one is named."""
        return self.base_model or next((part.base_model for part in self.slices if part.base_model), None)

    @property
    def tokens(self) -> RecipeTokenizer | None:
        """Whose tokens the result has, where the recipe says so."""
        return self.tokenizer or (RecipeTokenizer(source=self.tokenizer_source) if self.tokenizer_source else None)

    @property
    def written(self) -> torch.dtype | None:
        """The dtype of the result, where one is named."""
        named = self.out_dtype or self.dtype
        return None if named is None else DTYPES[_plain_dtype(named)]

    def renamed(self, names: Mapping[str, str]) -> Recipe:
        """The same with other names for its models."""

        def name(model: str | None) -> str | None:
            return names.get(model, model) if model is not None else None

        def models(listed: tuple[RecipeModel, ...]) -> tuple[RecipeModel, ...]:
            return tuple(replace(source, model=names.get(source.model, source.model)) for source in listed)

        slices = tuple(
            replace(part, sources=models(part.sources), base_model=name(part.base_model)) for part in self.slices
        )
        return replace(self, models=models(self.models), slices=slices, base_model=name(self.base_model))

    def setting(self, key: str, model: RecipeModel | None, tensor: str, place: Place, default: float) -> float:
        """The number of a tensor: the model's own, else that of its layers, else that of the recipe.

        Raises:
            UsageError: it is no number there.
        """
        layers = self._layers(place)
        held = [] if model is None else [_there(model, layers).parameters]
        held += [self.parameters] if layers is None else [layers.parameters, self.parameters]
        for parameters in held:
            setting = evaluated(parameters[key], tensor, _depth(place, layers), key) if key in parameters else None
            if setting is not None:
                return setting
        return default

    def _layers(self, place: Place) -> RecipeSlice | None:
        """The slice that a tensor is of: outside of layers that of the first or the last."""
        if place.layer is None:
            return self.slices[-1 if place.after else 0] if self.slices else None
        within = (part for part in self.slices if part.layers is None or part.layers[0] <= place.layer < part.layers[1])
        return next(within, None)


def _there(model: RecipeModel, layers: RecipeSlice | None) -> RecipeModel:
    """A model as the source of some layers."""
    sources = layers.sources if layers else ()
    return model if model in sources else next((source for source in sources if source.model == model.model), model)


def _depth(place: Place, layers: RecipeSlice | None) -> float:
    """0 in the first layer of a slice, and outside of all; 1 in the last."""
    if place.layer is None:
        return 0.0
    first, end = (layers.layers if layers else None) or (0, place.layers)
    return (place.layer - first) / (end - 1 - first) if end - first > 1 else 1.0


def read_recipe(source: str | Path | Mapping[str, Any], methods: tuple[str, ...]) -> Recipe:
    """A recipe, from a file of YAML or as it stands there.

    Raises:
        UsageError: it cannot be read, names no method of these or of mergekit, or merges parts of models.
    """
    where, plain = _plain(source)
    try:
        recipe = decode(Recipe, plain)
    except Malformed as error:
        raise UsageError(f"{where} is no recipe", cause=str(error), remedy=_REMEDY) from error
    if recipe.merge_method not in (*methods, *THEIRS):
        near = get_close_matches(recipe.merge_method, (*methods, *THEIRS), n=1)
        remedy = f"did you mean {near[0]}?" if near else f"one of {', '.join(methods)}"
        raise UsageError(f"{where}: there is no method {recipe.merge_method!r} here", remedy=remedy)
    for problem, remedy in _problems(recipe):
        raise UsageError(f"{where}: {problem}", remedy=remedy)
    return recipe


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


def _problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What keeps it from being run, each with what to do."""
    if not recipe.models and not recipe.slices:
        yield "it names no models", "list them under `models`, each with `model`"
    elif recipe.models and recipe.slices:
        yield "it names models twice, under `models` and under `slices`", "leave one of them out"
    yield from _layer_problems(recipe.slices)
    if twice := next(
        (
            ingredient.model
            for number, ingredient in enumerate(recipe.ingredients)
            if ingredient in recipe.ingredients[:number]
        ),
        None,
    ):
        yield f"it names {twice} twice", "leave one of them out, or give it another weight"
    elif recipe.merge_method not in ("linear", *BASELESS) and recipe.base is None:
        yield f"{recipe.merge_method} needs a base", "name it as `base_model`"
    elif recipe.merge_method == "slerp" and len(recipe.names) != 2:
        yield f"slerp is between two models, and there are {len(recipe.names)}", "name one beside the base"
    yield from _parameter_problems(recipe)
    for name in filter(None, (recipe.dtype, recipe.out_dtype)):
        if _plain_dtype(name) not in DTYPES:
            yield f"there is no dtype {name!r}", f"one of {', '.join(DTYPES)}"
    yield from _tokenizer_problems(recipe)


def _layer_problems(slices: Sequence[RecipeSlice]) -> Iterator[tuple[str, str]]:
    whole = "merge whole models: slices that follow each other, each over the same layers of the same models"
    ranges = [part.layers for part in slices]
    if any(not part.sources for part in slices):
        yield "a slice has no sources", "list them under `sources`, each with `model` and `layer_range`"
    elif any(len({source.layer_range for source in part.sources}) > 1 for part in slices):
        yield "the ranges of layers differ", "merge the same layers of all models"
    elif len({frozenset(source.model for source in part.sources) for part in slices}) > 1:
        yield "it puts layers of models one after the other", whole
    elif len({part.base_model for part in slices}) > 1:
        yield "its slices have different bases", "name one as `base_model`"
    elif any(one is None or other is None or one[1] != other[0] for one, other in pairwise(ranges)):
        yield "its slices do not follow each other", whole
    elif ranges and ranges[0] is not None and ranges[0][0] != 0:
        yield f"it leaves out the first {ranges[0][0]} layers", whole
    elif any(layers and layers[0] >= layers[1] for layers in ranges):
        yield "a range of layers is empty", "give the first layer, and the one after the last"


def _parameter_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    held = list(recipe.all_parameters)
    known = THEIRS.get(recipe.merge_method, _PARAMETERS)
    for key in (key_given for parameters in held for key_given in parameters if key_given not in known):
        near = get_close_matches(key, known, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
        yield f"there is no parameter {key!r} of {recipe.merge_method}", remedy
    for value in (number_given for parameters in held for number_given in numbers(parameters.get("density", 1))):
        if not 0 <= value <= 1:
            yield f"the density {value:g} is no part of the entries", "give a number from 0 to 1"


def _tokenizer_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    wanted = recipe.tokens
    if wanted is None:
        return
    if recipe.tokenizer and recipe.tokenizer_source:
        yield "it says twice whose tokens it has", "leave out `tokenizer_source`"
    if wanted.source not in ("base", "union", *(ingredient.model for ingredient in recipe.ingredients), recipe.base):
        yield f"there is no tokenizer of {wanted.source!r}", "base, union, or one of the models"
    if wanted.pad_to_multiple_of is not None and wanted.pad_to_multiple_of < 1:
        yield f"no number of rows is a multiple of {wanted.pad_to_multiple_of}", "give 1 or more"


def _plain_dtype(name: str) -> str:
    return name.removeprefix("torch.")
