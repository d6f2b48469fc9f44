"""Calls that normalise by stored statistics, such as batch norms, folded into what writes them while units are merged.

Averages of weights mean something where all units are multiplied by the same number after them: the slope of a batch
norm, its gain over the root of its variance, goes into the weights before it by the scales that the symmetry graph
admits there. After units were merged the gain is chosen so that the slope is one for the variance that they have now,
and the mean slope of what was merged goes back. The variance that is stored is the mean of those of the units, as many
times as their weights were multiplied: training goes on from statistics of the right size.

Source: Theus et al., Intra-Fusion (arXiv 2402.07839), which folds batch norms first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from symgraph.groups.elements import Element
from symgraph.orbit.action import GroupElement, neutral
from symgraph.orbit.norm_call import NormCall
from symgraph.orbit.steps import State, Transform
from symgraph.orbit.uneven import Restate
from symgraph.symmetry.families import Statistics
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Frame, Space
from symgraph.symmetry.terms import Leaf, Term, leaves

Exponents = tuple[int, ...]
# Slopes below this part of the largest one are as good as zero.
LEAST = 1e-12


@dataclass(frozen=True, slots=True)
class _Way:
    """How the slope of a call goes into what writes its input: exponents of the generators of scales, and of signs.

    `still` are the stored statistics that this does not change, as a variance: they take the square of the slope.
    """

    scales: Exponents
    signs: Exponents
    still: tuple[str, ...]

    def element(self, slope: Tensor, like: Element) -> Element:
        """The element that multiplies what is written by the slope, and divides the gain by it."""
        scale = [slope.abs() ** exponent for exponent in self.scales]
        sign = [torch.where(slope < 0, -1.0, 1.0) if exponent else torch.ones_like(slope) for exponent in self.signs]
        made = (torch.stack(parts).double() if parts else None for parts in (scale, sign))
        return Element(like.index, *made)


class Slopes:
    """The calls on a space whose slopes can go into the weights before them, in a state whose branches are stacked."""

    def __init__(self, symmetry: SymmetryGraph, space: Space, state: State) -> None:
        self.symmetry, self.space, self.state = symmetry, space, state
        own = [statistics for statistics in symmetry.statistics if self._stands(statistics)]
        ways = [self._way(statistics, [other for other in own if other is not statistics]) for statistics in own]
        self.calls = [(statistics, way) for statistics, way in zip(own, ways, strict=True) if way is not None]
        self.slopes: dict[str, Tensor] = {}

    @property
    def gains(self) -> set[str]:
        """The gains of these calls, which say nothing of the units once all slopes are one."""
        return {statistics.gain for statistics, _ in self.calls}

    def sizes(self, before: State, after: State, transform: Transform) -> None:
        """Gives the statistics that a transform left the sizes of what they are statistics of.

        The others move as what is written does, and so do standard deviations in their place.
        """
        for statistics, way in self.calls:
            moving = [name for name in statistics.tensors if name not in way.still]
            for mean in moving[:1] if way.still else ():
                spread = torch.stack([before[name].clamp_min(0.0).sqrt() for name in way.still]).sum(0)
                moved = transform.apply({**before, mean: before[mean] + spread})[mean] - after[mean]
                self._follow(statistics, way, moved / torch.where(spread > 0, spread, 1.0))

    def free(self, kind: str) -> list[Exponents]:
        """The scales, or signs, of the units that leave slopes as they are, as exponents of the generators."""
        count = getattr(self.space, f"{kind}s")
        if not self.calls:
            return [tuple(int(place == chosen) for place in range(count)) for chosen in range(count)]
        frames = [(self._frame(statistics.gain), self._frame(statistics.bias)) for statistics, _ in self.calls]

        def fits(exponents: Exponents) -> bool:
            ends = [(taken(gain, kind, exponents), taken(bias, kind, exponents)) for gain, bias in frames]
            return all(gain == 0 and bias == 1 for gain, bias in ends)

        return [exponents for exponents in product((0, 1, -1), repeat=count) if fits(exponents)][:1]

    def fold(self) -> None:
        """Brings all slopes to one."""
        for statistics, way in self.calls:
            slope = self._slope(statistics)
            least = LEAST * slope.abs().max().clamp_min(1.0)
            slope = torch.where(slope.abs() < least, least, slope)
            self.slopes[statistics.node] = slope.abs()
            self._move(statistics, way, slope)

    def unfold(self, place: Tensor, weight: Tensor) -> None:
        """After units were merged: slopes of one again, then the mean slope of each place goes back."""
        for statistics, way in self.calls:
            rest, _ = NormCall(self.symmetry.graph, statistics).affine(self.state)
            self.state[statistics.gain] = 1.0 / rest
            sums = torch.zeros_like(weight).index_add_(0, place, weight * self.slopes[statistics.node])
            self._move(statistics, way, 1.0 / torch.where(sums > 0, sums, 1.0))

    def _move(self, statistics: Statistics, way: _Way, slope: Tensor) -> None:
        """Multiplies what is written by the slope; statistics, gain and bias follow, and nothing else changes."""
        element = way.element(slope, neutral(self.symmetry, self.space))
        self.state.update(GroupElement(self.symmetry, {self.space.id: element}).on_stacked(self.state))
        self._follow(statistics, way, slope)

    def follow(self, scale: Tensor) -> None:
        """After what is written was scaled: statistics that stayed take it up, gain and bias make up for that."""
        for statistics, way in self.calls:
            self._follow(statistics, way, scale.reshape(-1))

    def _follow(self, statistics: Statistics, way: _Way, scale: Tensor) -> None:
        more = [(scale.square() - 1) * self.state[name] * (name in way.still) for name in statistics.tensors]
        norm = NormCall(self.symmetry.graph, statistics)
        self.state.update(Restate(self.symmetry, norm, torch.stack(more)).act(self.state))

    def _slope(self, statistics: Statistics) -> Tensor:
        slope, _ = NormCall(self.symmetry.graph, statistics).affine(self.state)
        return slope * self.state[statistics.gain]

    def _stands(self, statistics: Statistics) -> bool:
        """Whether all that the call reads beside its input has the units as its one axis."""
        names = (*statistics.tensors, statistics.gain, statistics.bias)
        if self.space.fibre or not all(name in self.state for name in names):
            return False
        axes = (self.symmetry.terms.get(name, ()) for name in names)
        return all(len(terms) == 1 and self._is_units(terms[0]) for terms in axes)

    def _is_units(self, term: Term) -> bool:
        return isinstance(term, Leaf) and term.space == self.space.id

    def _frame(self, name: str) -> Frame:
        (axis,) = self.symmetry.terms[name]
        (leaf,) = leaves(axis)
        return self.symmetry.frame(leaf.frame)

    def _way(self, statistics: Statistics, others: Sequence[Statistics]) -> _Way | None:
        """The exponents that take the gain's factor to its input alone; None where something else would change."""
        gain, moved = self._frame(statistics.gain), [self._frame(name) for name in statistics.tensors]
        others_read = [name for other in others for name in (other.gain, *other.tensors)]
        still = [self._frame(name) for name in (statistics.bias, *others_read)]

        def fits(exponents: Exponents, kind: str) -> bool:
            power = taken(gain, kind, exponents)
            sizes = [taken(frame, kind, exponents) for frame in moved]
            kept = [taken(frame, kind, exponents) for frame in still]
            if kind == "sign":
                same = not any(exponent % 2 for exponent in kept)
                return same and power % 2 == 1 and any(size % 2 for size in sizes)
            return power == -1 and max(sizes) == 1 and not any(kept)

        powers, parities = product((0, 1, -1), repeat=self.space.scales), product((0, 1), repeat=self.space.signs)
        scales = next((exponents for exponents in powers if fits(exponents, "scale")), None)
        signs = next((exponents for exponents in parities if fits(exponents, "sign")), None)
        if scales is None or signs is None:
            return None
        pairs = zip(statistics.tensors, moved, strict=True)
        return _Way(scales, signs, tuple(name for name, frame in pairs if not taken(frame, "scale", scales)))


def taken(frame: Frame, kind: str, way: Exponents) -> int:
    """The exponent with which a frame takes what has these exponents over the generators of scales, or of signs."""
    return sum(exponent * power for exponent, power in zip(getattr(frame, kind), way, strict=True))
