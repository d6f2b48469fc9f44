"""What the rules say about one graph: equations between axes, classes, products kept aside, what is learned."""

from __future__ import annotations

from dataclasses import dataclass, field

from symgraph.inference.applied import Applied, Relation
from symgraph.inference.branches import Slot
from symgraph.inference.contents import Content
from symgraph.inference.store import Ref, Store
from symgraph.inference.structural import Axes
from symgraph.ir import Graph, Node


@dataclass(frozen=True, slots=True)
class Pointer:
    """Axes of positions, each of which points at a place along `target`; `origin` found the positions."""

    axes: Axes
    target: Ref
    origin: str


@dataclass
class Equations:
    """Everything the rules said about one graph."""

    graph: Graph
    store: Store = field(default_factory=Store)
    values: dict[str, tuple[Axes, ...]] = field(default_factory=dict)
    relations: list[Relation] = field(default_factory=list)
    links: list[tuple[Ref, Ref]] = field(default_factory=list)
    apart: list[tuple[Axes, Ref]] = field(default_factory=list)
    labels: list[tuple[Ref, str, str]] = field(default_factory=list)
    layouts: list[tuple[Ref, str]] = field(default_factory=list)
    sums: list[Ref] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    by_node: dict[str, Applied] = field(default_factory=dict)
    learned: set[str] = field(default_factory=set)
    writers: dict[str, str] = field(default_factory=dict)
    offsets: dict[str, float] = field(default_factory=dict)
    shifted: dict[str, str] = field(default_factory=dict)
    contents: dict[str, Content] = field(default_factory=dict)
    branches: dict[str, Ref] = field(default_factory=dict)
    slots: dict[str, tuple[Slot, Ref]] = field(default_factory=dict)
    pointers: list[Pointer] = field(default_factory=list)

    @property
    def uncovered(self) -> list[Node]:
        """Operators without a rule that something learned flows through."""
        return [a.node for a in self.applied if a.rule is None and a.node.name in self.learned]

    def axes(self, name: str) -> Axes:
        """Axes of a single-result value."""
        return self.values[name][0]


def branches_value(number: int) -> str:
    """What stands for the axis of a family of branches among the values."""
    return f"branches {number}"


def pointed(eq: Equations, content: Content) -> Ref:
    """The axis that positions are taken from."""
    return eq.values[content.value][0][content.axis]
