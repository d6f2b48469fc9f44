"""Units with an inside, such as heads and experts: compared and merged at the best inner element of each pair."""

from __future__ import annotations

import string
from collections.abc import Iterator

import torch
from torch import Tensor

from symgraph.groups.elements import Element
from symgraph.groups.lattice import SymmetryClass
from symgraph.orbit.action import GroupElement
from symgraph.orbit.grams import add_to, blocks_on
from symgraph.orbit.steps import State
from symgraph.orbit.tensor_blocks import Block, unfold
from symgraph.orbit.wreath import Key, Table, Tree, best, each
from symgraph.resize.narrow_clusters import Clusters, distances, first_places, kept, root_share, shares
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space


class Heads:
    """The positions of a space with others fibred over it, in a state whose branches are stacked.

    What enters a head is compared in the best inner element of the pair; a space whose other side leaves the head
    (values) is first scaled so that what enters it has norm one. Of experts, of which nothing leaves, everything is
    compared.
    """

    def __init__(self, symmetry: SymmetryGraph, space: Space, state: State) -> None:
        self.symmetry, self.space, self.state = symmetry, space, state
        self.inner = _trees(symmetry, (space.id,))
        self.ends = any(block.leaves[at].dual for block, at in self._blocks(space))

    @property
    def whole(self) -> bool:
        """Whether positions are more than units: they have an inside, or cannot be split and merged exactly."""
        return bool(self.inner) or SymmetryClass.SEMI_PERMUTATION not in self.space.bound

    def clusters(self, count: int, score: Tensor | None = None, *, drop: bool = False) -> Clusters:
        """The place of every head; heads are brought into the basis of the first one of their place, in the state.

        With scores (H,) the most important heads are the places, and the others join them or, with `drop`, go.
        """
        for tree in self.inner:
            self._normalise(tree.space)
        apart, inside, squares = self._table()
        mass = self._leaving(score)
        if score is None:
            targets = first_places(apart, squares, mass, count)
            place = apart[:, targets].argmin(1)
            place[targets] = torch.arange(count)
        else:
            targets, place = kept(apart, squares, mass, score, count, drop=drop)
        rows = torch.arange(self.space.size)
        held = place < count
        basis = torch.where(held, targets[place.clamp_max(count - 1)], rows)
        pairs = basis * self.space.size + rows
        elements = each(inside, lambda part, lead: part.index_select(lead, pairs))
        self.state.update(GroupElement(self.symmetry, elements).on_stacked(self.state))
        lost = torch.where(held, apart[rows, basis], squares)
        # Distances of heads are differences of squares.
        share = root_share(float((mass * lost).sum()), float((mass * squares).sum()), rounding=1e-12)
        return Clusters(place, shares(place, mass, count + 1), share)

    def _blocks(self, space: Space) -> Iterator[tuple[Block, int]]:
        """Blocks of parameters on a space and on the heads, and the dimension of the heads."""
        for block in blocks_on(self.symmetry, space.id, [self.state], self.symmetry.acting_parameters.__contains__):
            if self.space.id in block.spaces():
                yield block, block.dim(self.space.id)

    def _normalise(self, space: Space) -> None:
        """Scales what enters to norm one where the other side of an invertible space leaves."""
        blocks = list(self._blocks(space))
        if space.group is not SymmetryClass.INVERTIBLE or not any(block.leaves[at].dual for block, at in blocks):
            return
        squares, flips = torch.zeros(self.space.size, dtype=torch.float64), set()
        for block, at in blocks:
            if not block.leaves[at].dual:
                squares += unfold(block.tensors[0], [at]).square().sum(1)
                flips.add(block.leaf(space).dual)
        if len(flips) != 1:
            return
        norm = torch.where(squares > 0, squares, 1.0).sqrt()
        scale = norm if flips.pop() else 1.0 / norm
        matrix = scale.view(-1, 1, 1) * torch.eye(space.size, dtype=torch.float64)
        self.state.update(GroupElement(self.symmetry, {space.id: Element(matrix=matrix)}).on_stacked(self.state))

    def _table(self) -> tuple[Tensor, dict[int, Element], Tensor]:
        """Squared distances of what is compared (H, H), the elements of each inner space, squared norms (H,).

        Elements have the pairs (h, g) in front of their fibre, flat: that of (h, g) brings g to h.
        """
        size = self.space.size
        apart, squares = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        table: Table = {}
        ids = set().union(*(tree.ids() for tree in self.inner)) if self.inner else set()
        for block, at in self._blocks(self.space):
            if block.leaves[at].dual:
                continue
            own = unfold(block.tensors[0], [at])
            norms = own.square().sum(1)
            squares += norms
            key, dims = self._inside(block, ids)
            if not key:
                apart += distances(own)
                continue
            apart += norms.unsqueeze(0) + norms.unsqueeze(1)
            add_to(table, key, _pairs(unfold(block.tensors[0], [at, *dims])))
        if not table:
            return apart, {}, squares
        matched = best(self.inner, table, size * size)
        apart -= 2 * matched.value.reshape(size, size)
        return apart.fill_diagonal_(0.0).clamp_min(0.0), matched.elements, squares

    def _inside(self, block: Block, ids: set[int]) -> tuple[Key, list[int]]:
        """The inner spaces on a block, each with the signs of its frame, and their dimensions."""
        held = [(dim, leaf) for dim, leaf in enumerate(block.leaves) if leaf.space in ids]
        key = tuple((leaf.space, self.symmetry.frame(leaf.frame).sign) for _, leaf in held)
        return key, [dim for dim, _ in held]

    def _leaving(self, score: Tensor | None) -> Tensor:
        """How much each head counts (H,): squared norms of what leaves it; of experts their scores, or all the same."""
        if not self.ends:
            return torch.ones(self.space.size, dtype=torch.float64) if score is None else score.double()
        norms = torch.zeros(self.space.size, dtype=torch.float64)
        for block, at in self._blocks(self.space):
            if block.leaves[at].dual:
                norms += unfold(block.tensors[0], [at]).square().sum(1)
        return norms


def _trees(symmetry: SymmetryGraph, fibre: tuple[int, ...]) -> tuple[Tree, ...]:
    """The spaces fibred over these and nothing else, each with what is fibred over it in turn."""
    return tuple(Tree(space, _trees(symmetry, (*fibre, space.id))) for space in symmetry.active if space.fibre == fibre)


def _pairs(rows: Tensor) -> Tensor:
    """Correlations of every pair of heads: (H, k, ..., r) -> (H * H, k, k, ...), each axis beside its counterpart."""
    axes = string.ascii_lowercase[: rows.dim() - 2]
    joined = "".join(axis + axis.upper() for axis in axes)
    paired = torch.einsum(f"y{axes}z,Y{axes.upper()}z->yY{joined}", rows, rows)
    return paired.flatten(0, 1)
