"""One point of an orbit: what the canonical form leaves open is settled here as well.

Beside tilts and leans on gains, which depend on the model, what it leaves is compact:

    order   units by their norms, the largest first: no other space changes them
    axes    rotated spaces along their principal axes, the largest first
    signs   and angles of pairs, by what is read or written along axes that are settled already

Inputs, outputs and vocabularies are settled from the start; from there it goes through the tensors. Models on one orbit
come to one point, as far as no two units have the same norm, no two axes the same second moment, and no invertible
space is written into by another rank than is read from it: no point of such an orbit has the least norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from symgraph.groups.assignment import best_signs
from symgraph.groups.elements import Element
from symgraph.groups.frequency_pairs import pair_indices, sum_of_pairs
from symgraph.groups.index_maps import IndexMaps
from symgraph.groups.map_class import DenseMaps
from symgraph.orbit.action import GroupElement, neutral
from symgraph.orbit.canonical import Canonical
from symgraph.orbit.constant_steps import Shift
from symgraph.orbit.freedoms import to_clean_gauge
from symgraph.orbit.grams import add_to, blocks_on, gram
from symgraph.orbit.norm_call import NormCall
from symgraph.orbit.step import Step
from symgraph.orbit.steps import Act, State, Transform
from symgraph.orbit.tensor_blocks import Block
from symgraph.orbit.uneven import Restate
from symgraph.orbit.upright import upright
from symgraph.orbit.wreath import permutes
from symgraph.symmetry.families import Constant
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space


def unique(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> Canonical:
    """The canonical form of a model with what it leaves settled too: tilts, leans, orders, principal axes and signs.

    Raises:
        CheckpointError: as for `canonicalise`.

    Source: design section 10; principal axes as in Ashkboos et al., SliceGPT, ICLR 2024.
    """
    before, level = _level(symmetry, state)
    canonical = upright(symmetry, level)
    act = Act(_Settling(symmetry, canonical.state).run())
    whole = before.then(canonical.transform).then(Transform((act,)))
    return Canonical(act.apply(canonical.state), whole, canonical.singular)


def _level(symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> tuple[Transform, Mapping[str, Tensor]]:
    """The model with biases that may be anything, and stored statistics, where they are for every model."""
    constants = [constant for constant in symmetry.constants if not constant.settled and constant.through is None]
    if not constants and not symmetry.statistics:
        return Transform(), state
    before, level = to_clean_gauge(symmetry, state)
    for step in _levelling(symmetry, constants, level):
        before, level = before.then(Transform((step,))), step.apply(level)
    return before, level


def _levelling(symmetry: SymmetryGraph, constants: Sequence[Constant], state: State) -> Iterator[Step]:
    for constant in constants:
        yield Shift(symmetry, constant, _constant_of(constant, symmetry.raised(state)))
    for statistics in symmetry.statistics:
        norm = NormCall(symmetry.graph, statistics)
        yield Restate(symmetry, norm, _statistics_of(norm, state))


def _constant_of(constant: Constant, state: Mapping[str, Tensor]) -> Tensor:
    """What takes a constant to its level: nothing of it is left, as far as it may be anything."""
    mean = constant.source.mean(state)
    if constant.whole:
        # A bias whose reader is tilted back has to keep a height for it, so it is one and not zero.
        return float(any(share.port.plane is not None for share in constant.shares)) - mean
    piece, tied = constant.source.piece, constant.tied
    along = torch.ones_like(mean) if tied is None else tied.normal(state, state[piece.parameter])
    return -(mean @ along) / (along @ along)


def _statistics_of(norm: NormCall, state: State) -> Tensor:
    """What takes statistics to one where the slope depends on them (variances), and else to zero (means)."""
    slope, _ = norm.affine(state)

    def change(name: str) -> Tensor:
        other, _ = norm.affine({**state, name: state[name] + 1.0})
        return float(not torch.allclose(slope, other, rtol=1e-9)) - state[name]

    return torch.stack([change(name) for name in norm.statistics.tensors])


class _Settling:
    """The tensors as they are now, the element that led there, and the spaces that are settled."""

    def __init__(self, symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> None:
        self.symmetry = symmetry
        self.state = symmetry.acting({name: tensor for name, tensor in state.items() if tensor.is_floating_point()})
        self.element = GroupElement(symmetry, {})
        self.settled = {space.id for space in symmetry.spaces if space.rigid}

    def run(self) -> GroupElement:
        """The element that settles every space."""
        for space in self.symmetry.active:
            if permutes(space):
                self._move(space, self._order(space))
        rest = list(self.symmetry.active)
        while rest:
            space = next((space for space in rest if self._reached(space)), rest[0])
            rest.remove(space)
            if (element := self._turn(space)) is not None:
                self._move(space, element)
            self.settled.add(space.id)
        return self.element

    def _move(self, space: Space, element: Element) -> None:
        # What stays of a neutral element is on the host.
        like = next(iter(self.state.values()))
        step = GroupElement(self.symmetry, {space.id: element}).to(dtype=like.dtype, device=like.device)
        self.state |= step.on_stacked(self.state)
        self.element = step.after(self.element)

    def _blocks(self, space: Space) -> Iterator[Block]:
        return blocks_on(self.symmetry, space.id, [self.state], lambda _: True)

    # -- orders ------------------------------------------------------------------------------------------------

    def _order(self, space: Space) -> Element:
        """The largest norm first."""
        plain = neutral(self.symmetry, space)
        norms = [block.rows(space).square().sum(-1) for block in self._blocks(space)]
        if not norms:
            return plain
        return replace(plain, index=reduce(torch.add, norms).argsort(stable=True, dim=-1, descending=True))

    # -- signs, angles and axes ----------------------------------------------------------------------------------

    def _reached(self, space: Space) -> bool:
        """Whether a tensor has it beside settled axes alone; nothing has to be found where nothing turns."""
        fixed = isinstance(space.maps, IndexMaps) and not space.signs
        return fixed or any(self._is_settled(space, block) for block in self._blocks(space))

    def _is_settled(self, space: Space, block: Block) -> bool:
        own = block.dim(space.id)
        others = {leaf.space for dim, leaf in enumerate(block.leaves) if dim != own and leaf.space >= 0}
        return others <= self.settled

    def _turn(self, space: Space) -> Element | None:
        """Its signs, or its rotation; None where it has neither."""
        if isinstance(space.maps, DenseMaps):
            return self._rotation(space, space.maps)
        return self._signs(space, space.maps) if isinstance(space.maps, IndexMaps) and space.signs else None

    def _signs(self, space: Space, maps: IndexMaps) -> Element | None:
        """Those that make positive what its tensors come to along settled axes."""
        on = self.symmetry.index_set(space)
        sums = self._sums(space)
        if maps.paired:
            sums = {exponents: sum_of_pairs(values, on.layout) for exponents, values in sums.items()}
        if not sums:
            return None
        signs, _ = best_signs(sums, on.signs)
        return replace(neutral(self.symmetry, space), sign=maps.signs_over(on, signs))

    def _rotation(self, space: Space, maps: DenseMaps) -> Element | None:
        """The map of its class next to its principal axes; of pairs the one that takes each to its first axis."""
        found = list(self._sums(space).values())
        if not found:
            return None
        towards, layout = reduce(torch.add, found), self.symmetry.index_set(space).layout
        wanted = _first_of_pairs(towards, layout) if maps.paired else self._principal(space, towards)
        matrix, _ = maps.optimum(wanted.reshape(-1, space.size, space.size), layout)
        return Element.rotation(matrix.reshape(wanted.shape))

    def _principal(self, space: Space, towards: Tensor) -> Tensor:
        """Principal axes as rows, as long as what is along them, on the side of a vector: (F, n, n)."""
        grams = [gram(block.tensors[0], block.dims(space)) for block in self._blocks(space)]
        values, axes = torch.linalg.eigh(reduce(torch.add, grams))
        rows = axes.mT.flip(-2)
        sides = torch.where((rows @ towards.unsqueeze(-1)) < 0, -1.0, 1.0)
        lengths = values.flip(-1).clamp(min=0).sqrt().unsqueeze(-1)
        principal: Tensor = sides * lengths * rows
        return principal

    def _sums(self, space: Space) -> dict[tuple[int, ...], Tensor]:
        """What its tensors come to along all axes but its own, by how signs act on them: (F, n) each.

        Where no tensor has it beside settled axes alone, all of them count.
        """
        every = list(self._blocks(space))
        sums: dict[tuple[int, ...], Tensor] = {}
        for block in [block for block in every if self._is_settled(space, block)] or every:
            rows = block.rows(space)
            # Unlike weights, so that what is centred along an axis does not come to zero.
            weights = torch.arange(1, rows.shape[-1] + 1).to(rows).rsqrt()
            add_to(sums, self.symmetry.frame(block.leaf(space).frame).sign, rows @ weights)
        return sums


def _first_of_pairs(towards: Tensor, layout: str) -> Tensor:
    """What a rotation of pairs is matched to, so that a vector has nothing on the second axis of any: (F, n, n)."""
    firsts = torch.zeros_like(towards)
    firsts[..., pair_indices(towards.shape[-1], layout)[0]] = 1.0
    return firsts.unsqueeze(-1) * towards.unsqueeze(-2)
