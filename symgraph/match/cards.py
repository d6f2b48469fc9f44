"""Model cards: how a written checkpoint was made, so that it can be made again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from symgraph.io.adapted import parts_of
from symgraph.io.files import existing
from symgraph.io.models import Model
from symgraph.match.licences import licence_of, strictest
from symgraph.measure.measured import Measured
from symgraph.measure.result import LossBarrier
from symgraph.orbit.alignment import Alignment
from symgraph.symmetry.graph import SymmetryGraph

LISTED_SPACES = 40


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A model that went into a checkpoint: its name, the hash of its weights, and its share.

    `names` are those that it has for the hub, where it is a checkpoint; `licence` what its card says, where it says it.
    """

    role: str
    spec: str
    hash: str
    weight: float | None = None
    names: tuple[str, ...] = ()
    licence: str | None = None


def merged_ingredient(role: str, model: Model, hash: str, weight: float | None = None) -> Ingredient:
    """A model that is merged with others, with all that the card of the result says of it."""
    parts = parts_of(model.spec) if model.kind in ("checkpoint", "hub") else ()
    names = (part if existing(part) is None else Path(part).resolve().name for part in parts if part is not None)
    return Ingredient(role, model.spec, hash, weight, tuple(names), licence_of(model))


@dataclass(frozen=True, slots=True)
class Card:
    """What a model card says; `loss_barriers` pairs a label with what was measured.

    `relation` says what the result is of its ingredients, in a word that the hub knows.
    """

    title: str
    about: str
    model: Model
    ingredients: tuple[Ingredient, ...]
    method: str
    command: str = ""
    symmetry: SymmetryGraph | None = None
    spaces: tuple[str, ...] = ()
    distances: tuple[str, ...] = ()
    loss_barriers: tuple[tuple[str, LossBarrier], ...] = ()
    notes: tuple[str, ...] = ()
    relation: str = ""

    def __str__(self) -> str:
        return "\n".join((*self._head(), *self._making(), *self._loading(), *self._spaces(), *self._measures(), ""))

    def _head(self) -> Iterator[str]:
        library = () if self.model.config is None else _LIBRARY
        yield from ("---", *library, *self._origin(), "tags: [symgraph, model-merging]", "---")
        yield from ("", f"# {self.title}", "", self.about)

    def _origin(self) -> Iterator[str]:
        """Where it comes from, for the hub."""
        names = [name for ingredient in self.ingredients for name in ingredient.names]
        if not self.relation or not names:
            return
        # Names in the form of JSON are ones in YAML, whatever stands in them.
        yield f"base_model: {json.dumps(list(dict.fromkeys(names)))}"
        yield f"base_model_relation: {self.relation}"
        if licence := self._licence():
            yield f"license: {json.dumps(licence)}"

    def _licence(self) -> str | None:
        return strictest([ingredient.licence for ingredient in self.ingredients])

    def _licences(self) -> str:
        """What there is to say of licences."""
        said = "; ".join(f"`{ingredient.spec}`: {ingredient.licence or 'not said'}" for ingredient in self.ingredients)
        found = self._licence()
        return f"licence: {found}, the strictest of {said}" if found else f"no licence is claimed: {said}"

    def _making(self) -> Iterator[str]:
        yield from ("", "## How it was made", "")
        if self.command:
            yield from ("```sh", self.command, "```", "")
        yield f"- method: {self.method}"
        yield f"- symgraph {metadata.version('symgraph')}"
        if self.symmetry is not None:
            yield f"- rules: SHA-256 `{self.symmetry.rules_hash}`"
            yield f"- symmetry graph: SHA-256 `{self.symmetry.fingerprint}`"
        yield from [f"- {self._licences()}"] if self.relation else ()
        yield from (f"- {note}" for note in self.notes)
        shares = any(ingredient.weight is not None for ingredient in self.ingredients)
        yield from (
            "",
            f"| | model |{' weight |' * shares} SHA-256 of its weights |",
            f"|---|---|{'---|' * shares}---|",
        )
        for ingredient in self.ingredients:
            share = f" {ingredient.weight:g} |" if ingredient.weight is not None else " |" * shares
            yield f"| {ingredient.role} | `{ingredient.spec}` |{share} `{ingredient.hash}` |"

    def _loading(self) -> Iterator[str]:
        if self.model.config is None:
            return
        name = type(self.model.module).__name__
        yield from ("", "## How to load it", "", "An ordinary checkpoint; symgraph is not needed.", "", "```python")
        yield from (f"from transformers import {name}", "", f'model = {name}.from_pretrained("path/to/this/folder")')
        yield "```"

    def _spaces(self) -> Iterator[str]:
        if self.symmetry is None or not self.spaces:
            return
        yield from ("", "## Spaces aligned", "", "| space | size | group |", "|---|---|---|")
        for name in self.spaces[:LISTED_SPACES]:
            space = self.symmetry.space(name)
            yield f"| {name} | {space.size} | {space.group} |"
        if (more := len(self.spaces) - LISTED_SPACES) > 0:
            yield f"| and {more} more | | |"

    def _measures(self) -> Iterator[str]:
        if self.distances:
            yield from ("", "## Distances", "", *(f"- {distance}" for distance in self.distances))
        if self.loss_barriers:
            yield from ("", "## Loss barrier", "")
        for label, found in self.loss_barriers:
            split = f", split {found.split}" if found.split else ""
            curves = "; ".join(map(_figure, (found.loss, *found.metrics)))
            yield f"- {label}: {curves} ({found.examples} examples of `{found.source}`{split})"
        yield from (f"- {text}" for text in dict.fromkeys(t for _, found in self.loss_barriers for t in found.remarks))


_LIBRARY = ("library_name: transformers",)


def _figure(found: Measured) -> str:
    middle = ""
    if found.midpoint is not None and found.models == 2:
        middle = f", {found.values[found.places.index(0.5)]:.4f} at the midpoint"
    elif found.midpoint is not None:
        middle = f", {found.midpoint:.4f} of the even mixture"
    return f"{found.name} barrier {found.height}{middle}"


def card_of_one(model: Model, alignment: Alignment, what: str, **said: Any) -> Card:
    """The card of another form of one model, which an alignment leads to, with further fields of a `Card`."""
    return Card(
        title=f"{Path(model.spec).name}, {what}",
        model=model,
        ingredients=(Ingredient(what, model.spec, alignment.source),),
        symmetry=alignment.symmetry,
        spaces=element_spaces(alignment.symmetry, alignment),
        **said,
    )


def element_spaces(symmetry: SymmetryGraph, alignment: Alignment) -> tuple[str, ...]:
    """The spaces on which something acts in an alignment."""
    return tuple(space.name for space in symmetry.active if alignment.element(space.name) is not None)
