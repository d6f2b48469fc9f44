"""Least norm over the non-compact part of the group: balancing and equalising (design section 10, step 4).

Each space has a closed form or a small convex problem given the others: invertible spaces take the geometric mean of
the second moments of their two sides, rotary ones a quarter power for each pair, scales a convex problem in their
logarithms. Neighbouring spaces share parameters, so these are repeated in turn until nothing moves; Anderson
acceleration removes the slow modes that run along deep chains of layers.

Source: Kempf and Ness 1979 (uniqueness up to the compact part); Walker and Ni 2011 (Anderson acceleration).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symgraph.groups.elements import Element
from symgraph.groups.index_maps import IndexMaps
from symgraph.groups.map_class import DenseMaps
from symgraph.orbit.action import GroupElement, neutral
from symgraph.orbit.grams import gram
from symgraph.orbit.steps import State
from symgraph.orbit.tensor_blocks import Block, blocks, unfold
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Term
from symgraph.tracing.deferred import made

SWEEPS = 300
MEMORY = 6
Logs = dict[int, Tensor]


def least_norm(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> GroupElement:
    """The element whose action on `state` has the least norm over all scales, invertible and rotary spaces.

    Spaces that share no tensor, such as those of two layers, are solved one after the other, so that no more than
    their tensors are held.
    """
    found: dict[int, Element] = {}
    for spaces, names in _apart(symmetry, state):
        found |= _LeastNorm(symmetry, spaces, {n: made(state[n]) for n in names}).run().elements
    return GroupElement(symmetry, found)


def _apart(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> list[tuple[list[Space], list[str]]]:
    """The spaces that are solved, in sets that share no tensor, with the tensors of each."""
    # What a checkpoint stores counts, be it a parameter or not: a mask of ones would otherwise run off.
    kept = symmetry.graph.state.keys() - symmetry.graph.transient
    found: list[tuple[list[Space], dict[str, None]]] = []
    for space in symmetry.active:
        if not (space.scales or (isinstance(space.maps, DenseMaps) and not space.maps.compact)):
            continue
        names = dict.fromkeys(n for n in symmetry.parameters_of[space.id] if n in kept and n in state)
        near = [part for part in found if part[1].keys() & names.keys()]
        found = [part for part in found if part not in near]
        spaces = [s for part in near for s in part[0]]
        found.append(([*spaces, space], {n: None for part in near for n in part[1]} | names))
    place = {space.id: i for i, space in enumerate(symmetry.active)}
    return [(sorted(spaces, key=lambda s: place[s.id]), list(names)) for spaces, names in found]


@dataclass(slots=True)
class _Table:
    """A block as it is now; where only scales act on it, the sums of its squares, which they act on squared."""

    block: Block
    squared: bool

    def move(self, element: GroupElement) -> None:
        """Moves the block."""
        moved = element.on_block(self.block.tensors[0], self.block.leaves)
        self.block = replace(self.block, tensors=(moved,))

    def norms(self, space: Space) -> Tensor:
        """Squared norm of every slice on a space, for each position of its fibre: (F, n)."""
        x = unfold(self.block.tensors[0], [*map(self.block.dim, space.fibre), self.block.dim(space.id)])
        return x.sum(-1) if self.squared else x.square().sum(-1)


def _tables(spaces: Sequence[Space], name: str, tensor: Tensor, axes: Sequence[Term]) -> Iterator[_Table]:
    """The tables of a parameter that some of the spaces act on."""
    for block in blocks(name, [tensor], axes):
        acting = [s for s in spaces if s.id in block.spaces()]
        squared = all(isinstance(s.maps, IndexMaps) for s in acting)
        kept = {i for s in acting for i in (s.id, *s.fibre)}
        dims = [d for d, leaf in enumerate(block.leaves) if leaf.space in kept]
        if squared and acting:
            leaves, sums = tuple(block.leaves[d] for d in dims), unfold(block.tensors[0], dims).square().sum(-1)
            block = Block(name, leaves, (sums,))
        if acting:
            yield _Table(block, squared)


def _squared(e: Element) -> Element:
    """What an element that only scales does to squares."""
    return e if e.scale is None else Element(e.index, e.scale.square(), e.sign)


class _LeastNorm:
    def __init__(self, symmetry: SymmetryGraph, spaces: Sequence[Space], state: State) -> None:
        self.symmetry, self.spaces = symmetry, spaces
        held = {n: t for n, t in state.items() if t.is_floating_point()}
        whole = symmetry.stacked(symmetry.shifted(held))
        self.tables = [t for n, x in whole.items() for t in _tables(spaces, n, x, symmetry.acting_terms[n])]
        self.on = {s.id: [t for t in self.tables if s.id in t.block.spaces()] for s in spaces}
        self.element = GroupElement(symmetry, {})
        self.eps = torch.finfo(next(iter(whole.values())).dtype).eps if whole else 0.0

    def run(self) -> GroupElement:
        """Sweeps until nothing moves, or what moves is rounding that no longer shrinks."""
        accelerator, before = _Anderson(), float("inf")
        for _ in range(SWEEPS if self.spaces else 0):
            logs: Logs = {}
            moved = 0.0
            for space in self.spaces:
                found = self._optimum(space)
                moved = max(moved, _size(found))
                self._apply({space.id: found})
                if found.scale is not None:
                    logs[space.id] = found.scale.log()
            if moved <= 1e4 * self.eps or (moved <= self.eps**0.5 and moved > 0.5 * before):
                break
            before = moved
            jump = accelerator.step(logs)
            if jump:
                self._apply({i: self._scaled(i, x.exp()) for i, x in jump.items()})
        return self.element

    def _apply(self, elements: dict[int, Element]) -> None:
        element = GroupElement(self.symmetry, elements)
        squared = GroupElement(self.symmetry, {i: _squared(e) for i, e in elements.items()})
        for table in self.tables:
            if table.block.spaces() & elements.keys():
                table.move(squared if table.squared else element)
        self.element = element.after(self.element)

    def _scaled(self, space: int, scale: Tensor) -> Element:
        e = neutral(self.symmetry, self.symmetry.spaces[space]).to(dtype=scale.dtype, device=scale.device)
        return Element(e.index, scale, e.sign)

    def _optimum(self, space: Space) -> Element:
        maps, on = space.maps, self.symmetry.index_set(space)
        if isinstance(maps, IndexMaps):
            return self._scaled(space.id, maps.equalise(on, *self._norms(space)))
        found = maps.balance(*self._moments(space), on.layout) if isinstance(maps, DenseMaps) else None
        return found or maps.neutral(on)

    def _moments(self, space: Space) -> tuple[Tensor, Tensor]:
        """Second moments of the covariant and of the dual side of a space: two (F, n, n)."""
        sides: dict[bool, Tensor] = {}
        for block in (t.block for t in self.on[space.id]):
            dim = block.dim(space.id)
            g = gram(block.tensors[0], dim, [block.dim(f) for f in space.fibre])
            dual = block.leaves[dim].dual
            sides[dual] = sides[dual] + g if dual in sides else g
        like = next(iter(sides.values()))
        co, dual_side = (sides.get(d, torch.zeros_like(like)) for d in (False, True))
        return co, dual_side

    def _norms(self, space: Space) -> tuple[Tensor, Tensor]:
        """Squared norms (m, F, n) and exponents (m, p) of the m kinds of occurrence of a space in parameters."""
        total: dict[tuple[int, ...], Tensor] = {}
        for table in self.on[space.id]:
            leaf = table.block.leaves[table.block.dim(space.id)]
            exponent = tuple(-e if leaf.dual else e for e in self.symmetry.frame(leaf.frame).scale)
            n = table.norms(space)
            total[exponent] = total[exponent] + n if exponent in total else n
        values = torch.stack(list(total.values()))
        return values, torch.tensor(list(total), dtype=values.dtype, device=values.device)


class _Anderson:
    """Extrapolates a fixed-point iteration from the changes of its last steps."""

    def __init__(self) -> None:
        self.position: Tensor | None = None
        self.residuals: list[Tensor] = []
        self.images: list[Tensor] = []

    def step(self, change: Logs) -> Logs:
        """What to add after a sweep that has just moved the logarithms by `change`."""
        if not change:
            return {}
        r = torch.cat([x.reshape(-1) for x in change.values()])
        start = torch.zeros_like(r) if self.position is None else self.position
        if self.residuals and r.norm() > 2 * self.residuals[-1].norm():
            self.residuals, self.images = [], []
        self.residuals = [*self.residuals, r][-MEMORY:]
        self.images = [*self.images, start + r][-MEMORY:]
        target = self._mix()
        self.position = target
        jump, found, at = target - self.images[-1], {}, 0
        for i, x in change.items():
            found[i] = jump[at : at + x.numel()].reshape(x.shape)
            at += x.numel()
        return found

    def _mix(self) -> Tensor:
        """The combination of images whose combined residual is least."""
        if len(self.residuals) == 1:
            return self.images[-1]
        last = self.residuals[-1]
        differences = torch.stack([last - r for r in self.residuals[:-1]], dim=1)
        weights = torch.linalg.lstsq(
            differences, last.unsqueeze(1), driver="gelsd" if last.device.type == "cpu" else None
        )
        gamma = weights.solution.squeeze(1)
        if not bool(torch.isfinite(gamma).all()) or float(gamma.abs().sum()) > 1e4:
            return self.images[-1]
        moves = torch.stack([self.images[-1] - g for g in self.images[:-1]], dim=1)
        mixed: Tensor = self.images[-1] - moves @ gamma
        return mixed


def _size(e: Element) -> float:
    """How far an element is from the identity."""
    if e.matrix is not None:
        return float(
            (e.matrix - torch.eye(e.matrix.shape[-1], dtype=e.matrix.dtype, device=e.matrix.device)).abs().max()
        )
    return 0.0 if e.scale is None or not e.scale.numel() else float(e.scale.log().abs().max())
