"""What two models' activations have in common: correlations by unit, which move with the models as they are matched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from symgraph.orbit.action import GroupElement
from symgraph.orbit.wreath import Key, Tree
from symgraph.symmetry.terms import Leaf

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Activations:
    """What was seen: correlations by unit (the id of its outermost space) and by the leaves of the blocks.

    Shapes: for leaves of sizes (n, k, ...) a correlation is (n_A, n_B, k_A, k_B, ...). `sites` counts values, each of
    correlation at most one. `moments` has the second moments (n, n) of A's and B's inputs at parameters' axes.
    `left_out` counts batches of another shape than the first, which were not read.
    """

    correlations: Mapping[int, Mapping[tuple[Leaf, ...], Tensor]]
    sites: int
    examples: int
    moments: Mapping[tuple[str, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    left_out: int = 0

    def __str__(self) -> str:
        rest = f", {self.left_out} batches of another shape left out" if self.left_out else ""
        return f"activations of {self.examples} examples at {self.sites} values{rest}"

    def of(self, units: frozenset[int]) -> Activations:
        """Those of some units alone."""
        return replace(self, correlations={u: t for u, t in self.correlations.items() if u in units})

    def moved(self, unit: Tree, element: GroupElement) -> list[tuple[Key, Tensor]]:
        """The correlations of a unit after B has moved, with a batch dimension of one, as solvers take them."""
        found = []
        for held, c in self.correlations.get(unit.space.id, {}).items():
            key = tuple((x.space, element.symmetry.frame(x.frame).sign) for x in held)
            found.append((key, element.on(c, _second(held)).unsqueeze(0) / max(self.sites, 1)))
        return found

    def after(self, first: GroupElement, second: GroupElement) -> Activations:
        """What would have been seen of A and B after both have moved."""
        found = {
            u: {k: second.on(first.on(c, _first(k)), _second(k)) for k, c in t.items()}
            for u, t in self.correlations.items()
        }
        return replace(self, correlations=found)

    def turned(self) -> Activations:
        """The same with A and B in each other's place."""
        found = {u: {k: _turned(c) for k, c in t.items()} for u, t in self.correlations.items()}
        return replace(self, correlations=found, moments={n: (b, a) for n, (a, b) in self.moments.items()})


def _first(held: tuple[Leaf, ...]) -> tuple[Leaf, ...]:
    """The leaves of a correlation, of which only A's are acted on; (n_A, n_B, k_A, k_B, ...)."""
    return tuple(x for leaf in held for x in (leaf, Leaf(-1, -1, False, leaf.size)))


def _second(held: tuple[Leaf, ...]) -> tuple[Leaf, ...]:
    return tuple(x for leaf in held for x in (Leaf(-1, -1, False, leaf.size), leaf))


def _turned(c: Tensor) -> Tensor:
    return c.permute([dim + 1 - 2 * (dim % 2) for dim in range(c.dim())])


def mean_of(seen: Iterable[Activations], scale: float = 1.0) -> Activations:
    """The mean of what was seen of several models A with one B, times a factor; units and leaves are those of all."""
    count, total = 0, None
    for x in seen:
        count += 1
        total = x if total is None else replace(total, correlations=_added(total.correlations, x.correlations))
    if total is None:
        raise ValueError("the mean of no correlations")
    found = {u: {k: c * (scale / count) for k, c in t.items()} for u, t in total.correlations.items()}
    return replace(total, correlations=found)


def _added(
    one: Mapping[int, Mapping[tuple[Leaf, ...], Tensor]], other: Mapping[int, Mapping[tuple[Leaf, ...], Tensor]]
) -> dict[int, dict[tuple[Leaf, ...], Tensor]]:
    return {u: {k: c + other[u][k] for k, c in t.items()} for u, t in one.items()}


def agreement(tables: Iterable[tuple[Key, Tensor]]) -> float:
    """The value of the identity: the sum over equal positions of A and B."""
    total = 0.0
    for key, c in tables:
        c = c[0]
        for _ in key:
            c = c.diagonal(dim1=0, dim2=1)
            c = c.movedim(-1, 0).sum(0) if c.dim() == 1 else c.sum(-1)
        total += float(c)
    return total
