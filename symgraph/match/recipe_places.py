"""Where a recipe reaches: which layer each tensor of a model is in, and by which names its filters know it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from torch import nn

from symgraph.errors import CheckpointError, UsageError, near
from symgraph.io.checkpoint import names_in_files
from symgraph.io.models import Model
from symgraph.io.recipe import Place, Recipe

_LISTS = (nn.ModuleList, nn.Sequential)


def places_of(module: nn.Module) -> dict[str, Place]:
    """Where each tensor of a module is among its layers."""
    found: dict[str, Place] = {}
    for name in module.state_dict():
        within = _layer(module, name)
        after = any(place.layer is not None for place in found.values())
        found[name] = Place(after=after) if within is None else Place(*within)
    return found


def _layer(module: nn.Module, name: str) -> tuple[int, int] | None:
    """The number of a tensor's layer, and how many there are."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isdigit() and isinstance(listed := module.get_submodule(".".join(parts[:i])), _LISTS):
            return int(part), len(listed)
    return None


def labels_of(model: Model) -> dict[str, str]:
    """All names of each tensor, one under the other: that of the module, and that of files where it is another one."""
    labels = {name: name for name in model.module.state_dict()}
    # Where files hold tensors in another form, their names are none of these.
    with suppress(CheckpointError):
        labels |= {name: f"{name}\n{in_files}" for in_files, name in names_in_files(model).items()}
    return labels


def check_reach(recipe: Recipe, model: Model) -> None:
    """Raise where slices are not over all layers of a model, or a filter fits none of its tensors.

    Raises:
        UsageError: saying how many layers there are, or what a tensor may be called.
    """
    _check_layers(recipe, places_of(model.module))
    labels = labels_of(model)
    for part in recipe.filters:
        if not any(part in label for label in labels.values()):
            words = [word for label in labels.values() for word in label.replace("\n", ".").split(".")]
            remedy = near(part, words, f"tensors are called as {next(iter(labels), 'nothing')}")
            raise UsageError(f"the filter {part!r} of the recipe fits no tensor of {model.spec}", remedy=remedy)


def _check_layers(recipe: Recipe, places: Mapping[str, Place]) -> None:
    if not recipe.slices or recipe.slices[-1].layers is None:
        return
    there = {place.layers for place in places.values() if place.layer is not None}
    end = recipe.slices[-1].layers[1]
    if there != {end}:
        counted = " and ".join(map(str, sorted(there))) or "no"
        remedy = "let its slices go over all layers, or name whole models under `models`"
        raise UsageError(f"the recipe merges {end} layers, and the models have {counted}", remedy=remedy)
