"""Merging: the weighted mean of models that were first brought into one basis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from symgraph.inference.sources import Source, model
from symgraph.io.checkpoint import canonical_state, check_same_architecture, read_state
from symgraph.io.models import Model
from symgraph.io.state import state_hash
from symgraph.match.cards import Ingredient
from symgraph.match.match_options import MatchOptions
from symgraph.match.one_basis import Universe
from symgraph.match.universe import universe
from symgraph.measure.mixture import State, check_weights, interpolate
from symgraph.measure.recalibrate import recalibrated
from symgraph.tracing import state_of


@dataclass(frozen=True)
class Merged:
    """The weighted mean of models.

    `model` gives the class and config of `state`; `universe` is that of the models, None if they were taken as they
    are; `recalibrated` names the data that stored statistics were computed on, if they were.
    """

    model: Model
    state: State
    ingredients: tuple[Ingredient, ...]
    universe: Universe | None = None
    recalibrated: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noted while the models were aligned."""
        return self.universe.notes if self.universe else ()

    def to_plain(self) -> dict[str, Any]:
        """The merge as plain data."""
        models = [{"model": i.spec, "hash": i.hash, "weight": i.weight} for i in self.ingredients]
        found = {"models": models, "aligned": self.universe is not None, "recalibrated": self.recalibrated}
        members = self.universe.members if self.universe else ()
        distances = [{"before": m.before, "after": m.after} for m in members]
        return found | {"distances": distances, "notes": list(self.notes)}

    def __str__(self) -> str:
        how = "in one basis" if self.universe else "taken as they are"
        how += f", statistics of {self.recalibrated}" if self.recalibrated else ""
        shares = " + ".join(f"{i.weight:g} {i.spec}" for i in self.ingredients)
        distances = self.universe.distances if self.universe else ()
        return "\n".join([f"{shares}, {how}", *(f"  {d}" for d in distances), *self.notes])


def merge(
    sources: Sequence[Source],
    weights: Sequence[float],
    *,
    align: bool = True,
    options: MatchOptions | Mapping[str, Any] | None = None,
    recalibrate: Iterable[Any] | None = None,
    **settings: Any,
) -> Merged:
    """Brings all models into one basis, and takes their weighted mean in the gauge of the one that weighs most.

    Where several weigh most, the hash of their weights decides: the order of the models changes nothing.

    Args:
        weights: one for each model, summing to one.
        align: whether to align; models of one origin (fine-tuned from the same checkpoint) may be aligned already.
        options: how to match.
        settings: fields of `UniverseSettings`: rules, tied, device, dtype, and more.
        recalibrate: batches of the training split, on which the stored statistics of norms are computed anew.

    Raises:
        UsageError: fewer than two models, weights that do not fit, or nothing to recalibrate.
        CheckpointError: the architectures differ, or a weight is not finite.
        DataError: the batches to recalibrate on do not fit the model.
    """
    check_weights(weights, len(sources))
    models = [model(s) for s in sources]
    if not align:
        for other in models[1:]:
            check_same_architecture(models[0], other)
    hashes = [state_hash(state_of(m.module)) for m in models]
    shares = list(map(float, weights))
    first = min(range(len(models)), key=lambda i: (-shares[i], hashes[i]))
    found = None
    if align:
        found = universe(models, options=options, **{**settings, "reference": first})
        models = [m.model for m in found.members]
    states = found.states if found else [saved(m, read_state(m)) for m in models]
    heaviest, state = models[first], interpolate(states, weights)
    roles = ["reference" if found and i == found.reference else "merged" for i in range(len(models))]
    ingredients = tuple(map(Ingredient, roles, [m.spec for m in models], hashes, shares))
    where = ""
    if recalibrate is not None:
        state = recalibrated(heaviest.module, state, recalibrate, device=settings.get("device", "cpu"))
        where = str(getattr(recalibrate, "source", "") or "the training data")
    return Merged(heaviest, state, ingredients, found, where)


def saved(model: Model, state: State) -> State:
    """The part of a state that checkpoints of the model store, shared tensors once.

    Raises:
        CheckpointError: the state does not fit the model.
    """
    names = model.module.state_dict()
    return canonical_state(model.module, {n: t for n, t in state.items() if n in names})
