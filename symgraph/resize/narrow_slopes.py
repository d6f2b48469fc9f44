"""Calls that normalise by stored statistics, such as batch norms, folded into what writes them while units are merged.

Averages of weights mean something where all units are multiplied by the same number after them: the slope of a batch
norm, its gain over the root of its variance, goes into the weights before it by the scales that the symmetry graph
admits there. After units were merged the gain is chosen so that the slope is one for the variance that they have now,
and the mean slope of what was merged goes back. The variance that is stored is the mean of those of the units, as many
times as their weights were multiplied: training goes on from statistics of the right size.

Source: Theus et al., Intra-Fusion (arXiv 2402.07839), which folds batch norms first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from symgraph.groups.elements import Element
from symgraph.orbit.action import GroupElement, neutral
from symgraph.orbit.steps import State, Transform
from symgraph.orbit.uneven import Restate, affine
from symgraph.symmetry.families import Statistics
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Frame, Space
from symgraph.symmetry.terms import Leaf, leaves

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
        scale = [slope.abs() ** t for t in self.scales]
        sign = [torch.where(slope < 0, -1.0, 1.0) if t else torch.ones_like(slope) for t in self.signs]
        made = (torch.stack(x).double() if x else None for x in (scale, sign))
        return Element(like.index, *made)


class Slopes:
    """The calls on a space whose slopes can go into the weights before them, in a state whose branches are stacked."""

    def __init__(self, symmetry: SymmetryGraph, space: Space, state: State) -> None:
        self.symmetry, self.space, self.state = symmetry, space, state
        own = [s for s in symmetry.statistics if self._stands(s)]
        ways = ((s, self._way(s, [o for o in own if o is not s])) for s in own)
        self.calls = [(s, way) for s, way in ways if way is not None]
        self.slopes: dict[str, Tensor] = {}

    @property
    def gains(self) -> set[str]:
        """The gains of these calls, which say nothing of the units once all slopes are one."""
        return {s.gain for s, _ in self.calls}

    def sizes(self, before: State, after: State, transform: Transform) -> None:
        """Gives the statistics that a transform left the sizes of what they are statistics of.

        The others move as what is written does, and so do standard deviations in their place.
        """
        pairs = [(s, way, [n for n in s.tensors if n not in way.still]) for s, way in self.calls]
        for s, way, moving in pairs:
            for mean in moving[:1] if way.still else ():
                spread = torch.stack([before[n].clamp_min(0.0).sqrt() for n in way.still]).sum(0)
                moved = transform.apply({**before, mean: before[mean] + spread})[mean] - after[mean]
                self._follow(s, way, moved / torch.where(spread > 0, spread, 1.0))

    def free(self, kind: str) -> list[Exponents]:
        """The scales, or signs, of the units that leave slopes as they are, as exponents of the generators."""
        count = getattr(self.space, f"{kind}s")
        if not self.calls:
            return [tuple(int(i == k) for i in range(count)) for k in range(count)]
        frames = [(self._frame(s.gain), self._frame(s.bias)) for s, _ in self.calls]

        def fits(t: Exponents) -> bool:
            ends = [(taken(gain, kind, t), taken(bias, kind, t)) for gain, bias in frames]
            return all(gain == 0 and bias == 1 for gain, bias in ends)

        return [t for t in product((0, 1, -1), repeat=count) if fits(t)][:1]

    def fold(self) -> None:
        """Brings all slopes to one."""
        for s, way in self.calls:
            slope = self._slope(s)
            least = LEAST * slope.abs().max().clamp_min(1.0)
            slope = torch.where(slope.abs() < least, least, slope)
            self.slopes[s.node] = slope.abs()
            self._move(s, way, slope)

    def unfold(self, place: Tensor, weight: Tensor) -> None:
        """After units were merged: slopes of one again, then the mean slope of each place goes back."""
        for s, way in self.calls:
            rest, _ = affine(self.symmetry.graph, s, self.state)
            self.state[s.gain] = 1.0 / rest
            sums = torch.zeros_like(weight).index_add_(0, place, weight * self.slopes[s.node])
            self._move(s, way, 1.0 / torch.where(sums > 0, sums, 1.0))

    def _move(self, s: Statistics, way: _Way, slope: Tensor) -> None:
        """Multiplies what is written by the slope; statistics, gain and bias follow, and nothing else changes."""
        element = way.element(slope, neutral(self.symmetry, self.space))
        self.state.update(GroupElement(self.symmetry, {self.space.id: element}).on_stacked(self.state))
        self._follow(s, way, slope)

    def follow(self, scale: Tensor) -> None:
        """After what is written was scaled: statistics that stayed take it up, gain and bias make up for that."""
        for s, way in self.calls:
            self._follow(s, way, scale.reshape(-1))

    def _follow(self, s: Statistics, way: _Way, scale: Tensor) -> None:
        more = [(scale.square() - 1) * self.state[n] * (n in way.still) for n in s.tensors]
        self.state.update(Restate(self.symmetry.graph, s, torch.stack(more)).apply(self.state))

    def _slope(self, s: Statistics) -> Tensor:
        slope, _ = affine(self.symmetry.graph, s, self.state)
        return slope * self.state[s.gain]

    def _stands(self, s: Statistics) -> bool:
        """Whether all that the call reads beside its input has the units as its one axis."""
        axes = [self.symmetry.terms.get(n, ()) for n in (*s.tensors, s.gain, s.bias)]
        single = all(len(a) == 1 and isinstance(a[0], Leaf) and a[0].space == self.space.id for a in axes)
        return single and not self.space.fibre and all(n in self.state for n in (*s.tensors, s.gain, s.bias))

    def _frame(self, name: str) -> Frame:
        (axis,) = self.symmetry.terms[name]
        (leaf,) = leaves(axis)
        return self.symmetry.frame(leaf.frame)

    def _way(self, s: Statistics, others: Sequence[Statistics]) -> _Way | None:
        """The exponents that take the gain's factor to its input alone; None where something else would change."""
        gain, moved = self._frame(s.gain), [self._frame(n) for n in s.tensors]
        still = [self._frame(s.bias), *(self._frame(n) for o in others for n in (o.gain, *o.tensors))]

        def fits(t: Exponents, kind: str) -> bool:
            sizes = [taken(f, kind, t) for f in moved]
            if kind == "sign":
                same = not any(taken(f, kind, t) % 2 for f in still)
                return same and taken(gain, kind, t) % 2 == 1 and any(x % 2 for x in sizes)
            return taken(gain, kind, t) == -1 and max(sizes) == 1 and not any(taken(f, kind, t) for f in still)

        scales = _first(t for t in product((0, 1, -1), repeat=self.space.scales) if fits(t, "scale"))
        signs = _first(t for t in product((0, 1), repeat=self.space.signs) if fits(t, "sign"))
        if scales is None or signs is None:
            return None
        still_there = (n for n, f in zip(s.tensors, moved, strict=True) if not taken(f, "scale", scales))
        return _Way(scales, signs, tuple(still_there))


def taken(frame: Frame, kind: str, way: Exponents) -> int:
    """The exponent with which a frame takes what has these exponents over the generators of scales, or of signs."""
    return sum(a * b for a, b in zip(getattr(frame, kind), way, strict=True))


def _first(found: Iterator[Exponents]) -> Exponents | None:
    return next(found, None)
