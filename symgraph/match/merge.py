"""Merging: the weighted mean of models that were first brought into one basis."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import UsageError, argument
from symgraph.inference.sources import Source, several, stored, with_inputs
from symgraph.io import checkpoint
from symgraph.io.checkpoint import dtypes, module_hash, read_state
from symgraph.io.example import Size
from symgraph.io.files import SHARD_SIZE
from symgraph.io.models import Model
from symgraph.io.options import given
from symgraph.io.ranks import current, release
from symgraph.io.same_architecture import check_same_architecture
from symgraph.match.cards import Card, Ingredient, merged_ingredient
from symgraph.match.match_options import MatchOptions, UniverseSettings
from symgraph.match.one_basis import Universe, shared_rows
from symgraph.match.restated import Restated
from symgraph.match.universe import joined, moved_spaces, universe
from symgraph.measure.mixture import State, check_weights, interpolate
from symgraph.measure.recalibrate import recalibrated
from symgraph.resize.overlap import Overlap, placed_in
from symgraph.resize.token_rows import WantedTokens
from symgraph.tracing.deferred import later
from symgraph.tracing.sampling import float64


@dataclass(frozen=True, repr=False)
class Merged(Restated):
    """The weighted mean of models.

    `model` gives the class and config of `state`; `universe` is that of the models, None if they were taken as they
    are; `recalibrated` names the data that stored statistics were computed on, if they were. `method` is that of a
    recipe, where it is not the weighted mean. `tokenizer` holds the files of one that was joined.
    """

    model: Model
    state: State
    ingredients: tuple[Ingredient, ...]
    universe: Universe | None = None
    recalibrated: str = ""
    method: str = ""
    notes_before: tuple[str, ...] = ()
    tokenizer: dict[str, bytes] | None = None

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the merged model as a checkpoint of its class, with a model card; see `write_merged`.

        Raises:
            CheckpointError: the folder exists or cannot be written.
        """
        return write_merged(self, folder, overwrite=overwrite)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noted while the models were aligned."""
        return (*self.notes_before, *(self.universe.notes if self.universe else ()))

    def to_plain(self) -> dict[str, Any]:
        """The merge as plain data."""
        models = [
            {"model": ingredient.spec, "hash": ingredient.hash, "weight": ingredient.weight}
            for ingredient in self.ingredients
        ]
        found = {"models": models, "method": self.method or "weighted mean", "aligned": self.universe is not None}
        found["recalibrated"] = self.recalibrated
        members = self.universe.members if self.universe else ()
        distances = [{"before": member.before, "after": member.after} for member in members]
        return found | {"distances": distances, "notes": list(self.notes)}

    def __str__(self) -> str:
        how = "in one basis" if self.universe else "taken as they are"
        how += f", statistics of {self.recalibrated}" if self.recalibrated else ""
        shares = " + ".join(
            f"{ingredient.weight:g} {ingredient.spec}"
            for ingredient in self.ingredients
            if ingredient.weight is not None
        )
        if self.method:
            shares = f"{self.method} of {', '.join(ingredient.spec for ingredient in self.ingredients)}"
        distances = self.universe.distances if self.universe else ()
        return "\n".join([f"{shares}, {how}", *(f"  {distance}" for distance in distances), *self.notes])


_HALVES = (torch.float16, torch.bfloat16)


def merge(
    sources: Sequence[Source],
    weights: Sequence[float] | None = None,
    *,
    example: Any = None,
    input_size: Size | None = None,
    align: bool = True,
    options: MatchOptions | Mapping[str, Any] | None = None,
    recalibrate: Iterable[Any] | None = None,
    written: torch.dtype | None = None,
    vocabulary: str = "",
    **settings: Any,
) -> Merged:
    """Brings all models into one basis, and takes their weighted mean in the gauge of the one that weighs most.

    Where several weigh most, the hash of their weights decides: the order of the models changes nothing.

    Args:
        weights: one for each model, summing to one; by default the same for each.
        example, input_size: inputs of modules that bring none, or the shape of one, as for `trace`.
        align: whether to align; models of one origin (fine-tuned from the same checkpoint) may be aligned already.
        options: how to match.
        settings: fields of `UniverseSettings`: rules, tied, device, dtype, and more.
        written: the dtype of what floats in the result; the widest of the models' by default.
        vocabulary: whose tokens the result has, "union" or "base", the model that weighs most, whose ids are kept; by
            default all, where models bring tokenizers that differ.
        recalibrate: batches of the training split, on which the stored statistics of norms are computed anew.

    Raises:
        UsageError: fewer than two models, weights that do not fit, or nothing to recalibrate.
        CheckpointError: the architectures differ, or a weight is not finite.
        DataError: the batches to recalibrate on do not fit the model.

    >>> a, b = (torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)) for _ in "ab")
    >>> symgraph.merge([a, b], example=torch.randn(5, 6)).module(torch.randn(2, 6)).shape
    torch.Size([2, 3])
    """
    sources = several(sources, "merge")
    weights = [1 / len(sources)] * len(sources) if weights is None and sources else weights or ()
    check_weights(weights, len(sources))
    models = whole = [with_inputs(source, example, input_size) for source in sources]
    hashes = current().sent(0, lambda: [module_hash(model.module) for model in models])
    shares = list(map(float, weights))
    first = min(range(len(models)), key=lambda model: (-shares[model], hashes[model]))
    tokens = WantedTokens(first, _source(vocabulary), asked=bool(vocabulary))
    shared = shared_rows(models, given(UniverseSettings, None, settings), wanted=tokens)
    models = list(shared.matched) if shared else models
    kinds = widest([dtypes(model) for model in models], written)
    models, states, found = together(models, first, options, align=align, **settings)
    # Sums round by their order: it is that of the hashes, however the models are named.
    order = sorted(range(len(models)), key=lambda model: (hashes[model], shares[model]))
    ordered = [(states[model], shares[model]) for model in order]
    state = interpolate([own for own, _ in ordered], [share for _, share in ordered], kinds)
    heaviest = models[first]
    if shared:
        rows = shared.mean(with_all_rows(shared, found), shares)
        state = placed_in(state, {name: tensor.to(kinds[name]) for name, tensor in rows.items()}, heaviest.module)
    roles = ["reference" if found and model == found.reference else "merged" for model in range(len(models))]
    ingredients = tuple(map(merged_ingredient, roles, whole, hashes, shares))
    where = ""
    if recalibrate is not None:
        device = settings.get("device", "cpu")
        state = recalibrated(heaviest.module, state, recalibrate, between=[] if shared else ordered, device=device)
        where = str(getattr(recalibrate, "source", "") or "the training data")
    about = (shared.notes, shared.tokenizer) if shared else ((), None)
    return Merged(heaviest, state, ingredients, found, where, "", *about)


def _source(vocabulary: str) -> str:
    if vocabulary not in ("", "union", "base"):
        remedy = " or ".join(argument("vocabulary", v) for v in ("union", "base"))
        raise UsageError(f"{argument('vocabulary', vocabulary)} says not whose tokens there are", remedy=remedy)
    return vocabulary or "union"


def with_all_rows(shared: Overlap, found: Universe | None) -> Sequence[State]:
    """The models with all their rows, where they were brought to."""
    if found is None:
        return shared.whole
    return [
        member.alignment.transform.apply(float64(state))
        for member, state in zip(found.members, shared.whole, strict=True)
    ]


def together(
    models: Sequence[Model], first: int, options: Any = None, *, align: bool = True, **settings: Any
) -> tuple[list[Model], Sequence[State], Universe | None]:
    """Models in one basis, in the gauge of the one with this number, and their states there; or as they are.

    Raises:
        CheckpointError: the architectures differ, or a weight is not finite.
    """
    if align:
        found = universe(list(map(_whole, models)), options=options, **{**settings, "reference": first})
        return [member.model for member in found.members], found.states, found
    release()
    for other in models[1:]:
        check_same_architecture(models[0], other)
    return list(models), [stored(model.module, read_state(model)) for model in models], None


def _whole(model: Model) -> Model:
    """The model with room for what is computed: halves become single precision until the mean is taken."""
    if not any(parameter.dtype in _HALVES for parameter in model.module.parameters()):
        return model
    tensors = (*model.module.parameters(), *model.module.buffers())
    single = {id(tensor): _single(tensor) for tensor in tensors if tensor.dtype in _HALVES}
    # What its files keep is not what it is computed in.
    files = tuple(file for file in model.files if file.name == "config.json")
    return replace(model, module=copy.deepcopy(model.module, single), files=files)


def _single(half: Tensor) -> Tensor:
    """A tensor in single precision, whenever it is asked for."""
    found = later(half, torch.float32)
    return nn.Parameter(found, half.requires_grad) if isinstance(half, nn.Parameter) else found


def widest(kept: Sequence[Mapping[str, torch.dtype]], written: torch.dtype | None) -> dict[str, torch.dtype]:
    """In which dtype each tensor is written: the one that is asked for, else the widest of its dtypes."""
    widest_of = {name: reduce(torch.promote_types, [own[name] for own in kept if name in own]) for name in kept[0]}
    if written is None:
        return widest_of
    return {name: written if dtype.is_floating_point else dtype for name, dtype in widest_of.items()}


def write_merged(
    merged: Merged, out: str | Path, *, command: str = "", overwrite: bool = False, shard_size: int = SHARD_SIZE
) -> Path:
    """Writes a merged model.

    Raises:
        CheckpointError: the folder exists or cannot be written.
    """
    found = merged.universe
    last = merged.method or "averaged"
    how = f"all brought into one basis by {joined(found)}, then {last}" if found else last
    how += f", statistics of norms computed on {merged.recalibrated}" if merged.recalibrated else ""
    names = ", ".join(Path(ingredient.spec).name for ingredient in merged.ingredients)
    card = Card(
        title=f"{merged.method or 'Weighted mean'} of {names}",
        about=f"The {merged.method or 'weighted mean'} of the weights of models of one architecture.",
        model=merged.model,
        ingredients=merged.ingredients,
        method=f"{merged.method or 'weighted mean'} of the parameters, {how}",
        command=command,
        symmetry=found.symmetry if found else None,
        spaces=moved_spaces(found) if found else (),
        distances=found.distances if found else (),
        notes=merged.notes,
        relation="merge",
    )
    stored = {name: tensor.dtype for name, tensor in merged.state.items()}
    options: dict[str, Any] = {"overwrite": overwrite, "shard_size": shard_size, "tokenizer": merged.tokenizer}
    return checkpoint.write(merged.model, merged.state, out, card=str(card), stored=stored, **options)
