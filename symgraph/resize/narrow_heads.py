"""Units with an inside, such as heads: compared and merged at the best inner rotation of each pair."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from symgraph.groups.elements import Element
from symgraph.groups.lattice import SymmetryClass
from symgraph.groups.map_class import DenseMaps
from symgraph.orbit.action import GroupElement
from symgraph.orbit.grams import blocks_on
from symgraph.orbit.steps import State
from symgraph.orbit.tensor_blocks import Block, unfold
from symgraph.resize.narrow_clusters import Clusters, distances, first_places, kept, shares
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space


class Heads:
    """The positions of a space with matrix spaces fibred over it, in a state whose branches are stacked.

    What enters a head is compared in the best inner rotation of the pair; a space whose other side leaves the head
    (values) is first scaled so that what enters it has norm one.
    """

    def __init__(self, symmetry: SymmetryGraph, space: Space, state: State) -> None:
        self.symmetry, self.space, self.state = symmetry, space, state
        self.inner = [t for t in symmetry.active if t.fibre == (space.id,) and t.is_matrix]

    def clusters(self, n: int, score: Tensor | None = None, *, drop: bool = False) -> Clusters:
        """The place of every head; heads are rotated into the basis of the first one of their place, in the state.

        With scores (H,) the most important heads are the places, and the others join them or, with `drop`, go.
        """
        for t in self.inner:
            self._normalise(t)
        apart, turns, squares = self._table()
        mass = self._leaving()
        if score is None:
            targets = first_places(apart, squares, mass, n)
            place = apart[:, targets].argmin(1)
            place[targets] = torch.arange(n)
        else:
            targets, place = kept(apart, squares, mass, score, n, drop=drop)
        rows = torch.arange(self.space.size)
        held = place < n
        basis = torch.where(held, targets[place.clamp_max(n - 1)], rows)
        elements = {t: Element.rotation(m[basis, rows]) for t, m in turns.items()}
        self.state.update(GroupElement(self.symmetry, elements).on_stacked(self.state))
        whole = float((mass * squares).sum())
        share = float((mass * torch.where(held, apart[rows, basis], squares)).sum()) / max(whole, 1e-300)
        return Clusters(place, shares(place, mass, n + 1), share**0.5 if share > 1e-12 else 0.0)

    def _blocks(self, space: Space) -> Iterator[tuple[Block, int]]:
        """Blocks of parameters on a space and on the heads, and the dimension of the heads."""
        for block in blocks_on(self.symmetry, space.id, [self.state], self.symmetry.acting_parameters.__contains__):
            if self.space.id in block.spaces():
                yield block, block.dim(self.space.id)

    def _normalise(self, t: Space) -> None:
        """Scales what enters to norm one where the other side of an invertible space leaves."""
        sides = [(b, at, b.leaves[b.dim(t.id)].dual) for b, at in self._blocks(t)]
        if t.group is not SymmetryClass.INVERTIBLE or all(not b.leaves[at].dual for b, at, _ in sides):
            return
        squares, flips = torch.zeros(self.space.size, dtype=torch.float64), set()
        for block, at, dual in sides:
            if not block.leaves[at].dual:
                squares += unfold(block.tensors[0], [at]).square().sum(1)
                flips.add(dual)
        if len(flips) != 1:
            return
        norm = torch.where(squares > 0, squares, 1.0).sqrt()
        scale = norm if flips.pop() else 1.0 / norm
        matrix = scale.view(-1, 1, 1) * torch.eye(t.size, dtype=torch.float64)
        self.state.update(GroupElement(self.symmetry, {t.id: Element(matrix=matrix)}).on_stacked(self.state))

    def _table(self) -> tuple[Tensor, dict[int, Tensor], Tensor]:
        """Squared distances of what enters (H, H), the rotations (H, H, k, k) of each inner space, squared norms (H,).

        The rotation at (h, g) brings g to h.
        """
        size = self.space.size
        apart, squares = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        tables: dict[int, Tensor] = {}
        ids = {t.id for t in self.inner}
        for block, at in self._blocks(self.space):
            if block.leaves[at].dual:
                continue
            x = block.tensors[0]
            inside = next((s.space for s in block.leaves if s.space in ids), None)
            own = unfold(x, [at])
            squares += own.square().sum(1)
            if inside is None:
                apart += distances(own)
                continue
            rows = unfold(x, [at, block.dim(inside)])
            table = torch.einsum("hkr,glr->hgkl", rows, rows)
            tables[inside] = tables[inside] + table if inside in tables else table
            norms = own.square().sum(1)
            apart += norms.unsqueeze(0) + norms.unsqueeze(1)
        turns = {}
        for t in self.inner:
            if t.id in tables and isinstance(t.maps, DenseMaps):
                turns[t.id], value = t.maps.optimum(tables[t.id], t.layout)
                apart -= 2 * value
        return apart.clamp_min(0.0), turns, squares

    def _leaving(self) -> Tensor:
        """Squared norms of what leaves each head: (H,)."""
        found = torch.zeros(self.space.size, dtype=torch.float64)
        for block, at in self._blocks(self.space):
            if block.leaves[at].dual:
                found += unfold(block.tensors[0], [at]).square().sum(1)
        return found
