"""Folding the spaces of a wide model, one after the other, so that a narrower model's positions hold what matters.

Rotations and circuits are changed by a symmetry first, so that what is cut off is the least; units are merged: what
enters is averaged by what leaves, what leaves is summed. Copies, dead units and empty directions go without a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.groups.elements import Element
from symgraph.groups.ways import Way
from symgraph.orbit.action import GroupElement, neutral
from symgraph.orbit.blend import merged as merged_at
from symgraph.orbit.grams import blocks_on, gram
from symgraph.orbit.steps import State
from symgraph.orbit.tensor_blocks import Block, by_matrix, on_blocks
from symgraph.resize.importance import sides
from symgraph.resize.maps import Widening
from symgraph.resize.narrow_clusters import Clusters, even, important, merged
from symgraph.resize.narrow_heads import Heads
from symgraph.resize.narrow_slopes import Exponents, Slopes, taken
from symgraph.resize.narrow_spectra import leading, truncated
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Leaf


@dataclass(frozen=True, slots=True)
class Fold:
    """What became of one space: how it was made smaller, and the share of its norm that was lost."""

    name: str
    before: int
    after: int
    how: str
    lost: float

    def __str__(self) -> str:
        return f"{self.name}  {self.before} -> {self.after}  {self.how}, {self.lost:.2%} of the norm lost"


@dataclass(frozen=True, slots=True)
class Keep:
    """Which units stay: those of the highest scores. The others are merged into the nearest of them, or dropped.

    `by`, given a space, its sides and whether its units have an inside, gives scores (F, m).
    """

    by: Callable[..., Tensor]
    drop: bool = False

    def __str__(self) -> str:
        return "the most important kept, others " + ("dropped" if self.drop else "merged into them")


class Folding:
    """A wide model in canonical form on its way: its tensors as the group acts on them, changed in place.

    `flows` are second moments (m, m), by the id of a stream, whose leading directions it keeps; of other streams these
    are those of their weights.
    """

    def __init__(
        self, symmetry: SymmetryGraph, state: State, keep: Keep | None = None, flows: Mapping[int, Tensor] | None = None
    ) -> None:
        self.symmetry, self.keep, self.flows = symmetry, keep, dict(flows or {})
        self.state = symmetry.acting(state)

    def result(self) -> State:
        """The state under its own names."""
        return self.symmetry.of_acting(self.state)

    def fold(self, space: Space, to: Widening) -> Fold:
        """Folds a space onto the positions that embedding the narrower one would fill."""
        if space.is_matrix and to.way is Way.PADDED:
            how, lost = "truncated circuits", self._truncate(space, to.narrow.size)
        elif space.is_matrix and to.way in (Way.ISOMETRIC, Way.CENTRED):
            how = "leading directions of what flows" if space.id in self.flows else "leading directions"
            lost = self._lead(space, to.narrow.size, centred=to.way is Way.CENTRED)
        elif to.way is Way.REPEATED:
            how, lost = "even groups averaged", self._group(space, to.narrow.size)
        else:
            how, lost = self._merge(space, to.narrow.size)
        return Fold(space.name, space.size, to.narrow.size, how, lost)

    def choose(self, space: Space, size: int) -> Fold:
        """Merges or drops whole parts of a model, such as experts, which stand at the first n positions then."""
        how, lost = self._merge(space, size)
        return Fold(space.name, space.size, size, how, lost)

    # -- matrices ----------------------------------------------------------------------------------------------

    def _moments(self, space: Space) -> dict[bool, Tensor]:
        """Second moments of both sides of a space, covariant and dual: (F, m, m) each."""
        shape = (*self.symmetry.fibre_sizes(space), space.size, space.size)
        moments = {dual: torch.zeros(shape, dtype=torch.float64) for dual in (False, True)}
        for block in self._blocks(space):
            moments[block.leaf(space).dual] += gram(block.tensors[0], block.dims(space))
        return moments

    def _truncate(self, space: Space, size: int) -> float:
        moments = self._moments(space)
        written, read, lost = truncated(moments[False], moments[True], size)
        self._multiply(space, {False: written, True: read})
        return lost

    def _lead(self, space: Space, size: int, *, centred: bool) -> float:
        moments = {False: self.flows[space.id]} if space.id in self.flows else self._moments(space)
        matrix, lost = leading(torch.stack([*moments.values()]).sum(0), size, centred=centred)
        self._multiply(space, {False: matrix, True: matrix})
        return lost

    def _multiply(self, space: Space, sides: dict[bool, Tensor]) -> None:
        def act(tensor: Tensor, dim: int, fibre: list[int], leaf: Leaf) -> Tensor:
            return by_matrix(tensor, dim, fibre, sides[leaf.dual].to(tensor))

        self._each(space, act)

    # -- units -------------------------------------------------------------------------------------------------

    def _merge(self, space: Space, size: int) -> tuple[str, float]:
        """Merges units of every position of the fibre; heads are brought into the basis of the one they join first."""
        heads, slopes = Heads(self.symmetry, space, self.state), Slopes(self.symmetry, space, self.state)
        drop = self.keep is not None and self.keep.drop
        if heads.whole:
            rows = sides(self.symmetry, space, self.state)
            score = None if self.keep is None else self.keep.by(space, rows, inside=True)[0]
            clusters = [heads.clusters(size, score, drop=drop)]
        else:
            slopes.fold()
            self._normalise(space, slopes)
            clusters = self._clusters(space, size, slopes.gains)
        place, weight = self._stacked(space, clusters)

        def act(tensor: Tensor, dim: int, fibre: list[int], leaf: Leaf) -> Tensor:
            return merged_at(tensor, dim, fibre, leaf, place, weight)

        self._each(space, act)
        slopes.unfold(place, weight)
        return "merged" if self.keep is None else str(self.keep), _overall(clusters)

    def _clusters(self, space: Space, size: int, unsaid: Collection[str]) -> list[Clusters]:
        said = {name: tensor for name, tensor in self.state.items() if name not in unsaid}
        rows = sides(self.symmetry, space, said)
        masses = rows[True].square().sum(-1)
        score = None if self.keep is None else self.keep.by(space, rows, inside=False)
        if self.keep is None or score is None:
            return [merged(row, mass, size) for row, mass in zip(rows[False], masses, strict=True)]
        each = zip(rows[False], masses, score, strict=True)
        return [important(row, mass, own, size, drop=self.keep.drop) for row, mass, own in each]

    def _group(self, space: Space, size: int) -> float:
        """Brings the units of every place beside each other; embedding's own inverse averages them."""
        self._normalise(space, Slopes(self.symmetry, space, self.state))
        rows = sides(self.symmetry, space, self.state)
        clusters = [
            even(torch.cat([row, dual_row], dim=1), size) for row, dual_row in zip(rows[False], rows[True], strict=True)
        ]
        place, _ = self._stacked(space, clusters)
        self._move(space, Element(place.argsort(dim=-1, stable=True)))
        return _overall(clusters)

    def _normalise(self, space: Space, slopes: Slopes) -> None:
        """Units that are equal up to a scale and a sign made equal: entering norms one, and one half of all signs."""
        start = neutral(self.symmetry, space)
        scale, sign = start.scale, start.sign
        even = torch.ones(())
        for way in slopes.free("scale"):
            norm = self._sums(space, way, "scale")[1].sqrt()
            even = torch.where(norm > 0, 1.0 / torch.where(norm > 0, norm, 1.0), 1.0)
            scale = _by(scale, way, even)
        for way in slopes.free("sign"):
            sign = _by(sign, way, torch.where(self._sums(space, way, "sign")[0] < 0, -1.0, 1.0))
        if scale is not None or sign is not None:
            self._move(space, Element(start.index, scale, sign))
            slopes.follow(even)

    def _sums(self, space: Space, way: Exponents, kind: str) -> tuple[Tensor, Tensor]:
        """Of what enters with a scale or sign: random combinations, and squared norms, of each unit (F, m)."""
        shape = (*self.symmetry.fibre_sizes(space), space.size)
        combined, squares = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        generator = torch.Generator().manual_seed(0)
        for block in self._blocks(space):
            leaf = block.leaf(space)
            exponent = taken(self.symmetry.frame(leaf.frame), kind, way)
            if not leaf.dual and exponent % 2 and exponent > 0:
                rows = block.rows(space)
                combined += rows @ torch.randn(rows.shape[-1], generator=generator, dtype=torch.float64)
                squares += rows.square().sum(-1)
        return combined, squares

    def _stacked(self, space: Space, groups: Sequence[Clusters]) -> tuple[Tensor, Tensor]:
        shape = (*self.symmetry.fibre_sizes(space), space.size)
        places = torch.stack([group.place for group in groups])
        weights = torch.stack([group.weight for group in groups])
        return places.reshape(shape), weights.reshape(shape)

    # -- acting ------------------------------------------------------------------------------------------------

    def _blocks(self, space: Space) -> Iterator[Block]:
        yield from blocks_on(self.symmetry, space.id, [self.state], self.symmetry.acting_parameters.__contains__)

    def _move(self, space: Space, element: Element) -> None:
        self.state.update(GroupElement(self.symmetry, {space.id: element}).on_stacked(self.state))

    def _each(self, space: Space, act: Callable[[Tensor, int, list[int], Leaf], Tensor]) -> None:
        """Applies a map along every axis on the space, of every tensor."""

        def on(tensor: Tensor, leaves: tuple[Leaf, ...]) -> Tensor:
            at = {leaf.space: dim for dim, leaf in reversed(list(enumerate(leaves)))}
            for dim, leaf in enumerate(leaves):
                if leaf.space == space.id:
                    tensor = act(tensor, dim, [at[outer] for outer in space.fibre], leaf)
            return tensor

        for name in self.symmetry.acting_on[space.id]:
            if name in self.state:
                self.state[name] = on_blocks(self.state[name], self.symmetry.acting_terms[name], on)


def _by(factors: Tensor | None, way: Exponents, values: Tensor) -> Tensor | None:
    """Factors of all generators, (p, F, m), times powers of these values, (F, m)."""
    return None if factors is None else factors * torch.stack([values**exponent for exponent in way])


def _overall(clusters: Sequence[Clusters]) -> float:
    """The share that is lost over all positions of a fibre."""
    return math.sqrt(sum(group.lost**2 for group in clusters) / len(clusters))
