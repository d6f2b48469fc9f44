"""Merging: the weighted mean of models that were first brought into one basis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from symgraph import api
from symgraph.align.match import MatchOptions
from symgraph.api import Aligned
from symgraph.cards import Ingredient
from symgraph.checkpoint import canonical_state, check_finite, check_same_architecture, read_state
from symgraph.errors import UsageError
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.models import Model
from symgraph.rules.book import RuleBook
from symgraph.state import state_hash
from symgraph.trace import state_of
from symgraph.widening.models import common_shape

State = dict[str, Tensor]


@dataclass(frozen=True)
class Merged:
    """The weighted mean of models.

    `model` gives the class and config of `state`; `alignments` are those of all models but the first, none if the
    models were taken as they are.
    """

    model: Model
    state: State
    ingredients: tuple[Ingredient, ...]
    alignments: tuple[Aligned, ...]
    notes: tuple[str, ...] = ()

    @property
    def symmetry(self) -> SymmetryGraph | None:
        """The symmetry graph that the models were aligned by."""
        return self.alignments[0].alignment.symmetry if self.alignments else None

    @property
    def distances(self) -> tuple[str, ...]:
        """For each aligned model, how far it was from the first and how far it is now."""
        pairs = zip(self.ingredients[1:], self.alignments, strict=False)
        return tuple(f"{i.spec} to {self.ingredients[0].spec}: {a.before:.4f} -> {a.after:.4f}" for i, a in pairs)

    def to_plain(self) -> dict[str, Any]:
        """The merge as plain data."""
        models = [{"model": i.spec, "hash": i.hash, "weight": i.weight} for i in self.ingredients]
        distances = [{"before": a.before, "after": a.after} for a in self.alignments]
        return {"models": models, "aligned": bool(self.alignments), "distances": distances, "notes": list(self.notes)}

    def __str__(self) -> str:
        how = "aligned to the first" if self.alignments else "taken as they are"
        shares = " + ".join(f"{i.weight:g} {i.spec}" for i in self.ingredients)
        return "\n".join([f"{shares}, {how}", *(f"  distance of {d}" for d in self.distances), *self.notes])


def merge(
    sources: Sequence[api.Source],
    weights: Sequence[float],
    *,
    align: bool = True,
    options: MatchOptions | None = None,
    rules: api.RuleSources = None,
    tied: str = "keep",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float64,
    progress: api.Progress | None = None,
    split: bool = False,
    soft: float = 0.0,
) -> Merged:
    """Aligns all models to the first, and takes their weighted mean in its gauge.

    Args:
        weights: one for each model, summing to one.
        align: whether to align; models of one origin (fine-tuned from the same checkpoint) may be aligned already.
        options, rules, tied, device, dtype, split, soft: as for `symgraph.api.align`.

    Raises:
        UsageError: fewer than two models, or weights that do not fit.
        CheckpointError: the architectures differ, or a weight is not finite.
    """
    check_weights(weights, len(sources))
    models = [api.model(s) for s in sources]
    if not align:
        for other in models[1:]:
            check_same_architecture(models[0], other)
    hashes = [state_hash(state_of(m.module)) for m in models]
    roles = ("reference", *("merged",) * (len(models) - 1)) if align else ("merged",) * len(models)
    ingredients = tuple(map(Ingredient, roles, [m.spec for m in models], hashes, map(float, weights)))
    if not align:
        return Merged(models[0], interpolate([saved(m, read_state(m)) for m in models], weights), ingredients, ())
    how: dict[str, Any] = {"options": options or MatchOptions(), "tied": tied, "split": split, "soft": soft}
    how |= {"device": device, "dtype": dtype, "progress": progress}
    models, grown = _in_one_shape(models, api.rule_book(rules), tied)
    found = _align_all(models, api.rule_book(rules), how)
    states = [found[0].reference, *(saved(a.b, a.state) for a in found)]
    notes = tuple(dict.fromkeys((*grown, *(n for a in found for n in a.notes))))
    return Merged(found[0].a, interpolate(states, weights), ingredients, tuple(found), notes)


def _in_one_shape(models: Sequence[Model], book: RuleBook, tied: str) -> tuple[list[Model], tuple[str, ...]]:
    """All models in the shape of the widest one, and what was said of those that were embedded."""
    widest = models[0]
    for other in models[1:]:
        if common_shape(widest, other, lambda m: api.infer(m, rules=book)).narrow == "A":
            widest = other
    found, notes = [], []
    for m in models:
        if m is not widest and common_shape(widest, m, lambda x: api.infer(x, rules=book)).narrow:
            embedded = api.embed(m, like=widest, rules=book, tied=tied)
            m = embedded.model
            notes.append(f"{m.spec} {embedded}")
        found.append(m)
    return found, tuple(notes)


def _align_all(models: Sequence[Model], book: RuleBook, how: Mapping[str, Any]) -> list[Aligned]:
    """Every model but the first, aligned to the first; the symmetry graph is inferred once."""
    found: list[Aligned] = []
    for other in models[1:]:
        symmetry = found[0].alignment.symmetry if found else None
        found.append(api.align(models[0], other, rules=book, symmetry=symmetry, **how))
    return found


def interpolate(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> State:
    """The weighted mean of states of one architecture, each tensor in the dtype of the first state.

    Integers, and tensors that are equal in all states, are those of the first.

    Raises:
        UsageError: the weights do not fit.
        CheckpointError: the mean overflows its dtype.
    """
    check_weights(weights, len(states))
    found = {name: _mean([s[name] for s in states], weights) for name in states[0]}
    check_finite({n: t for n, t in found.items() if t is not states[0][n]}, where="the weighted mean")
    return found


def _mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    first = tensors[0]
    # Infinite entries of a mask, times a weight of zero, would become NaN.
    if not (first.is_floating_point() or first.is_complex()) or all(torch.equal(first, t) for t in tensors[1:]):
        return first
    wide = torch.complex128 if first.is_complex() else torch.float64
    total = torch.zeros(first.shape, dtype=wide)
    for t, w in zip(tensors, weights, strict=True):
        total.add_(t.detach().to("cpu", wide), alpha=w)
    return total.to(first.dtype)


def check_weights(weights: Sequence[float], models: int) -> None:
    """Raise unless there is one weight for each of two models or more, and they sum to one.

    Raises:
        UsageError: saying what is wrong and which weights would do.
    """
    if models < 2:
        raise UsageError(f"{models} model: there is nothing to merge it with", remedy="name two models or more")
    if len(weights) != models:
        even = " ".join([f"{1 / models:.6g}"] * models)
        raise UsageError(f"{models} models and {len(weights)} weights", remedy=f"give one for each, such as {even}")
    total = math.fsum(weights)
    if abs(total - 1) <= 1e-6:
        return
    scaled = " ".join(f"{w / total:.6g}" for w in weights) if total > 0 and math.isfinite(total) else ""
    remedy = f"in these proportions: {scaled}" if scaled else "give shares such as 0.5 0.5"
    raise UsageError(f"the weights sum to {total:g}, not to one", remedy=remedy)


def saved(model: Model, state: Mapping[str, Tensor]) -> State:
    """The part of a state that checkpoints of the model store, shared tensors once.

    Raises:
        CheckpointError: the state does not fit the model.
    """
    names = model.module.state_dict()
    return canonical_state(model.module, {n: t for n, t in state.items() if n in names})
