"""What two models' activations have in common: correlations by unit, which move with the models as they are matched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from symgraph.orbit.action import GroupElement
from symgraph.orbit.wreath import Key, Tree
from symgraph.symmetry.terms import Leaf

Leaves = tuple[Leaf, ...]
# Of one unit, by the leaves of the blocks.
Correlations = Mapping[Leaves, Tensor]


@dataclass(frozen=True, slots=True)
class Activations:
    """What was seen: correlations by unit (the id of its outermost space) and by the leaves of the blocks.

    Shapes: for leaves of sizes (n, k, ...) a correlation is (n_A, n_B, k_A, k_B, ...). `sites` counts values, each of
    correlation at most one. `moments` has the second moments (n, n) of A's and B's inputs at parameters' axes.
    `left_out` counts batches of another shape than the first, which were not read.
    """

    correlations: Mapping[int, Correlations]
    sites: int
    examples: int
    moments: Mapping[tuple[str, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    left_out: int = 0

    def __str__(self) -> str:
        rest = f", {self.left_out} batches of another shape left out" if self.left_out else ""
        return f"activations of {self.examples} examples at {self.sites} values{rest}"

    def of(self, units: frozenset[int]) -> Activations:
        """Those of some units alone."""
        return replace(
            self, correlations={unit: self.correlations[unit] for unit in self.correlations if unit in units}
        )

    def moved(self, unit: Tree, element: GroupElement) -> list[tuple[Key, Tensor]]:
        """The correlations of a unit after B has moved, with a batch dimension of one, as solvers take them."""
        found = []
        for leaves, correlation in self.correlations.get(unit.space.id, {}).items():
            key = tuple((leaf.space, element.symmetry.frame(leaf.frame).sign) for leaf in leaves)
            found.append((key, element.on(correlation, _second(leaves)).unsqueeze(0) / max(self.sites, 1)))
        return found

    def after(self, first: GroupElement, second: GroupElement) -> Activations:
        """What would have been seen of A and B after both have moved."""

        def both(leaves: Leaves, correlation: Tensor) -> Tensor:
            return second.on(first.on(correlation, _first(leaves)), _second(leaves))

        return self.each(both)

    def each(self, change: Callable[[Leaves, Tensor], Tensor]) -> Activations:
        """The same with every correlation changed."""
        found = {
            unit: {leaves: change(leaves, correlation) for leaves, correlation in table.items()}
            for unit, table in self.correlations.items()
        }
        return replace(self, correlations=found)

    def turned(self) -> Activations:
        """The same with A and B in each other's place."""
        moments = {place: (second, first) for place, (first, second) in self.moments.items()}
        return replace(self.each(lambda _, correlation: _turned(correlation)), moments=moments)


def _first(leaves: Leaves) -> Leaves:
    """The leaves of a correlation, of which only A's are acted on; (n_A, n_B, k_A, k_B, ...)."""
    return tuple(one for leaf in leaves for one in (leaf, _still(leaf)))


def _second(leaves: Leaves) -> Leaves:
    return tuple(one for leaf in leaves for one in (_still(leaf), leaf))


def _still(leaf: Leaf) -> Leaf:
    """A leaf of the same size that nothing acts on."""
    return Leaf(-1, -1, False, leaf.size)


def _turned(correlation: Tensor) -> Tensor:
    return correlation.permute([dim + 1 - 2 * (dim % 2) for dim in range(correlation.dim())])


def mean_of(seen: Iterable[Activations], scale: float = 1.0) -> Activations:
    """The mean of what was seen of several models A with one B, times a factor; units and leaves are those of all."""
    count, total = 0, None
    for one in seen:
        count += 1
        total = one if total is None else _added(total, one)
    if total is None:
        raise ValueError("the mean of no correlations")
    share = scale / count
    return total.each(lambda _, correlation: correlation * share)


def _added(one: Activations, other: Activations) -> Activations:
    found = {
        unit: {leaves: correlation + other.correlations[unit][leaves] for leaves, correlation in table.items()}
        for unit, table in one.correlations.items()
    }
    return replace(one, correlations=found)


def agreement(tables: Iterable[tuple[Key, Tensor]]) -> float:
    """The value of the identity: the sum over equal positions of A and B."""
    total = 0.0
    for key, table in tables:
        left = table
        for _ in key:
            left = left.diagonal(dim1=1, dim2=2).sum(-1)
        total += float(left.sum())
    return total
