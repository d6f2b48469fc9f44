"""Values that are added beside a matrix that could make them itself: W x + B (A x), or W + B A as one matrix.

W takes whatever A and B give up, so that both may be anything. How they come to it is not asked but measured: what is
added must be an affine function of what the matrix reads, the same at every position.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.inference.applied import Applied
from symgraph.inference.flow import Flow
from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.symmetry.updates import Added, Beside, State, Update, region_of
from symgraph.tracing.operators import short_name
from symgraph.tracing.thresholds import fed

_SUMS = {"add": 1.0, "sub": -1.0}
# Beside these nothing is linear in the one operand that depends on inputs.
_LINEAR = frozenset({"linear", "matmul", "mm", "addmm", "bmm", "mul", "div", "neg", "add", "sub", "alias", "to"})
_MOVING = frozenset({"view", "reshape", "unsqueeze", "squeeze", "expand", "transpose", "permute", "t"})
_CUTS = frozenset({"view", "reshape", "unsafe_view", "flatten", "unflatten"})
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class _Site:
    """A matrix in a sum: what stands beside it, and the calls that add this, by the values that they add."""

    beside: Beside
    adding: dict[str, str]


def find_updates(flow: Flow, traced: Graph) -> Iterator[Update]:
    """Every parameter that a matrix beside it can make up for, those with common matrices together.

    Args:
        traced: the graph as it was traced, on which it is measured.
    """
    finder = _Finder(flow, traced)
    sites = finder.sites()
    regions = {site.beside: region_of(traced, site.beside.start, site.beside.ends) for site in sites}
    takers = {name for site in sites for name in (site.beside.weight, site.beside.bias)}
    inside = {call.name for region in regions.values() for call in region.calls}
    adding = {pair for site in sites for pair in site.adding.items()}
    free = [
        node.target
        for node in traced.parameters.values()
        if node.target not in takers and finder.ends(node, inside, adding)
    ]
    for names, together in _components(free, {beside: region.state for beside, region in regions.items()}):
        if finder.measured(together, names):
            yield Update(names, together)


def _components(
    free: list[str], read: dict[Beside, dict[str, Node]]
) -> Iterator[tuple[tuple[str, ...], tuple[Beside, ...]]]:
    """The free parameters with the sums that they are read for, those that share one together."""
    left = dict.fromkeys(free)
    while left:
        names, sums, weights = {next(iter(left))}, set[Beside](), set[str]()
        while more := [b for b in read if b not in sums and (b.weight in weights or names & read[b].keys())]:
            sums.update(more)
            weights |= {beside.weight for beside in more}
            names |= {name for beside in more for name in read[beside] if name in left}
        for name in names:
            left.pop(name, None)
        if sums:
            yield tuple(name for name in free if name in names), tuple(beside for beside in read if beside in sums)


class _Finder:
    """Finds sums with a matrix in a traced graph, and measures what stands beside it."""

    def __init__(self, flow: Flow, traced: Graph) -> None:
        self.flow, self.graph, self.fed = flow, traced, fed(traced)

    # -- where -------------------------------------------------------------------------------------------------------

    def sites(self) -> list[_Site]:
        """The sums with a matrix all of whose uses are in one; what one makes up for makes up for nothing itself."""
        found: dict[str, list[_Site]] = defaultdict(list)
        for node in self.graph.nodes:
            site = self._of_call(node) if node.kind is Kind.CALL else self._of_parameter(node)
            if site is not None:
                found[site.beside.weight].append(site)
        kept, inside = list[_Site](), set[str]()
        for weight, sites in found.items():
            users = self.graph.users[self.graph.state[weight].name]
            regions = [region_of(self.graph, site.beside.start, site.beside.ends) for site in sites]
            read = {name for region in regions for name in region.state}
            if len(users) == len(sites) and weight not in inside and read.isdisjoint(s.beside.weight for s in kept):
                kept += sites
                inside |= read
        return kept

    def _of_call(self, node: Node) -> _Site | None:
        a = self._applied(node)
        read = None if a is None or a.node.target != node.target or node.name not in self.fed else self._matrix(a)
        if read is None:
            return None
        start, weight, bias, axis = read
        adding, signs = self._beside(node, start)
        ends = tuple(adding)
        return _Site(Beside(weight, bias, start, ends, tuple(signs), axis), adding) if ends else None

    def _applied(self, node: Node) -> Applied | None:
        """What inference makes of a traced call; one whose result has another number there is told by its parameter."""
        if node.name in self.flow.applied:
            return self.flow.applied[node.name]
        for read in (self.graph.by_name[name] for name in node.refs()):
            if read.kind is Kind.PARAMETER and self.graph.users[read.name] == (node,):
                known = self.flow.graph.state.get(read.target)
                users = self.flow.graph.users[known.name] if known is not None else ()
                return self.flow.applied.get(users[0].name) if len(users) == 1 else None
        return None

    def _matrix(self, a: Applied) -> tuple[str, str, str, int] | None:
        """What a call multiplies by a matrix that is a parameter, that matrix, its bias, and the contracted axis."""
        laws = [(value, law) for value, law in a.rule.shift.items() if law in a.binding.operands]
        if len(laws) != 1 or len(a.binding.results) != 1:
            return None
        (value, law), operands = laws[0], a.binding.operands
        weight, tokens = self.graph.by_name.get(operands[law][0].name), operands[law][1]
        kept = {token.name for token in a.binding.results[0]}
        axes = [axis for axis, token in enumerate(tokens) if token.name not in kept]
        bias = self.flow.bias(a)
        plain = weight is not None and weight.kind is Kind.PARAMETER and len(weight.shape) == 2
        known = bias is not None or a.rule.adds not in operands
        # What rewriting has made is not in the graph as it was traced.
        read = self.graph.by_name.get(operands[value][0].name)
        if weight is None or read is None or not plain or len(axes) != 1 or not known:
            return None
        alone = bias is None or len(self.graph.users[bias.name]) == 1
        return self._before_cuts(read).name, weight.target, bias.target if bias is not None and alone else "", axes[0]

    def _before_cuts(self, node: Node) -> Node:
        """What a value is whose positions alone have been cut otherwise."""
        while node.kind is Kind.CALL and self._cuts_positions(node):
            node = self.graph.by_name[node.args[0].name]
        return node

    def _cuts_positions(self, node: Node) -> bool:
        """Whether a call gives the positions of a value other axes, and leaves its last one."""
        refs = list(node.refs())
        before = self.graph.by_name[refs[0]].shape if len(refs) == 1 else ()
        return short_name(node.target) in _CUTS and before[-1:] == node.shape[-1:] != ()

    def _of_parameter(self, node: Node) -> _Site | None:
        if node.kind is not Kind.PARAMETER or len(node.shape) < 2:
            return None
        adding, signs = self._beside(node, "")
        return _Site(Beside(node.target, "", "", tuple(adding), tuple(signs)), adding) if adding else None

    def _beside(self, node: Node, start: str) -> tuple[dict[str, str], list[float]]:
        """The values that are added to one before anything else reads it, with the calls that add them, and signs."""
        adding, signs, own = dict[str, str](), list[float](), 1.0
        while len(users := self.graph.users[node.name]) == 1 and self._cuts_positions(users[0]):
            (node,) = users
        while (call := self._adding(node)) is not None:
            first, other = call.args
            sign = _SUMS[short_name(call.target)]
            if other.name == node.name:
                other, own, sign = first, own * sign, 1.0
            if other.name not in adding and self._is_made_of(other.name, start):
                adding[other.name] = call.name
                signs.append(sign * own)
            node = call
        return adding, signs

    def _adding(self, node: Node) -> Node | None:
        users = self.graph.users[node.name]
        if len(users) != 1 or node.name in self.graph.outputs or short_name(users[0].target) not in _SUMS:
            return None
        (call,) = users
        plain = len(call.args) == 2 and not call.kwargs and all(isinstance(arg, Ref) for arg in call.args)
        return call if plain and len(set(call.refs())) == 2 and call.shape == node.shape else None

    def _is_made_of(self, end: str, start: str) -> bool:
        """Whether a value comes from another one, or from none that depends on inputs, by calls that may be linear."""
        todo, seen = [end], {start}
        if end == start or (end in self.fed) != bool(start) or self.graph.by_name[end].kind is not Kind.CALL:
            return False
        while todo:
            node = self.graph.by_name[todo.pop()]
            if node.name in seen:
                continue
            seen.add(node.name)
            stored = node.kind is Kind.PARAMETER or (
                node.kind is Kind.BUFFER and node.target not in self.graph.transient
            )
            linear = node.name not in self.fed or short_name(node.target) in _LINEAR | _MOVING
            if not stored and (node.kind is not Kind.CALL or not linear):
                return False
            todo += node.refs()
        return True

    # -- what --------------------------------------------------------------------------------------------------------

    def ends(self, parameter: Node, inside: Collection[str], adding: Collection[tuple[str, str]]) -> bool:
        """Whether all that a parameter has an effect on is added beside a matrix."""
        if not parameter.is_floating or not self.graph.users[parameter.name]:
            return False
        todo, seen = [parameter.name], set[str]()
        while todo:
            value = todo.pop()
            if value in self.graph.outputs:
                return False
            for user in self.graph.users[value]:
                if user.name in inside and user.name not in seen:
                    seen.add(user.name)
                    todo.append(user.name)
                elif user.name not in inside and (value, user.name) not in adding:
                    return False
        return True

    def measured(self, sums: tuple[Beside, ...], free: tuple[str, ...]) -> bool:
        """Whether each sum is affine in what its matrix reads, and made up for by the matrix and its bias."""
        generator = torch.Generator().manual_seed(0)
        probes = [_Probe(self.graph, beside, generator) for beside in sums]
        state = self._drawn({name for probe in probes for name in probe.added.region.state}, generator)
        states = state, {**state, **self._drawn(free, generator)}
        try:
            affine = all(probe.is_affine(given) for probe, given in product(probes, states))
            return affine and _are_made_up_for(probes, states)
        except UsageError:
            return False

    def _drawn(self, names: Collection[str], generator: torch.Generator) -> dict[str, Tensor]:
        shapes = {name: self.graph.state[name].shape for name in sorted(names)}
        return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


class _Probe:
    """What is added beside a matrix, tried on random values."""

    def __init__(self, graph: Graph, beside: Beside, generator: torch.Generator) -> None:
        self.added, shape = Added(graph, beside), graph.by_name[beside.start].shape if beside.start else ()
        self.shape, self.first, self.second = shape, *torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        self.order = torch.randperm(prod(shape[:-1]), generator=generator)
        self.chosen = (torch.rand(shape[:-1], generator=generator) < 0.5).unsqueeze(-1)

    def is_affine(self, state: State) -> bool:
        """Whether it is an affine function of its start, one and the same at every position."""
        if not self.added.beside.start:
            return True
        x, y, run = self.first, self.second, partial(self.added.values, state)
        one, other, zero = run(x), run(y), run(torch.zeros_like(x))
        if one.shape[:-1] != self.shape[:-1]:
            return False
        apart = run(torch.where(self.chosen, x, y)), torch.where(self.chosen, one, other)
        moved = run(self._moved(x)), self._moved(one)
        return _near(run(x + y) + zero, one + other) and _near(*apart) and _near(*moved)

    def of_one(self, state: State) -> tuple[Tensor, Tensor]:
        """What it makes of one vector, and of zero."""
        if not self.added.beside.start:
            made = self.added.values(state)
            return made, made.new_zeros(())
        vector = torch.linspace(-1.0, 1.0, self.shape[-1], dtype=torch.float64)
        made, zero = (self.added.values(state, level * vector.expand(self.shape)) for level in (1.0, 0.0))
        return made.flatten(0, -2)[0], zero.flatten(0, -2)[0]

    def _moved(self, value: Tensor) -> Tensor:
        """With its positions in another order."""
        return value.flatten(0, -2)[self.order].reshape(value.shape) if value.dim() > 1 else value


def _are_made_up_for(probes: list[_Probe], states: tuple[State, State]) -> bool:
    """Whether no bias is needed where a matrix has none, and all that is added beside one matrix is the same."""
    made: dict[str, Tensor] = {}
    for probe in probes:
        (_, before), (_, after) = found = [probe.of_one(state) for state in states]
        if not probe.added.beside.bias and not _near(before, after):
            return False
        together = torch.cat([part.reshape(-1) for parts in found for part in parts])
        if not _near(made.setdefault(probe.added.beside.weight, together), together):
            return False
    return True


def _near(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= _TOLERANCE * (1.0 + other.abs().max()))
