"""The factors that embedded tensors need so that every operator of the wide model agrees with the narrow one.

An operator may depend on sizes: a norm divides by the root of a mean, attention by the root of the head size, some
embeddings are multiplied by the root of the width. So each block of each tensor carries a factor. Every call gives
equations: evaluated in the wide model on embedded operands and read back, its result is the narrow model's times a
factor; inputs and outputs have the factor one. They are solved for the logarithms by Gauss and Newton's method,
starting from what norms alone would need; changes are the smallest possible, so that both sides of a product share one.
Nothing is assumed about an operator: each is evaluated.

The narrow model is run anew for each round, and a value is forgotten once its last equation is made; the equations
are sparse (`symgraph.resize.sparse`). Time and memory are linear in the number of values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from symgraph.ir import Graph, Kind, Node
from symgraph.ir import Tensor as Meta
from symgraph.resize.call_laws import EXACT, Carried, Law, Site
from symgraph.resize.lifting import Lifted
from symgraph.resize.maps import Widenings, blocks_of, narrowed, wide_size, widen, widened
from symgraph.resize.sparse import least_change
from symgraph.tracing.interpreter import Interpreter

ROUNDS = 25
# What logarithms of factors still move by where equations contradict each other, by rounding alone.
STILL = 1e-11
State = Mapping[str, Tensor]


class Factors:
    """The equations between the blocks of all values of a narrow model, and their solution.

    Args:
        wide: the wide model's graph, with the nodes of the narrow one's in the same order.
        lifted: the narrow model in the terms of the wide one.
        state: the narrow model in canonical form.
        own: the wide model's own state, of which buffers are used that its code makes, or without a counterpart.
        inputs: what the narrow model is run on.
        free: parameters whose blocks may have factors other than one.
    """

    def __init__(
        self,
        wide: Graph,
        lifted: Lifted,
        maps: Widenings,
        state: State,
        own: State,
        inputs: Sequence[Tensor],
        free: Collection[str],
    ) -> None:
        self.wide, self.lifted, self.narrow, self.maps = wide, lifted, lifted.symmetry, maps
        narrow = self.narrow
        self.state, self.own, self.inputs = state, own, inputs
        self.renamed = {other.name: own.name for own, other in zip(wide.nodes, narrow.graph.nodes, strict=True)}
        self._position = {node.name: place for place, node in enumerate(wide.nodes)}
        self.sites: dict[str, Site] = {}
        self.size, self.error = 0, torch.inf
        for node in narrow.graph.nodes:
            self._place(node, free)
        self.logs = torch.zeros(self.size, dtype=torch.float64)
        for site in self.sites.values():
            if site.unknowns():
                self.logs[site.start : site.start + site.blocks.count] = site.blocks.guess
        self.laws = {
            call.name: self._law(call) for call in narrow.graph.calls if call.name in self.sites and call.is_floating
        }
        self._last = {name: law.node.name for law in self.laws.values() for name in (law.node.name, *law.operands)}
        self._run = Interpreter(narrow.graph)

    def _place(self, node: Node, free: Collection[str]) -> None:
        stored = node.kind in (Kind.PARAMETER, Kind.BUFFER)
        if node.target in self.wide.transient or not isinstance(node.result, Meta):
            return  # The wide model's code makes its own buffers, whatever the narrow one's are.
        axes = self.narrow.terms.get(node.target) if stored else None
        axes = self.narrow.values.get(node.name) if axes is None else axes
        wide = self.wide.by_name[self.renamed[node.name]]
        if axes is None or tuple(wide_size(term, self.maps) for term in axes) != wide.shape:
            return
        movable = node.name not in self.narrow.graph.outputs if node.kind is Kind.CALL else node.target in free
        site = Site(axes, blocks_of(axes, self.maps), self.size if movable and node.is_floating else -1)
        self.sites[node.name] = site
        self.size += len(site.unknowns())

    def _law(self, node: Node) -> Law:
        operands = tuple(dict.fromkeys(_sources(self.narrow.graph, node, self.sites)))
        return Law(node, self.wide, self.renamed, operands, self.maps, self._position)

    def _carried(self, name: str, value: Tensor) -> Carried:
        node = self.narrow.graph.by_name[name]
        site = self.sites.get(name)
        if site is None:
            return Carried(self.own[node.target], self.own[node.target])
        offset = self.narrow.offsets.get(node.target) if node.kind is not Kind.CALL else None
        value = self.lifted.tensor(value if offset is None else offset.added(value), site.axes)
        wide = None if offset is None else widened(offset, site.axes, self.maps)
        return Carried(value, widen(value, site.axes, self.maps), site, wide)

    def wide_state(self) -> dict[str, Tensor]:
        """The parameters and buffers of the wide model, with their factors; foreign ones are left out."""
        nodes = self.narrow.graph.state
        return {
            name: self._carried(node.name, self.state[name]).embedded(self.logs)
            for name, node in nodes.items()
            if node.name in self.sites and name in self.state
        }

    def narrow_state(self, state: State) -> dict[str, Tensor]:
        """What a state of the wide model in canonical form says about the narrow one, factors taken off."""
        restored = {}
        for name, node in self.narrow.graph.state.items():
            site = self.sites.get(node.name)
            if site is None or name not in state or not node.is_floating:
                continue
            offset = self.narrow.offsets.get(name)
            full = state[name] if offset is None else widened(offset, site.axes, self.maps).added(state[name])
            back = narrowed(full, site.axes, self.maps) / site.factors(self.logs)[site.blocks.narrow]
            restored[name] = back if offset is None else offset.added(back, -1.0)
        return restored

    def solve(self) -> None:
        """Gauss and Newton's method until the equations hold, or nothing gets better."""
        best = float("inf")
        for _ in range(ROUNDS):
            now = self.worst()[1]
            if now <= EXACT or now > 2 * best or not self.size:
                return
            best = min(best, now)
            rows = [law.rows(self.logs, live) for law, live in self._sweep()]
            change = least_change(rows, self.size).clamp(-2.0, 2.0)
            self.logs = self.logs + change
            if float(change.abs().max()) <= STILL:
                return

    def worst(self) -> tuple[Node, float]:
        """The call whose equation fails most, and by how much relative to its result."""
        errors = [(law.error(self.logs, live), law.node) for law, live in self._sweep()]
        error, node = max(errors, key=lambda pair: pair[0])
        return node, error

    def _sweep(self) -> Iterator[tuple[Law, Mapping[str, Carried]]]:
        """Every law in order, with its operands and its result as long as something needs them."""
        live: dict[str, Tensor] = {}
        freed: dict[str, list[str]] = {}
        for name, at in self._last.items():
            freed.setdefault(at, []).append(name)
        for name, value in self._run.values(self.state, self.inputs):
            if name in self._last:
                live[name] = value
            law = self.laws.get(name)
            if law is not None:
                yield law, {value: self._carried(value, live[value]) for value in dict.fromkeys((*law.operands, name))}
            for gone in freed.get(name, ()):
                live.pop(gone, None)


def _sources(graph: Graph, node: Node, known: Collection[str]) -> Iterator[str]:
    """The known values that a call depends on: what has several results, or no terms, is looked through."""
    for name in node.refs():
        if name in known or graph.by_name[name].kind is not Kind.CALL:
            yield name
        else:
            yield from _sources(graph, graph.by_name[name], known)
