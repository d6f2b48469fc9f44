"""Units that are split, and soft permutations: what a semi-permutation can do beyond a permutation.

*Merging.* Units of B that everything enters alike are merged: one takes what leaves all of them, which frees the places
of the others. That is exact, and it is done where splitting then fills the places better than before.

*Splitting.* Where B has idle units (padding added them, or training left them), a unit can be copied into an idle one:
what enters is copied, what leaves is shared, so that both together do what the one did. That is exact whatever the
unit computes. In each round every idle place finds the unit whose copy brings B nearest to A (the distance is a
parabola in the share), then the shares of all places of a unit are fitted together; it ends when no split brings
anything.

*Soft permutations.* A doubly stochastic matrix P in the place of a permutation, by Sinkhorn's iteration on the
correlations with A: what enters and what leaves are both averaged with P. That merges different units, so it only
approximates B's function; the change of the outputs is measured and reported.

Source: semi-permutations of Theus et al., arXiv 2506.22712, section 3; Sinkhorn's iteration by POT (Flamary et al.,
JMLR 2021). The rounds with optimal shares are ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.groups.elements import Element
from symgraph.groups.lattice import SymmetryClass
from symgraph.orbit.blend import Blend
from symgraph.orbit.grams import blocks_on
from symgraph.orbit.steps import State
from symgraph.orbit.tensor_blocks import unfold
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import blocks

# A unit whose leaving weights are below this fraction of the average one's is idle.
IDLE = 1e-10
# Units are equal whose entries differ by less than this fraction.
EQUAL = 1e-10
SINKHORN_ROUNDS = 2000
# How far the sums of rows and columns of a soft permutation may be from one.
EVEN = 1e-2


@dataclass(frozen=True, slots=True)
class _Sides:
    """Correlations of A's units with B's on what enters them and on what leaves, and squared norms of B's.

    Shapes: enter, leave (n, n); entering, leaving (n,).
    """

    enter: Tensor
    leave: Tensor
    entering: Tensor
    leaving: Tensor

    def gap(self) -> float:
        """The squared distance on this space, up to what A alone adds."""
        met = self.enter.diagonal() + self.leave.diagonal()
        return float((self.entering + self.leaving - 2 * met).sum())


@dataclass(frozen=True, slots=True)
class _Freed:
    """Equal units merged, how many, by how much the distance falls with the splits that this allows, and those."""

    blend: Blend
    count: int
    gain: float
    index: Tensor
    share: Tensor


def blendable(symmetry: SymmetryGraph, patterns: Sequence[str] = ("*",)) -> Iterator[Space]:
    """The spaces whose units can be split and merged one by one."""
    for space in symmetry.active:
        alone = not space.fibre and not space.is_matrix and SymmetryClass.SEMI_PERMUTATION in space.bound
        if alone and any(fnmatch(space.name, pattern) for pattern in patterns) and not _twice(symmetry, space):
            yield space


def _twice(symmetry: SymmetryGraph, space: Space) -> bool:
    """Whether the space stands twice on one block, so that copies would meet copies."""
    found = (block for name in symmetry.acting_on[space.id] for block in blocks(symmetry.acting_terms[name]))
    return any(sum(leaf.space == space.id for leaf in block) > 1 for block in found)


def split(
    symmetry: SymmetryGraph, a: State, b: State, weights: Mapping[str, float], patterns: Sequence[str] = ("*",)
) -> tuple[tuple[Blend, ...], tuple[str, ...]]:
    """Splits of B's units into its idle ones that bring it nearer to A, and how many on each space.

    Args:
        a, b: states in canonical form, B moved by the match.
    """
    found: list[Blend] = []
    notes: list[str] = []
    for space in blendable(symmetry, patterns):
        index, share, gain = _shares(_sides(symmetry, space, a, b, weights))
        freed = _freed(symmetry, space, a, b, weights)
        if freed is not None and freed.gain > gain:
            gain, index, share = freed.gain, freed.index, freed.share
            found.append(freed.blend)
            b = freed.blend.apply(b)
            notes.append(f"{space.name}: {freed.count} units merged with their equals")
        copies = int((index != torch.arange(space.size, device=index.device)).sum())
        if copies:
            found.append(Blend(symmetry, space.id, Element(index, share.unsqueeze(0))))
            b = found[-1].apply(b)
            notes.append(f"{space.name}: {copies} units split into idle ones, squared distance less by {gain:.3g}")
    return tuple(found), tuple(notes)


def _freed(symmetry: SymmetryGraph, space: Space, a: State, b: State, weights: Mapping[str, float]) -> _Freed | None:
    place = _equal(symmetry, space, b)
    first = place == torch.arange(space.size, device=place.device)
    if bool(first.all()):
        return None
    # All of a place are equal: the first one's entries are their average.
    weight = first.to(torch.float64).unsqueeze(0)
    blend = Blend(symmetry, space.id, Element(place, weight), merging=True)
    before, after = _sides(symmetry, space, a, b, weights), _sides(symmetry, space, a, blend.apply(b), weights)
    index, share, gain = _shares(after)
    return _Freed(blend, int((~first).sum()), gain + before.gap() - after.gap(), index, share)


def _equal(symmetry: SymmetryGraph, space: Space, b: State) -> Tensor:
    """For every unit the first one that is entered as it is: (n,)."""
    state = _acted_on(symmetry, space, b)
    parts = []
    for block in blocks_on(symmetry, space.id, [state], state.__contains__):
        dim = block.dim(space.id)
        if not block.leaves[dim].dual:
            parts.append(unfold(block.tensors[0], [dim]))
    if not parts:
        return torch.arange(space.size)
    rows = torch.cat(parts, dim=1)
    # Equal units have equal projections, so that they stand next to each other in that order.
    direction = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0)).to(rows)
    order = (rows @ direction).argsort()
    norm = rows[order].norm(dim=1)
    same = (rows[order].diff(dim=0).norm(dim=1) <= EQUAL * norm[1:]) & (norm[1:] > 0)
    group = torch.cat([order.new_zeros(1), (~same).cumsum(0)])
    first = torch.full_like(order, space.size).scatter_reduce(0, group, order, "amin")
    return torch.empty_like(order).scatter(0, order, first[group])


def soften(
    symmetry: SymmetryGraph,
    a: State,
    b: State,
    weights: Mapping[str, float],
    temperature: float,
    patterns: Sequence[str] = ("*",),
) -> tuple[Blend, ...]:
    """Soft permutations on every space that admits merging: P maximises <P, C> + temperature * entropy.

    Args:
        temperature: in units of the mean correlation of matched units; towards 0 the permutation that was matched.

    Raises:
        UsageError: the iteration does not converge at this temperature.

    Source: stabilised Sinkhorn iteration (Schmitzer 2019), by POT.
    """
    import ot

    found: list[Blend] = []
    for space in blendable(symmetry, patterns):
        sides = _sides(symmetry, space, a, b, weights)
        correlation = (sides.enter + sides.leave).cpu().double()
        scale = float(correlation.diagonal().mean().abs().clamp_min(1e-300))
        costs, even = (-correlation / scale).numpy(), [1.0 / space.size] * space.size
        with warnings.catch_warnings(action="ignore"):
            plan = ot.sinkhorn(even, even, costs, temperature, "sinkhorn_stabilized", SINKHORN_ROUNDS)
        soft = space.size * torch.from_numpy(plan)
        if not max(float((soft.sum(dim) - 1).abs().max()) for dim in (0, 1)) <= EVEN:
            raise UsageError(
                f"no soft permutation of {space.name} was found at temperature {temperature:g}",
                cause="Sinkhorn's iteration did not converge",
                remedy="raise the temperature, or leave it out: permutations are what it tends to towards 0",
            )
        found.append(Blend(symmetry, space.id, Element(matrix=soft)))
        b = found[-1].apply(b)
    return tuple(found)


def _sides(symmetry: SymmetryGraph, space: Space, a: State, b: State, weights: Mapping[str, float]) -> _Sides:
    like, size = next(iter(b.values())), space.size
    tables = {dual: torch.zeros(size, size).to(like) for dual in (False, True)}
    squares = {dual: torch.zeros(size).to(like) for dual in (False, True)}
    states = [_acted_on(symmetry, space, state) for state in (a, b)]
    for block in blocks_on(symmetry, space.id, states, weights.__contains__):
        dim, weight = block.dim(space.id), weights[block.parameter]
        first, second = (unfold(tensor, [dim]) for tensor in block.tensors)
        dual = block.leaves[dim].dual
        tables[dual] += weight * first @ second.T
        squares[dual] += weight * second.square().sum(1)
    return _Sides(tables[False], tables[True], squares[False], squares[True])


def _acted_on(symmetry: SymmetryGraph, space: Space, state: State) -> State:
    """What a space acts on of a state."""
    return symmetry.acting({name: state[name] for name in symmetry.parameters_of[space.id] if name in state})


def _shares(sides: _Sides) -> tuple[Tensor, Tensor, float]:
    """For every place the unit that it copies and the share of what leaves; by how much the distance falls."""
    every = torch.arange(len(sides.leaving), device=sides.leaving.device)
    index, share = every.clone(), torch.ones_like(sides.leaving)
    idle = sides.leaving <= IDLE * sides.leaving.mean()
    total = 0.0
    while bool(idle.any()) and not bool(idle.all()):
        places, units = every[idle], every[(index == every) & ~idle]
        gains, shares = _gains(sides, places, units, share[units])
        most, choice = gains.max(1)
        wanted = units[choice]
        gaining = most > 1e-12 * sides.leaving.sum()
        if not bool(gaining.any()):
            break
        # Every place wants its best unit; of those that want the same one, the best goes first.
        best = torch.full_like(share, -torch.inf).scatter_reduce(0, wanted, most, "amax")
        first = gaining & (most == best[wanted])
        copies, copied = places[first], wanted[first]
        index[copies], share[copies] = copied, shares[first, choice[first]]
        share[copied] -= share[copies]
        idle[copies] = False
        total += float(most[first].sum())
        total += sum(_refit(sides, index, share, int(unit)) for unit in copied)
    return index, share, total


def _refit(sides: _Sides, index: Tensor, share: Tensor, unit: int) -> float:
    """The best shares of all places of one unit together, in place; by how much the squared distance falls.

    Source: projection on the simplex (Duchi et al. 2008).
    """
    places = (index == unit).nonzero().squeeze(1)
    wish, before = sides.leave[places, unit] / sides.leaving[unit], share[places]
    ordered = wish.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(places) + 1).to(wish)
    share[places] = (wish - excess[int((ordered > excess).sum()) - 1]).clamp_min(0.0)
    fall = (before - wish).square().sum() - (share[places] - wish).square().sum()
    return float(sides.leaving[unit] * fall)


def _gains(sides: _Sides, places: Tensor, units: Tensor, have: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the squared distance falls for a place and a unit, at the best share of what the unit has left.

    The unit's own place keeps the rest. Shapes: (places, units) both.
    """
    norm = sides.leaving[units].clamp_min(torch.finfo(sides.leaving.dtype).tiny)
    nearer = sides.leave[places][:, units] - sides.leave[units, units]
    share = (have / 2 + nearer / (2 * norm)).clamp_min(0.0).minimum(have)
    freed = sides.entering[places] - 2 * sides.enter[places, places]
    entering = 2 * sides.enter[places][:, units] - sides.entering[units] + freed.unsqueeze(1)
    return entering + 2 * share * nearer - 2 * norm * share * (share - have), share
