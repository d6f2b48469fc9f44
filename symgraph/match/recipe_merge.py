"""Merging by a recipe: all models are brought into the basis of its base first, then it is run, tensor by tensor."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import UsageError, argument
from symgraph.inference.sources import model, with_inputs
from symgraph.io.checkpoint import dtypes, module_hash
from symgraph.io.example import Size
from symgraph.io.mergekit import INSTALL, THEIRS, command
from symgraph.io.models import Model
from symgraph.io.options import given as given_settings
from symgraph.io.ranks import current
from symgraph.io.recipe import Place, Recipe, RecipeModel, read_recipe
from symgraph.io.state import check_finite
from symgraph.match.by_mergekit import ByMergekit, check_readable
from symgraph.match.cards import Ingredient, merged_ingredient
from symgraph.match.match_options import MatchOptions, UniverseSettings
from symgraph.match.merge import Merged, together, widest, with_all_rows
from symgraph.match.one_basis import Universe, shared_rows
from symgraph.match.recipe_places import check_reach, labels_of, places_of
from symgraph.measure.blending import DELTAS, METHODS, Deltas, deltas, linear, slerp
from symgraph.measure.mixture import State, moves
from symgraph.resize.overlap import Overlap, placed_in
from symgraph.resize.token_rows import WantedTokens
from symgraph.tracing.deferred import Deferred, made

ENGINES = ("symgraph", "mergekit")


def merge_by_recipe(
    recipe: str | Path | Mapping[str, Any],
    *,
    example: Any = None,
    input_size: Size | None = None,
    align: bool = True,
    models: Any = None,
    options: MatchOptions | Mapping[str, Any] | None = None,
    seed: int = 0,
    by: str = "",
    trust_remote_code: bool = False,
    model_class: str | None = None,
    **settings: Any,
) -> Merged:
    """Brings all models of a recipe into the basis and gauge of its base, and merges them as it says.

    Args:
        recipe: a file in mergekit's YAML, or what stands in one: linear, slerp, task_arithmetic, ties, dare_linear or
            dare_ties; settings by layer and by filter; dtype.
        example, input_size: inputs of modules that bring none, or the shape of one, as for `trace`.
        align: whether to align; models that were tuned from one checkpoint may be aligned already.
        models: models in any form, by the names that the recipe has for them, in the place of what these name.
        options: how to match.
        seed: of what DARE drops.
        by: who runs the recipe, "symgraph" or "mergekit"; by default the latter for methods that only it has.
        trust_remote_code, model_class: of checkpoints, as for `symgraph.model`.
        settings: fields of `UniverseSettings`: rules, device, and more.

    Raises:
        UsageError: the recipe cannot be read, or asks for what is not here.
        CheckpointError: the architectures differ, a weight is not finite, or mergekit has left out tensors.

    >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> recipe = {"merge_method": "slerp", "base_model": "a", "models": [{"model": "a"}, {"model": "b"}],
    ...           "parameters": {"t": 0.5}}
    >>> symgraph.merge_by_recipe(recipe, models={"a": make(), "b": make()}, example=torch.randn(5, 6)).method
    'slerp'
    """
    wanted = read_recipe(recipe, METHODS)
    by = _engine(by, wanted.merge_method)
    trusted: dict[str, Any] = {"trust_remote_code": trust_remote_code, "model_class": model_class}
    found = [with_inputs(model, example, input_size) for model in _models(wanted, models, trusted)]
    check_reach(wanted, found[0])
    if by == "mergekit":
        check_readable(found)
    ingredients = _ingredients(wanted, found)
    there = _in_one_basis(wanted, found, options, align=align, **settings)
    state = there.merged(wanted, by, seed, trusted, settings.get("scratch"))
    method = wanted.merge_method + (" by mergekit" if by == "mergekit" else "")
    about = (there.shared.notes, there.shared.tokenizer) if there.shared else ((), None)
    return Merged(there.written, state, ingredients, there.universe, "", method, *about)


def _ingredients(recipe: Recipe, found: Sequence[Model]) -> tuple[Ingredient, ...]:
    """What the card says of the models, as they are before anything is done."""
    hashes = current().sent(0, lambda: [module_hash(m.module) for m in found])
    roles = ["base" if name == recipe.base else "merged" for name in recipe.names]
    return tuple(map(merged_ingredient, roles, found, hashes))


def _models(recipe: Recipe, models: Any, trusted: Mapping[str, Any]) -> list[Model]:
    """The models of a recipe, in the order of their names: as they were given, or as they are named."""
    if models is not None and not isinstance(models, Mapping):
        named = ", ".join(f"{name!r}: ..." for name in recipe.names)
        raise UsageError("the models have no names", remedy=f"give them by those of the recipe, models={{{named}}}")
    given = dict(models or {})
    return [model(given.get(name, name), **trusted) for name in recipe.names]


@dataclass(frozen=True, slots=True)
class _Together:
    """The models of a recipe in one basis, their states there, and the dtypes that they came in.

    `written` is the one whose class, config and files beside the weights the result has.
    """

    models: Sequence[Model]
    states: Sequence[State]
    universe: Universe | None
    shared: Overlap | None
    kept: Sequence[Mapping[str, torch.dtype]]
    written: Model

    def merged(self, recipe: Recipe, by: str, seed: int, trusted: Mapping[str, Any], scratch: Any) -> State:
        """What the recipe makes of them."""
        states = dict(zip(recipe.names, self.states, strict=True))
        stored = widest(self.kept, recipe.written)
        if by == "symgraph":
            return _Blend(recipe, self.models[0], states, seed).state(stored)
        models = dict(zip(recipe.names, self.models, strict=True))
        return ByMergekit(recipe, models, states, seed, trusted, scratch).state(stored)


def _in_one_basis(recipe: Recipe, found: Sequence[Model], options: Any, *, align: bool, **settings: Any) -> _Together:
    tokens = _tokens(recipe)
    shared = shared_rows(found, given_settings(UniverseSettings, None, settings), wanted=tokens)
    kept = [dtypes(m) for m in found]
    models, states, universe = together(shared.matched if shared else found, 0, options, align=align, **settings)
    if shared is None:
        return _Together(models, states, universe, None, kept, models[0])
    rows = shared.filled(with_all_rows(shared, universe), 0)
    states = [placed_in(state, own, m.module) for state, own, m in zip(states, rows, models, strict=True)]
    # Files beside the weights are of the model whose tokens have their ids.
    files = tuple(file for file in found[tokens.owner].files if file.name == "config.json")
    return _Together(models, states, universe, shared, kept, replace(models[0], files=files))


def _tokens(recipe: Recipe) -> WantedTokens:
    """Whose tokens the result has: what the recipe says, or all of them in the order of the base."""
    said = recipe.tokens
    if said is None:
        return WantedTokens(0)
    owner = recipe.names.index(said.source) if said.source in recipe.names else 0
    source = "union" if said.source == "union" else "base"
    return WantedTokens(owner, source, said.pad_to_multiple_of or 1, asked=True)


def _engine(by: str, method: str) -> str:
    """Who runs a recipe.

    Raises:
        UsageError: there is no such engine, it is not installed, or it does not have the method.
    """
    if by not in ("", *ENGINES):
        remedy = " or ".join(argument("by", engine) for engine in ENGINES)
        raise UsageError(f"{argument('by', by)} runs no recipes", remedy=remedy)
    by = by or ("mergekit" if method in THEIRS else "symgraph")
    if by == "symgraph" and method in THEIRS:
        remedy = f"{argument('by', 'mergekit')}, or one of {', '.join(METHODS)}"
        raise UsageError(f"there is no method {method!r} here: only mergekit has it", remedy=remedy)
    if by == "mergekit" and command() is None:
        what = f"there is no method {method!r} here, and mergekit" if method in THEIRS else "mergekit"
        raise UsageError(f"{what} is not installed", remedy=f"{INSTALL}; symgraph has {', '.join(METHODS)}")
    return by


@dataclass(frozen=True)
class _Blend:
    """A recipe at work on states of one shape, by the names of their models."""

    recipe: Recipe
    model: Model
    states: Mapping[str, State]
    seed: int

    @cached_property
    def places(self) -> dict[str, Place]:
        """Where each tensor is."""
        return places_of(self.model.module)

    @cached_property
    def labels(self) -> dict[str, str]:
        """What filters know each tensor by."""
        return labels_of(self.model)

    def state(self, stored: Mapping[str, torch.dtype]) -> State:
        """All tensors, each made when it is asked for; integers, and statistics of norms, are those of the base."""
        first = next(iter(self.states.values()))
        fixed = {name for name, _ in self.model.module.named_buffers()}
        found: State = {}
        # What is one tensor under several names stays one.
        once: dict[int, Tensor] = {}
        for name, tensor in first.items():
            mixed = moves(tensor) and name not in fixed
            wanted = stored.get(name, tensor.dtype)
            made_later = Deferred(partial(self._made, name, wanted), tensor.shape, wanted) if mixed else tensor
            found[name] = once.setdefault(id(tensor), made_later)
        return found

    @torch.no_grad()
    def _made(self, name: str, dtype: torch.dtype) -> Tensor:
        found = self._blended(name).to(dtype)
        check_finite({name: found}, where="the merge")
        return found

    def _blended(self, name: str) -> Tensor:
        recipe, of = self.recipe, partial(self._number, name)
        tensors = {model: made(state[name]).double() for model, state in self.states.items()}
        listed = [own for own in recipe.ingredients if own.model != recipe.base or recipe.merge_method == "linear"]
        given = [tensors[own.model] for own in listed]
        if recipe.merge_method == "linear":
            weights = [of("weight", own, 1.0) for own in listed]
            return linear(given, weights, normalise=bool(of("normalize", None, 1.0)))
        base = tensors[str(recipe.base)]
        if recipe.merge_method == "slerp":
            return slerp(base, given[0], of("t", listed[0], 0.5))
        usual = DELTAS[recipe.merge_method]
        normalise, rescale = of("normalize", None, usual.normalise), of("rescale", None, usual.rescale)
        how = Deltas(usual.sparsify, usual.elect, bool(normalise), bool(rescale))
        weights, densities = ([of(key, own, 1.0) for own in listed] for key in ("weight", "density"))
        generator = torch.Generator().manual_seed(self.seed + zlib.crc32(name.encode()))
        return deltas(base, given, weights, densities, how, of("lambda", None, 1.0), generator)

    def _number(self, name: str, key: str, model: RecipeModel | None, default: float) -> float:
        return self.recipe.setting(key, model, self.labels.get(name, name), self.places.get(name, Place()), default)
