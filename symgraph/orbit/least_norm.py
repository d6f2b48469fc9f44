"""Least norm over the non-compact part of the group: balancing and equalising (design section 10, step 4).

Each space has a closed form or a small convex problem given the others: invertible spaces take the geometric mean of
the second moments of their two sides, rotary ones a quarter power for each pair, scales a convex problem in their
logarithms. Neighbouring spaces share parameters, so these are repeated in turn until nothing moves; Anderson
acceleration removes the slow modes that run along deep chains of layers.

Source: Kempf and Ness 1979 (uniqueness up to the compact part); Walker and Ni 2011 (Anderson acceleration).
"""

from __future__ import annotations

import torch
from torch import Tensor

from symgraph.groups.elements import Element, pair_indices
from symgraph.groups.lattice import SymmetryClass
from symgraph.orbit.action import GroupElement, neutral
from symgraph.orbit.grams import blocks_on, gram, norms
from symgraph.orbit.steps import State
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space

# Directions whose second moment is below this fraction of the largest one are empty.
RANK_TOLERANCE = 1e-12
# The same for the singular values of what one side makes of the other.
CROSS_TOLERANCE = 1e-10
NEWTON_STEPS = 60
# A unit whose curvature has vanished, in multiples of the rounding error, has nothing on one side: it has no optimum.
FLAT = 1e3
SWEEPS = 300
NON_COMPACT = (SymmetryClass.INVERTIBLE, SymmetryClass.ROTARY)
MEMORY = 6
Logs = dict[int, Tensor]


def least_norm(symmetry: SymmetryGraph, state: State) -> GroupElement:
    """The element whose action on `state` has the least norm over all scales, invertible and rotary spaces."""
    solver = _LeastNorm(symmetry, state)
    return solver.run()


class _LeastNorm:
    def __init__(self, symmetry: SymmetryGraph, state: State) -> None:
        self.symmetry = symmetry
        self.spaces = [s for s in symmetry.active if s.scales or s.group in NON_COMPACT]
        kept = symmetry.graph.state.keys() - symmetry.graph.transient
        names = {n for s in self.spaces for n in symmetry.parameters_of[s.id] if n in kept}
        # What a checkpoint stores counts, be it a parameter or not: a mask of ones would otherwise run off.
        held = {n: state[n] for n in names if n in state and state[n].is_floating_point()}
        self.state: State = symmetry.stacked(symmetry.shifted(held))
        self.element = GroupElement(symmetry, {})
        self.eps = torch.finfo(next(iter(self.state.values())).dtype).eps if self.state else 0.0

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
        self.state.update(element.on_stacked(self.state))
        self.element = element.after(self.element)

    def _scaled(self, space: int, scale: Tensor) -> Element:
        e = neutral(self.symmetry, self.symmetry.spaces[space]).to(dtype=scale.dtype, device=scale.device)
        return Element(e.index, scale, e.sign)

    def _optimum(self, space: Space) -> Element:
        if space.group is SymmetryClass.INVERTIBLE:
            return Element(matrix=_balance(*self._moments(space)))
        if space.group is SymmetryClass.ROTARY:
            return Element(matrix=_balance_rotary(space, *self._moments(space)))
        return self._scaled(space.id, _equalise(*self._norms(space)))

    def _moments(self, space: Space) -> tuple[Tensor, Tensor]:
        """Second moments of the covariant and of the dual side of a space: two (F, n, n)."""
        sides: dict[bool, Tensor] = {}
        for block in blocks_on(self.symmetry, space.id, [self.state], self.state.__contains__):
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
        for block in blocks_on(self.symmetry, space.id, [self.state], self.state.__contains__):
            dim = block.dim(space.id)
            leaf = block.leaves[dim]
            exponent = tuple(-e if leaf.dual else e for e in self.symmetry.frame(leaf.frame).scale)
            n = norms(block.tensors[0], dim, [block.dim(f) for f in space.fibre])
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


# -- matrices --------------------------------------------------------------------------------------------------


