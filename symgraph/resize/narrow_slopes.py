"""Calls that normalise by stored statistics, such as batch norms, folded into what writes them while units are merged.

Averages of weights mean something where all units are multiplied by the same number after them: the slope of a batch
norm, its gain over the root of its variance, goes into the weights before it by the scales that the symmetry graph
admits there. After units were merged the gain is chosen so that the slope is one for the variance that they have now,
and the mean slope of what was merged goes back: nothing is lost, and training goes on from statistics of the right size.

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
from symgraph.orbit.steps import State
from symgraph.orbit.uneven import affine
from symgraph.symmetry.families import Statistics
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Frame, Space
from symgraph.symmetry.terms import Leaf

# Slopes below this part of the largest one are as good as zero.
LEAST = 1e-12


@dataclass(frozen=True, slots=True)
class _Way:
    """How the slope of a call goes into what writes its input: exponents of the generators of scales, and of signs."""

    scales: tuple[int, ...]
    signs: tuple[int, ...]

    def element(self, space: Space, slope: Tensor, like: Element) -> Element:
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

    def fold(self) -> None:
        """Brings all slopes to one."""
        for s, way in self.calls:
            slope = self._slope(s)
            least = LEAST * slope.abs().max().clamp_min(1.0)
            slope = torch.where(slope.abs() < least, least, slope)
            self.slopes[s.node] = slope.abs()
            self._move(way, slope)

    def unfold(self, place: Tensor, weight: Tensor) -> None:
        """After units were merged: slopes of one again, then the mean slope of each place goes back."""
        for s, way in self.calls:
            rest, _ = affine(self.symmetry.graph, s, self.state)
            self.state[s.gain] = 1.0 / rest
            sums = torch.zeros_like(weight).index_add_(0, place, weight * self.slopes[s.node])
            self._move(way, 1.0 / torch.where(sums > 0, sums, 1.0))

    def _move(self, way: _Way, slope: Tensor) -> None:
        element = way.element(self.space, slope, neutral(self.symmetry, self.space))
        self.state.update(GroupElement(self.symmetry, {self.space.id: element}).on_stacked(self.state))

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
        assert isinstance(axis, Leaf)
        return self.symmetry.frame(axis.frame)

    def _way(self, s: Statistics, others: Sequence[Statistics]) -> _Way | None:
        """The exponents that take the gain's factor to its input alone; None where something else would change."""
        gain, moved = self._frame(s.gain), [self._frame(n) for n in s.tensors]
        still = [self._frame(s.bias), *(self._frame(n) for o in others for n in (o.gain, *o.tensors))]

        def fits(t: Sequence[int], kind: str) -> bool:
            def taken(frame: Frame) -> int:
                return sum(a * b for a, b in zip(getattr(frame, kind), t, strict=True))

            sizes = [taken(f) for f in moved]
            if kind == "sign":
                return taken(gain) % 2 == 1 and any(x % 2 for x in sizes) and not any(taken(f) % 2 for f in still)
            return taken(gain) == -1 and max(sizes) == 1 and not any(map(taken, still))

        scales = _first(t for t in product((0, 1, -1), repeat=self.space.scales) if fits(t, "scale"))
        signs = _first(t for t in product((0, 1), repeat=self.space.signs) if fits(t, "sign"))
        return None if scales is None or signs is None else _Way(scales, signs)


def _first(found: Iterator[tuple[int, ...]]) -> tuple[int, ...] | None:
    return next(found, None)
