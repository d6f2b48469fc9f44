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
    found = (b for name in symmetry.acting_on[space.id] for b in blocks(symmetry.acting_terms[name]))
    return any(sum(x.space == space.id for x in b) > 1 for b in found)


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
    names = [parameter for parameter in symmetry.parameters_of[space.id] if parameter in b]
    state = symmetry.stacked(symmetry.shifted({p: b[p] for p in names}))
    rows = []
    for block in blocks_on(symmetry, space.id, [state], state.__contains__):
        dim = block.dim(space.id)
        if not block.leaves[dim].dual:
            rows.append(unfold(block.tensors[0], [dim]))
    if not rows:
        return torch.arange(space.size)
    x = torch.cat(rows, dim=1)
    # Equal units have equal projections, so that they stand next to each other in that order.
    order = (x @ torch.randn(x.shape[1], generator=torch.Generator().manual_seed(0)).to(x)).argsort()
    norm = x[order].norm(dim=1)
    same = (x[order].diff(dim=0).norm(dim=1) <= EQUAL * norm[1:]) & (norm[1:] > 0)
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
        c = (sides.enter + sides.leave).cpu().double()
        scale = float(c.diagonal().mean().abs().clamp_min(1e-300))
        even = [1.0 / space.size] * space.size
        with warnings.catch_warnings(action="ignore"):
            plan = ot.sinkhorn(even, even, (-c / scale).numpy(), temperature, "sinkhorn_stabilized", SINKHORN_ROUNDS)
        p = space.size * torch.from_numpy(plan)
        if not max(float((p.sum(k) - 1).abs().max()) for k in (0, 1)) <= EVEN:
            raise UsageError(
                f"no soft permutation of {space.name} was found at temperature {temperature:g}",
                cause="Sinkhorn's iteration did not converge",
                remedy="raise the temperature, or leave it out: permutations are what it tends to towards 0",
            )
        found.append(Blend(symmetry, space.id, Element(matrix=p)))
        b = found[-1].apply(b)
    return tuple(found)


def _sides(symmetry: SymmetryGraph, space: Space, a: State, b: State, weights: Mapping[str, float]) -> _Sides:
    like = next(iter(b.values()))
    n = space.size
    tables = {dual: torch.zeros(n, n).to(like) for dual in (False, True)}
    squares = {dual: torch.zeros(n).to(like) for dual in (False, True)}
    names = [parameter for parameter in symmetry.parameters_of[space.id] if parameter in a and parameter in b]
    states = [symmetry.stacked(symmetry.shifted({p: s[p] for p in names})) for s in (a, b)]
    for block in blocks_on(symmetry, space.id, states, weights.__contains__):
        dim, w = block.dim(space.id), weights[block.parameter]
        x, y = (unfold(tensor, [dim]) for tensor in block.tensors)
        dual = block.leaves[dim].dual
        tables[dual] += w * x @ y.T
        squares[dual] += w * y.square().sum(1)
    return _Sides(tables[False], tables[True], squares[False], squares[True])


def _shares(s: _Sides) -> tuple[Tensor, Tensor, float]:
    """For every place the unit that it copies and the share of what leaves; by how much the distance falls."""
    n = len(s.leaving)
    index, share = torch.arange(n, device=s.leaving.device), torch.ones_like(s.leaving)
    idle = s.leaving <= IDLE * s.leaving.mean()
    total = 0.0
    while bool(idle.any()) and not bool(idle.all()):
        places, units = idle.nonzero().squeeze(1), (index == torch.arange(n, device=index.device)) & ~idle
        live = units.nonzero().squeeze(1)
        gain, w = _gains(s, places, live, share[live])
        most, choice = gain.max(1)
        good = most > 1e-12 * s.leaving.sum()
        if not bool(good.any()):
            break
        # Every place wants its best unit; of those that want the same one, the best goes first.
        best = torch.full_like(share, -torch.inf).scatter_reduce(0, live[choice], most, "amax")
        first = good & (most == best[live[choice]])
        at, source = places[first], live[choice[first]]
        index[at], share[at] = source, w[first, choice[first]]
        share[source] -= share[at]
        idle[at] = False
        total += float(most[first].sum())
        total += sum(_refit(s, index, share, int(unit)) for unit in source)
    return index, share, total


def _refit(s: _Sides, index: Tensor, share: Tensor, unit: int) -> float:
    """The best shares of all places of one unit together, in place; by how much the squared distance falls.

    Source: projection on the simplex (Duchi et al. 2008).
    """
    places = (index == unit).nonzero().squeeze(1)
    wish, before = s.leave[places, unit] / s.leaving[unit], share[places]
    ordered = wish.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(places) + 1).to(wish)
    share[places] = (wish - excess[int((ordered > excess).sum()) - 1]).clamp_min(0.0)
    fall = (before - wish).square().sum() - (share[places] - wish).square().sum()
    return float(s.leaving[unit] * fall)


def _gains(s: _Sides, places: Tensor, live: Tensor, have: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the squared distance falls for a place and a unit, at the best share w of what the unit has left.

    The unit's own place keeps have - w. Shapes: (places, live) both.
    """
    norm = s.leaving[live].clamp_min(torch.finfo(s.leaving.dtype).tiny)
    nearer = s.leave[places][:, live] - s.leave[live, live]
    w = (have / 2 + nearer / (2 * norm)).clamp_min(0.0).minimum(have)
    freed = s.entering[places] - 2 * s.enter[places, places]
    entering = 2 * s.enter[places][:, live] - s.entering[live] + freed.unsqueeze(1)
    return entering + 2 * w * nearer - 2 * norm * w * (w - have), w