def _balance(co: Tensor, dual: Tensor) -> Tensor:
    """g = X^1/2 with X = co^-1 # dual, so that g co g^T = g^-T dual g^-1.

    With co = L L^T, dual = M M^T and M^T L = U S V^T, X^-1 = L V S^-1 V^T L^T on the range of L and 1 on the null space
    of M^T: what is empty on both sides (units that padding added) has an optimum, too. There is none where the two
    sides are empty in different numbers of directions, or one meets the other's null space: g is then the identity.
    """
    (left, rank, _), (right, other, empty) = factor(co), factor(dual)
    _, s, vt = torch.linalg.svd(right.transpose(-1, -2) @ left)
    full = s > CROSS_TOLERANCE * s[..., :1].clamp_min(torch.finfo(s.dtype).tiny)
    good = ((rank == other) & (rank == full.sum(-1)))[..., None, None]
    half = (left @ vt.transpose(-1, -2)) * (full / torch.where(full, s, 1.0).sqrt()).unsqueeze(-2)
    eye = torch.eye(co.shape[-1], dtype=co.dtype, device=co.device)
    return _power(torch.where(good, half @ half.transpose(-1, -2) + empty, eye), -0.5)


def factor(m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A factor L of a second moment L L^T, its rank, and the projector on its empty directions."""
    values, vectors = torch.linalg.eigh(m)
    held = values > RANK_TOLERANCE * values[..., -1:].clamp_min(torch.finfo(m.dtype).tiny)
    null = vectors * (~held).unsqueeze(-2)
    factor = vectors * torch.where(held, values, 0.0).sqrt().unsqueeze(-2)
    return factor, held.sum(-1), null @ null.transpose(-1, -2)


def _power(m: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh((m + m.transpose(-1, -2)) / 2)
    powers = values.clamp_min(torch.finfo(m.dtype).tiny).pow(exponent)
    power: Tensor = (vectors * powers.unsqueeze(-2)) @ vectors.transpose(-1, -2)
    return power


def _balance_rotary(space: Space, co: Tensor, dual: Tensor) -> Tensor:
    i, j = pair_indices(space.size, space.layout)
    p, q = (torch.diagonal(m, dim1=-2, dim2=-1) for m in (co, dual))
    r = _quarter_power(p[..., i] + p[..., j], q[..., i] + q[..., j])
    full = torch.empty_like(p)
    full[..., i], full[..., j] = r, r
    return torch.diag_embed(full)


def _quarter_power(co: Tensor, dual: Tensor) -> Tensor:
    good = (co > 0) & (dual > 0)
    one = torch.ones_like(co)
    return (torch.where(good, dual, one) / torch.where(good, co, one)).pow(0.25)


# -- scales ----------------------------------------------------------------------------------------------------


def _equalise(values: Tensor, exponents: Tensor) -> Tensor:
    """Scales (p, F, n) that minimise sum_m values_m * prod_k scale_k^(2 e_mk): convex in the logarithms.

    A unit that has no weight on one side has no minimum; it is left as it is.
    """
    flat = values.reshape(len(values), -1)
    if exponents.shape[1] == 1 and bool((exponents.abs() <= 1).all()):
        sides = [(flat * (sign * exponents > 0)).sum(0) for sign in (1, -1)]
        scale = _quarter_power(*sides).unsqueeze(0)
    else:
        scale = _newton(flat, exponents)
    return scale.reshape(exponents.shape[1], *values.shape[1:])


def _newton(values: Tensor, exponents: Tensor) -> Tensor:
    """Damped Newton's method for every unit at once: (m, N), (m, p) -> scales (p, N)."""
    units, p = values.shape[1], exponents.shape[1]
    logs = values.new_zeros(units, p)
    eps = torch.finfo(values.dtype).eps
    flat, slope = torch.zeros_like(logs, dtype=torch.bool), torch.zeros_like(logs)
    outer = exponents.unsqueeze(2) * exponents.unsqueeze(1)
    for _ in range(NEWTON_STEPS):
        weights = values.T * torch.exp(2 * logs @ exponents.T)
        weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
        curve, basis = torch.linalg.eigh(4 * torch.einsum("um,mpq->upq", weights, outer))
        flat = curve <= FLAT * eps
        slope = (basis.transpose(1, 2) @ (2 * weights @ exponents).unsqueeze(2)).squeeze(2)
        step = (basis @ (slope / curve.clamp_min(eps)).unsqueeze(2)).squeeze(2)
        logs -= step / step.norm(dim=1, keepdim=True).clamp_min(1.0)
        if float(step.abs().max()) <= eps:
            break
    # Where what holds weight pulls to one side alone, the slope never vanishes: there is no optimum either.
    gone = flat.any(1, keepdim=True) | (slope.norm(dim=1, keepdim=True) > eps**0.5)
    return torch.where(gone, torch.zeros_like(logs), logs).exp().T
