"""Activation matching: correlations of two models at every value where a space occurs, streamed over batches.

Both models run in canonical form on the same batches, through the graph traced for the batches' shape. Of each value
the covariance of A's slices with B's along the spaces of one unit is added to a running sum, each value scaled to one
whatever its size in this batch (units that are only reordered one by one: Pearson's correlation); nothing else is
kept, so that memory does not grow with the data. The sums go into the same solvers as those of weights. They do not
depend on other units, so one pass serves all sweeps: as B moves, the sums move with it.

Source: activation matching of Ainsworth et al., arXiv 2209.04836, section 3.1; weights at their inputs' second moment:
|(T_A - T_B) S^1/2|^2, design section 12.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import DataError, UsageError
from symgraph.ir import Node
from symgraph.match.activations import Activations
from symgraph.match.correlation_tables import pair_by_pair
from symgraph.match.named_values import named_value
from symgraph.orbit.readings import readings
from symgraph.orbit.tensor_blocks import Block, blocks
from symgraph.orbit.wreath import Tree
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Leaf, Term, leaves
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.operators import is_pointwise, short_name
from symgraph.tracing.sampling import in_dtype

State = Mapping[str, Tensor]
_FILLED = 1e9
# They show the same numbers as what they read; counting both would weigh them twice.
_VIEWS = frozenset(
    {"view", "unsafe_view", "reshape", "flatten", "transpose", "permute", "expand", "unsqueeze", "squeeze", "slice"}
    | {"select", "split", "chunk", "t", "to", "clone", "contiguous", "to_copy", "alias", "detach", "unbind", "getitem"}
)


def observe(
    symmetry: SymmetryGraph,
    seen: SymmetryGraph,
    models: Sequence[State],
    batches: Iterable[tuple[Tensor, ...] | Mapping[str, Tensor]],
    units: Iterable[Tree],
    *,
    dtype: torch.dtype = torch.float32,
    rows: int = 128,
    moments: bool = False,
    at: Sequence[str] = (),
) -> dict[tuple[int, int], Activations]:
    """What is seen of every pair (i, j) of models, i < j, in one pass over the batches.

    Memory: the sums of every pair, whatever the length of the data, and samples of the values of a batch.

    Args:
        symmetry: of the models, for which the result is.
        seen: of the same models, traced with inputs of the batches' shape.
        models: states in canonical form.
        batches: inputs of the graph, in order or by name.
        rows: at most so many positions of a value are read in a batch, drawn anew in each; 0: all.
        moments: gather second moments at the inputs of parameters as well.
        at: modules, whose results are meant, or values, where activations count; everywhere, if none is named.

    Raises:
        DataError: there are no batches, or a value is not finite.
        UsageError: the two symmetries are not of one model, or there is no such value, or no unit is seen there.
    """
    run = _Pass(symmetry, seen, list(units), dtype, rows, moments)
    run.look_at(at)
    # Once, and not again for every batch.
    states = [in_dtype(state, dtype) for state in models]
    for number, batch in enumerate(batches):
        run.take(number, states, batch)
    if not run.batches:
        raise DataError("no batches to match activations on", remedy="check the length of the data")
    return {pair: run.result(pair) for pair in run.sums}


@dataclass(frozen=True, slots=True)
class _Part:
    """What is correlated on one block of a value: which dimensions, for which unit, and its share of the value."""

    unit: int
    key: tuple[Leaf, ...]
    dims: tuple[int, ...]
    one_by_one: bool
    share: float


@dataclass(frozen=True, slots=True)
class _Read:
    """What is kept of one value of one model: samples of its parts, and second moments by axis."""

    samples: list[Tensor]
    moments: dict[int, Tensor]


class _Pass:
    def __init__(
        self,
        symmetry: SymmetryGraph,
        seen: SymmetryGraph,
        units: list[Tree],
        dtype: torch.dtype,
        rows: int,
        moments: bool,
    ) -> None:
        self.symmetry, self.seen, self.rows, self.dtype = symmetry, seen, rows, dtype
        self.owner = {space: unit.space.id for unit in units for space in unit.ids()}
        self.number = _numbers(symmetry, seen)
        self.twins = {name: stack for stack in seen.twins for name in stack.members}
        self.sites = [node.name for node in seen.graph.calls if self._shows(node) and self._is_site(node)]
        self.readings = list(readings(seen)) if moments else []
        self.run = Interpreter(seen.graph, dtype=dtype)
        self.along: dict[str, set[int]] = {}
        for reading in self.readings:
            self.along.setdefault(reading.value, set()).add(reading.along)
        self.look_at(())
        self.sums: dict[tuple[int, int], dict[int, dict[tuple[Leaf, ...], Tensor]]] = {}
        self.moments: dict[tuple[str, int], list[Tensor]] = {}
        self.seen_at: dict[str, int] = {}
        self.batches = self.examples = 0

    def look_at(self, at: Sequence[str]) -> None:
        """Activations are read there alone, if something is named."""
        wanted = {named_value(self.seen.graph, name) for name in at}
        if unseen := [name for name in wanted if not self._shows(self.seen.graph.by_name[name])]:
            remedy = "name the result of a block, or what is added to a stream"
            raise UsageError(f"no activations are matched at {min(unseen)!r}", remedy=remedy)
        self.sites = sorted(wanted) or self.sites
        twins = [member for site in self.sites if site in self.twins for member in self.twins[site].members]
        self.keep = {*self.sites, *twins, *(reading.value for reading in self.readings)}
        self.parts = {name: self._parts(name) for name in self.sites}

    def _shows(self, node: Node) -> bool:
        """Whether units can be seen at a value."""
        if not node.is_floating or node.name in self.seen.partial:
            return False
        owned = {self.owner[space] for space in self._spaces(node.name) if space in self.owner}
        if node.name not in self.twins:
            return bool(owned)
        # The first of all branches stands for them.
        return node.name == self.twins[node.name].members[0] and len(owned) == 1

    def _is_site(self, node: Node) -> bool:
        return short_name(node.target) not in _VIEWS and self._is_end(node)

    def _is_end(self, node: Node) -> bool:
        """Whether a run of pointwise operators begins or ends here: what lies between would only be counted again."""
        users = self.seen.graph.users[node.name]
        return not is_pointwise(node.target) or not all(is_pointwise(user.target) for user in users)

    def _spaces(self, value: str) -> set[int]:
        found = (leaf.space for term in self._terms(value) for leaf in leaves(term))
        return {self.number[space] for space in found if space in self.number}

    def _terms(self, value: str) -> tuple[Term, ...]:
        """Terms of a value, or of the values of all branches side by side.

        Axes that nothing acts on are one axis each, whatever they are made of: their positions are all alike here.
        """
        found = self.seen.values.get(value, ())
        axes = tuple(term if self._acted_on(term) else Leaf(-1, -1, False, term.size) for term in found)
        return (self.seen.branches(self.twins[value]), *axes) if value in self.twins else axes

    def _acted_on(self, term: Term) -> bool:
        return any(self.number.get(leaf.space) in self.owner for leaf in leaves(term))

    def _parts(self, name: str) -> list[_Part | None]:
        """For each block of a site, what is to be correlated there."""
        whole = torch.empty(self.seen.graph.by_name[name].shape, device="meta")
        if name in self.twins:
            whole = whole.expand(len(self.twins[name].members), *whole.shape)
        return [self._part(block, whole.numel()) for block in blocks(name, [whole], self._terms(name))]

    def _part(self, block: Block, whole: int) -> _Part | None:
        dims = tuple(dim for dim, leaf in enumerate(block.leaves) if self.number.get(leaf.space) in self.owner)
        key = tuple(self._leaf(block.leaves[dim]) for dim in dims)
        spaces = [leaf.space for leaf in key]
        units = {self.owner[space] for space in spaces}
        if len(units) != 1 or len(set(spaces)) < len(spaces) or not self._whole(spaces):
            return None
        one_by_one = len(key) == 1 and not self.symmetry.spaces[key[0].space].is_matrix
        return _Part(units.pop(), key, dims, one_by_one, block.tensors[0].numel() / whole)

    @torch.no_grad()
    def take(self, number: int, states: list[dict[str, Tensor]], batch: Any) -> None:
        """Adds one batch. Of each value the positions that are read are copied as soon as it is there."""
        read = partial(self._read, _Positions(self.rows, seed=number))

        def kept(name: str, value: Tensor) -> _Read | Tensor:
            # Values of branches stay whole, until all of them are there.
            return value if name in self.twins else read(name, value)

        sides = [self.run.run(state, batch, keep=self.keep, reduce=kept)[1] for state in states]
        self.sums = self.sums or {pair: {} for pair in combinations(range(len(sides)), 2)}
        for name in self.sites:
            self._correlate(name, [self._samples(side, name, read) for side in sides])
        for value, axes in self.along.items():
            for along in axes:
                self._moment(value, along, [_moment_of(side[value], along) for side in sides])
        self.batches += 1
        first = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
        self.examples += len(first) if first.dim() else 1

    def _samples(self, side: Mapping[str, Any], name: str, read: Callable[[str, Tensor], _Read]) -> list[Tensor]:
        if name not in self.twins:
            found: list[Tensor] = side[name].samples
            return found
        return read(name, torch.stack([side[member] for member in self.twins[name].members])).samples

    def _read(self, positions: _Positions, name: str, value: Tensor) -> _Read:
        cut = blocks(name, [value], self._terms(name)) if name in self.parts else ()
        pairs = zip(self.parts.get(name, ()), cut, strict=True)
        samples = [positions.of(block.tensors[0], part) for part, block in pairs if part is not None]
        moments = {along: _second_moment(value, along) for along in self.along.get(name, ())}
        return _Read(samples, moments)

    def _correlate(self, name: str, sides: Sequence[Sequence[Tensor]]) -> None:
        parts = [part for part in self.parts[name] if part is not None]
        for part, *samples in zip(parts, *sides, strict=True):
            scaled = _scaled(samples, part)
            for (first, second), pair in self.sums.items():
                correlation, varies = _correlated(scaled[first], scaled[second], samples[0].shape[1:], name)
                if varies:
                    self.seen_at[name] = part.unit
                sums = pair.setdefault(part.unit, {})
                held = sums.get(part.key)
                sums[part.key] = correlation * part.share if held is None else held.add_(correlation, alpha=part.share)

    def _whole(self, spaces: list[int]) -> bool:
        """Whether every space stands beside what it is fibred over; not so where a router has picked.

        What is fibred over positions that nothing moves, or that are left out of the match, is seen by weights alone.
        """
        return all(outer in spaces for space in spaces for outer in self.symmetry.spaces[space].fibre)

    def _leaf(self, leaf: Leaf) -> Leaf:
        """The leaf as the models' own symmetry numbers it: by a frame of the same signs."""
        space, sign = self.number[leaf.space], self.seen.frame(leaf.frame).sign
        frame = next((frame.id for frame in self.symmetry.frames if frame.space == space and frame.sign == sign), -1)
        return Leaf(space, frame, False, leaf.size)

    def _moment(self, value: str, along: int, found: list[Tensor]) -> None:
        sums = self.moments.setdefault((value, along), [torch.zeros_like(moment) for moment in found])
        for held, new in zip(sums, found, strict=True):
            held += new

    def result(self, pair: tuple[int, int]) -> Activations:
        """The sums of a pair, each value counted as one over all batches.

        A unit with a space that no value shows (hidden units of experts that a router has picked) is left out.
        """
        whole = {unit: sums for unit, sums in self.sums[pair].items() if self._shows_all(unit, sums)}
        correlations = {unit: {key: sums[key].double() / self.batches for key in sums} for unit, sums in whole.items()}
        moments: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        for reading in self.readings:
            first, second = (self.moments[reading.value, reading.along][side] / self.batches for side in pair)
            if (reading.parameter, reading.axis) in moments:
                before = moments[reading.parameter, reading.axis]
                first, second = first + before[0], second + before[1]
            moments[reading.parameter, reading.axis] = (first, second)
        sites = sum(unit in whole for unit in self.seen_at.values())
        return Activations(correlations, sites, self.examples, moments)

    def _shows_all(self, unit: int, keys: Iterable[tuple[Leaf, ...]]) -> bool:
        shown = {leaf.space for key in keys for leaf in key}
        return shown.issuperset(space for space, owner in self.owner.items() if owner == unit)


