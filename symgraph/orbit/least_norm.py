"""Least norm over the non-compact part of the group: balancing and equalising (design section 10, step 4).

Each space has a closed form or a small convex problem given the others: invertible spaces take the geometric mean of
the second moments of their two sides, rotary ones a quarter power for each pair, scales a convex problem in their
logarithms. Neighbouring spaces share parameters, so these are repeated in turn until nothing moves; Anderson
acceleration removes the slow modes that run along deep chains of layers.

Source: Kempf and Ness 1979 (uniqueness up to the compact part); Walker and Ni 2011 (Anderson acceleration).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from symgraph.groups.elements import Element
from symgraph.groups.index_maps import IndexMaps
from symgraph.groups.map_class import DenseMaps
from symgraph.io.ranks import current
from symgraph.orbit.action import GroupElement, neutral, packed, unpacked
from symgraph.orbit.grams import add_to, gram
from symgraph.orbit.squared_norms import Logs, Occurrence, SquaredNorms, exponents_on
from symgraph.orbit.steps import State
from symgraph.orbit.tensor_blocks import Block, blocks, unfold
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.tracing.deferred import made

SWEEPS = 300
MEMORY = 6
# Moments that differ by so many times the rounding error are equal.
LEVEL = 1e2
# Logarithms that move by so many times the rounding error stand still.
STILL = 1e4
# What shrinks by less than this from one sweep to the next, and is small, is rounding.
SLOW = 0.9


def least_norm(
    symmetry: SymmetryGraph, state: Mapping[str, Tensor], homes: Mapping[str, int], near: Collection[str] | None = None
) -> GroupElement:
    """The element whose action on `state` has the least norm over all scales, invertible and rotary spaces.

    Spaces that share no tensor, such as those of two layers, are solved one after the other, so that no more than
    their tensors are held; of several processes each solves those of its tensors.

    Args:
        homes: the process that each tensor belongs to.
        near: of the sets of spaces those alone that have one of these tensors.
    """
    parts = [part for part in _apart(symmetry, state) if near is None or not set(near).isdisjoint(part.names)]

    def solved(part: _Part) -> dict[str, Any]:
        return packed(_LeastNorm(symmetry, part.spaces, {name: made(state[name]) for name in part.names}).run())

    elements: dict[int, Element] = {}
    for one in current().each(parts, [homes[part.names[0]] for part in parts], solved):
        elements |= unpacked(symmetry, one).elements
    return GroupElement(symmetry, elements)


def rescaled(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> set[str]:
    """The tensors that spaces which are not compact act on."""
    return {name for part in _apart(symmetry, state) for name in part.names}


class _Part(NamedTuple):
    """Spaces that share tensors, and these tensors."""

    spaces: list[Space]
    names: list[str]


def _apart(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> list[_Part]:
    """The spaces that are solved, in sets that share no tensor, with the tensors of each."""
    # What a checkpoint stores counts, be it a parameter or not: a mask of ones would otherwise run off.
    kept = symmetry.graph.state.keys() - symmetry.graph.transient
    parts: list[_Part] = []
    for space in symmetry.active:
        if not (space.scales or (isinstance(space.maps, DenseMaps) and not space.maps.compact)):
            continue
        own = dict.fromkeys(name for name in symmetry.parameters_of[space.id] if name in kept and name in state)
        if not own:
            continue
        near = [part for part in parts if not own.keys().isdisjoint(part.names)]
        parts = [part for part in parts if part not in near]
        spaces = [other for part in near for other in part.spaces]
        names = dict.fromkeys(name for part in near for name in part.names) | own
        parts.append(_Part([*spaces, space], list(names)))
    place = {space.id: number for number, space in enumerate(symmetry.active)}
    return [part._replace(spaces=sorted(part.spaces, key=lambda space: place[space.id])) for part in parts]


@dataclass(slots=True)
class _Table:
    """A block that matrices act on, as it is now."""

    block: Block

    def move(self, element: GroupElement) -> None:
        """Moves the block."""
        moved = element.on_block(self.block.tensors[0], self.block.leaves)
        self.block = replace(self.block, tensors=(moved,))

    def norms(self, dims: Sequence[int]) -> Tensor:
        """Squared norm of every slice along the last of these axes, for each position of the others: (F, n)."""
        return unfold(self.block.tensors[0], [*dims]).square().sum(-1)


class _LeastNorm:
    """Blocks that only scales act on are known by sums of squares, all others are moved."""

    def __init__(self, symmetry: SymmetryGraph, spaces: Sequence[Space], state: State) -> None:
        whole = symmetry.acting({name: tensor for name, tensor in state.items() if tensor.is_floating_point()})
        cut = (blocks(name, [tensor], symmetry.acting_terms[name]) for name, tensor in whole.items())
        every = list(chain.from_iterable(cut))
        dense = {space.id for space in spaces if isinstance(space.maps, DenseMaps)}
        tables = [_Table(block) for block in every if block.spaces() & dense]
        self.on = {space.id: [table for table in tables if space.id in table.block.spaces()] for space in spaces}
        scaled = [space for space in spaces if space.id not in dense]
        numbers = {space.id for space in scaled}
        squared = [block for block in every if block.spaces() & numbers and not block.spaces() & dense]
        self.symmetry = symmetry
        further = {space.id: [kind for kind, _, _ in self._occurrences(space)] for space in scaled}
        like = next(iter(whole.values()), torch.zeros(0))
        self.squares = SquaredNorms(symmetry, scaled, squared, further, like)
        self.eps = torch.finfo(like.dtype).eps
        self.element = GroupElement(symmetry, {})
        self.turns = self._turns(spaces)

    def _turns(self, spaces: Sequence[Space]) -> list[list[Space]]:
        """The spaces as they take turns: those that are alike and share no tensor together."""
        near = [*self.squares.near, *(table.block.spaces() for on in self.on.values() for table in on)]
        alike_turns: dict[object, list[list[Space]]] = {}
        turns: list[list[Space]] = []
        for space in spaces:
            beside = {number for numbers in near if space.id in numbers for number in numbers}
            alike = (space.group, self.symmetry.index_set(space), self.squares.kinds.get(space.id))
            free = (turn for turn in alike_turns.get(alike, []) if not beside & {other.id for other in turn})
            turn = next(free, None) if space.id in self.squares.kinds else None
            if turn is None:
                turn = []
                turns.append(turn)
                alike_turns.setdefault(alike, []).append(turn)
            turn.append(space)
        return turns

    def run(self) -> GroupElement:
        """Sweeps until nothing moves, or what moves is rounding that no longer shrinks."""
        accelerator, before = Anderson(), float("inf")
        for _ in range(SWEEPS if self.turns else 0):
            logs: Logs = {}
            moved = 0.0
            for turn in self.turns:
                scales = self._equalised(turn)
                self._scale(scales)
                logs |= scales
                moved = max(moved, *(_largest(log) for log in scales.values()), *map(self._balance, turn))
            if moved <= STILL * self.eps or (moved <= self.eps**0.5 and moved > SLOW * before):
                break
            before = moved
            self._scale(accelerator.step(logs))
        return GroupElement(self.symmetry, {**self.element.elements, **self._scaled(self.squares.logs)})

    # -- scales ------------------------------------------------------------------------------------------------

    def _equalised(self, turn: Sequence[Space]) -> Logs:
        """The logarithms of the scales of least norm on alike spaces, given all others: (p, F, n) for each."""
        maps = turn[0].maps
        if not isinstance(maps, IndexMaps):
            return {}
        norms = torch.stack([self._norms(space) for space in turn], dim=1)
        logs = maps.equalise(self.symmetry.index_set(turn[0]), norms, self.squares.powers(turn[0])).log()
        return dict(zip((space.id for space in turn), logs.unbind(1), strict=True))

    def _norms(self, space: Space) -> Tensor:
        """Squared norms of the kinds of occurrence of a space in parameters: (m, F, n)."""
        norms = self.squares.of(space)
        for kind, table, dims in self._occurrences(space):
            norms[self.squares.kinds[space.id].index(kind)] += table.norms(dims) / kind.times
        return norms

    def _occurrences(self, space: Space) -> Iterator[tuple[Occurrence, _Table, tuple[int, ...]]]:
        """Every axis on a space of what matrices act on, and how its scales act there."""
        for table in self.on[space.id]:
            several = table.block.stands(space)
            for dims in several:
                exponents = exponents_on(self.symmetry, table.block.leaves[dims[-1]])
                yield Occurrence(exponents, len(several)), table, dims

    def _scale(self, logs: Logs) -> None:
        self.squares.scale(logs)
        if any(self.on[space] for space in logs):
            self._move(self._scaled(logs))

    def _scaled(self, logs: Logs) -> dict[int, Element]:
        elements = {}
        for space, log in logs.items():
            element = neutral(self.symmetry, self.symmetry.spaces[space]).to(dtype=log.dtype, device=log.device)
            elements[space] = Element(element.index, log.exp(), element.sign)
        return elements

    # -- matrices ----------------------------------------------------------------------------------------------

    def _balance(self, space: Space) -> float:
        """Moves a space of matrices to its optimum, given all others; how far that is."""
        maps, on = space.maps, self.symmetry.index_set(space)
        if not isinstance(maps, DenseMaps):
            return 0.0
        co, dual = self._moments(space)
        # Sides that are equal are balanced, whatever the class: most spaces are once they were solved.
        if _largest(co - dual) <= LEVEL * self.eps * _largest(co):
            return 0.0
        balanced = maps.balance(co, dual, on.layout) or maps.neutral(on)
        if any(len(table.block.stands(space)) > 1 for table in self.on[space.id]):
            balanced = _half(balanced)
        self._move({space.id: balanced})
        self.element = GroupElement(self.symmetry, {space.id: balanced}).after(self.element)
        return 0.0 if balanced.matrix is None else _largest(balanced.matrix - torch.eye(space.size).to(balanced.matrix))

    def _moments(self, space: Space) -> tuple[Tensor, Tensor]:
        """Second moments of the covariant and of the dual side of a space: two (F, n, n)."""
        sides: dict[bool, Tensor] = {}
        for table in self.on[space.id]:
            for dims in table.block.stands(space):
                add_to(sides, table.block.leaves[dims[-1]].dual, gram(table.block.tensors[0], dims))
        like = next(iter(sides.values()))
        co, dual_side = (sides.get(side, torch.zeros_like(like)) for side in (False, True))
        return co, dual_side

    def _move(self, elements: dict[int, Element]) -> None:
        element = GroupElement(self.symmetry, elements)
        for table in {id(table): table for space in elements for table in self.on[space]}.values():
            table.move(element)


def _half(element: Element) -> Element:
    """The square root: where one tensor has a space on both sides, the whole way would go too far."""
    if element.matrix is None:
        return element
    values, vectors = torch.linalg.eigh((element.matrix + element.matrix.mT) / 2)
    roots = values.sqrt().unsqueeze(-2)
    return Element(matrix=(vectors * roots) @ vectors.mT, inverse_transpose=(vectors / roots) @ vectors.mT)


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


class Anderson:
    """Extrapolates a fixed-point iteration from the changes of its last steps."""

    def __init__(self) -> None:
        self.position: Tensor | None = None
        self.residuals: list[Tensor] = []
        self.images: list[Tensor] = []

    def step(self, change: Logs) -> Logs:
        """What to add after a sweep that has just moved the logarithms by `change`."""
        if not change:
            return {}
        residual = torch.cat([log.reshape(-1) for log in change.values()])
        start = torch.zeros_like(residual) if self.position is None else self.position
        if self.residuals and residual.norm() > 2 * self.residuals[-1].norm():
            self.residuals, self.images = [], []
        self.residuals = [*self.residuals, residual][-MEMORY:]
        self.images = [*self.images, start + residual][-MEMORY:]
        target = self._mix()
        self.position = target
        jump, mixed, at = target - self.images[-1], {}, 0
        for space, log in change.items():
            mixed[space] = jump[at : at + log.numel()].reshape(log.shape)
            at += log.numel()
        return mixed

    def _mix(self) -> Tensor:
        """The combination of images whose combined residual is least."""
        if len(self.residuals) == 1:
            return self.images[-1]
        last = self.residuals[-1]
        differences = torch.stack([last - earlier for earlier in self.residuals[:-1]], dim=1)
        weights = torch.linalg.lstsq(
            differences, last.unsqueeze(1), driver="gelsd" if last.device.type == "cpu" else None
        )
        gamma = weights.solution.squeeze(1)
        if not bool(torch.isfinite(gamma).all()) or float(gamma.abs().sum()) > 1e4:
            return self.images[-1]
        moves = torch.stack([self.images[-1] - image for image in self.images[:-1]], dim=1)
        mixed: Tensor = self.images[-1] - moves @ gamma
        return mixed
