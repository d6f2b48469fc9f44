"""Merging: the weighted mean of models that were first brought into one basis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from symgraph import api
from symgraph.align.match import MatchOptions
from symgraph.api import Aligned
from symgraph.cards import Ingredient
from symgraph.checkpoint import canonical_state, check_same_architecture, read_state
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.mixture import State, check_weights, interpolate
from symgraph.models import Model
from symgraph.rules.book import RuleBook
from symgraph.state import state_hash
from symgraph.trace import state_of


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
) -> Merged:
    """Aligns all models to the first, and takes their weighted mean in its gauge.

    Args:
        weights: one for each model, summing to one.
        align: whether to align; models of one origin (fine-tuned from the same checkpoint) may be aligned already.
        options, rules, tied, device, dtype: as for `symgraph.api.align`.

    Raises:
        UsageError: fewer than two models, or weights that do not fit.
        CheckpointError: the architectures differ, or a weight is not finite.
    """
    check_weights(weights, len(sources))
    models = [api.model(s) for s in sources]
    for other in models[1:]:
        check_same_architecture(models[0], other)
    hashes = [state_hash(state_of(m.module)) for m in models]
    roles = ("reference", *("merged",) * (len(models) - 1)) if align else ("merged",) * len(models)
    ingredients = tuple(map(Ingredient, roles, [m.spec for m in models], hashes, map(float, weights)))
    if not align:
        return Merged(models[0], interpolate([saved(m, read_state(m)) for m in models], weights), ingredients, ())
    how = {"options": options or MatchOptions(), "tied": tied, "device": device, "dtype": dtype, "progress": progress}
    found = _align_all(models, api.rule_book(rules), how)
    states = [found[0].reference, *(saved(a.b, a.state) for a in found)]
    notes = tuple(dict.fromkeys(n for a in found for n in a.notes))
    return Merged(found[0].a, interpolate(states, weights), ingredients, tuple(found), notes)


def _align_all(models: Sequence[Model], book: RuleBook, how: Mapping[str, Any]) -> list[Aligned]:
    """Every model but the first, aligned to the first; the symmetry graph is inferred once."""
    found: list[Aligned] = []
    for other in models[1:]:
        symmetry = found[0].alignment.symmetry if found else None
        found.append(api.align(models[0], other, rules=book, symmetry=symmetry, **how))
    return found


def saved(model: Model, state: Mapping[str, Tensor]) -> State:
    """The part of a state that checkpoints of the model store, shared tensors once.

    Raises:
        CheckpointError: the state does not fit the model.
    """
    names = model.module.state_dict()
    return canonical_state(model.module, {n: t for n, t in state.items() if n in names})