def _numbers(symmetry: SymmetryGraph, seen: SymmetryGraph) -> dict[int, int]:
    """Active spaces of `seen` as `symmetry` numbers them."""
    pairs = [(space, symmetry.by_name[space.name]) for space in seen.active if space.name in symmetry.by_name]
    if any(theirs.size != own.size or theirs.group is not own.group for theirs, own in pairs):
        raise _other_graph("the model has other spaces")
    numbers = {theirs.id: own.id for theirs, own in pairs}
    if missing := [space.name for space in symmetry.active if space.id not in numbers.values()]:
        raise _other_graph(f"the space {missing[0]} is not found")
    return numbers


def _other_graph(what: str) -> UsageError:
    return UsageError(
        f"{what} when the model is traced with a batch of the data",
        cause="its graph depends on the shapes of its inputs",
        remedy="match by weights, or give batches of the shape that the model was traced with",
    )


class _Positions:
    """Which positions of the values are read in one batch: at most `rows` of a value, as many of each part as it has.

    Of all values of one shape they are the same.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.generator = rows, torch.Generator().manual_seed(seed)
        self.chosen: dict[tuple[torch.Size, int], tuple[Tensor, ...]] = {}

    def of(self, tensor: Tensor, part: _Part) -> Tensor:
        """What is read of a block: positions along all that is not correlated, then what is; (positions, n, k, ...)."""
        rest = [dim for dim in range(tensor.dim()) if dim not in part.dims]
        tensor = tensor.permute(*rest, *part.dims)
        shape = tensor.shape[: len(rest)]
        count, rows = shape.numel(), math.ceil(self.rows * part.share)
        if not 0 < rows < count:
            return tensor.reshape(count, *tensor.shape[len(rest) :])
        # Taken before anything is copied: a value is many times as large as what is read of it.
        if (shape, rows) not in self.chosen:
            flat = torch.randint(count, (rows,), generator=self.generator).to(tensor.device)
            self.chosen[shape, rows] = torch.unravel_index(flat, shape)
        return tensor[self.chosen[shape, rows]]


def _scaled(samples: Sequence[Tensor], part: _Part) -> Tensor:
    """What was read of all models, around its mean and over its norm: (models, positions, n k ...)."""
    # All in one tensor, and few operators: on small values it is the number of calls that costs.
    whole = torch.stack([sample.flatten(1) for sample in samples])
    # What a mask has filled in is the same in all models, and may be infinite.
    whole.masked_fill_((whole.abs() >= _FILLED) & (whole == whole[:1]).all(0), 0.0)
    whole -= whole.mean(1, keepdim=True)
    if part.one_by_one:
        whole /= whole.norm(dim=1, keepdim=True).clamp_min(1e-30) * whole.shape[2] ** 0.5
        return whole
    whole /= whole.norm(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    return whole


def _correlated(first: Tensor, second: Tensor, sizes: torch.Size, at: str) -> tuple[Tensor, bool]:
    """The correlation of two models' scaled samples, and whether both vary at all.

    Shapes: first, second (positions, n k ...) -> (n_A, n_B, k_A, k_B, ...).
    """
    correlation = first.T @ second
    total = float(correlation.abs().sum())
    if not math.isfinite(total):
        raise DataError(f"activations are not finite at {at}", cause="NaN or infinite", remedy="check data and weights")
    return pair_by_pair(correlation, sizes), total > 0


def _moment_of(held: _Read | Tensor, along: int) -> Tensor:
    """The second moment along an axis of a value; those of branches are whole."""
    return _second_moment(held, along) if isinstance(held, Tensor) else held.moments[along]


def _second_moment(value: Tensor, along: int) -> Tensor:
    rows = value.movedim(along, -1).flatten(0, -2)
    return (rows.mT @ rows / len(rows)).double()
