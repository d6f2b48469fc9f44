"""What the rules say about one graph: equations between axes, classes, products kept aside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from symgraph.groups.lattice import describe
from symgraph.inference.applied import Relation
from symgraph.inference.branches import Slot
from symgraph.inference.claims import Ref
from symgraph.inference.contents import Content
from symgraph.inference.explained import Explained
from symgraph.inference.store import Store
from symgraph.inference.structural import Axes


@dataclass(frozen=True, slots=True)
class Pointer:
    """Axes of positions, each of which points at a place along `target`; `origin` found the positions."""

    axes: Axes
    target: Ref
    origin: str


@dataclass(frozen=True, slots=True)
class Label:
    """What the rule of a call names the space of an axis."""

    axis: Ref
    text: str
    node: str


@dataclass(frozen=True)
class Equations(Explained):
    """Axes of every value in one store, and what rules say beside which of them are the same.

    `relations` are products entry by entry, `links` pairs that share their permutations alone, `apart` axes beside
    which the position along another one says nothing. `labels` and `layouts` are a rule's words for a space, `sums`
    axes of residual streams, `slots` the entries that branches pick, with the axis that numbers the branches.
    """

    store: Store
    values: dict[str, tuple[Axes, ...]]
    slots: dict[str, tuple[Slot, Ref]]
    relations: tuple[Relation, ...]
    links: tuple[tuple[Ref, Ref], ...]
    apart: tuple[tuple[Axes, Ref], ...]
    labels: tuple[Label, ...]
    layouts: tuple[tuple[Ref, str], ...]
    sums: tuple[Ref, ...]
    pointers: tuple[Pointer, ...]

    def axes(self, name: str) -> Axes:
        """Axes of a single-result value."""
        return self.values[name][0]

    def explained(self) -> Explained:
        """The calls alone, without what was inferred from them."""
        return Explained(*(getattr(self, part.name) for part in fields(Explained)))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        text = self.store.text
        for name, results in self.values.items():
            yield f"%{name}: {' '.join('[' + ', '.join(map(text, axes)) + ']' for axes in results)}"
        claims = (f"{text(claim.ref)} admits {describe(claim.bound)} ({claim.evidence})" for claim in self.store.claims)
        yield from dict.fromkeys(claims)
        yield from (relation.text(text) for relation in self.relations)
        yield from (f"{text(first)} is permuted with {text(second)}" for first, second in self.links)


@dataclass
class Gathering:
    """Equations while nodes are visited; `stacks` has, for a stack that branches end in, the axis that numbers them."""

    of: Explained
    store: Store = field(default_factory=Store)
    values: dict[str, tuple[Axes, ...]] = field(default_factory=dict)
    slots: dict[str, tuple[Slot, Ref]] = field(default_factory=dict)
    stacks: dict[str, Ref] = field(default_factory=dict)
    relations: list[Relation] = field(default_factory=list)
    links: list[tuple[Ref, Ref]] = field(default_factory=list)
    apart: list[tuple[Axes, Ref]] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    layouts: list[tuple[Ref, str]] = field(default_factory=list)
    sums: list[Ref] = field(default_factory=list)
    pointers: list[Pointer] = field(default_factory=list)

    def axes(self, name: str) -> Axes:
        """Axes of a single-result value."""
        return self.values[name][0]

    def pointed(self, content: Content) -> Ref:
        """The axis that positions are taken from."""
        return self.axes(content.value)[content.axis]

    def equations(self) -> Equations:
        """All that was gathered."""
        known = vars(self) | {part.name: getattr(self.of, part.name) for part in fields(self.of)}
        parts = {part.name: known[part.name] for part in fields(Equations)}
        frozen: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in parts.items()
        }
        return Equations(**frozen)


def branches_value(number: int) -> str:
    """What stands for the axis of a family of branches among the values."""
    return f"branches {number}"
