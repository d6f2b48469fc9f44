"""Attention in any spelling: weights that do not see a constant beside the keys, and that sum to one over the values.

Between a product of two values, or a map of one (scores), and a product with a third lies a region of any operators.
Where adding to the scores what does not vary along one axis changes nothing of the weights, a constant in whatever was
multiplied there is not seen; where the weights sum to one, a constant in the values comes out as it went in. The
products say so.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from symgraph.inference.measured_laws import same_where_defined
from symgraph.inference.region_tables import tables_in_worlds
from symgraph.inference.regions import Dataflow, Region, Runner, dataflow, unless_refused
from symgraph.ir import Graph, Node, Ref
from symgraph.ir import Tensor as Meta
from symgraph.rules.binding import Binding
from symgraph.rules.book import RuleBook
from symgraph.rules.carried import lawful_node
from symgraph.tracing.operators import short_name

_PRODUCTS = frozenset({"matmul", "bmm"})
# A map by learned queries makes scores as well, in which a constant goes the way of all others.
_MAPS = frozenset({"linear"})
_SCALES = (1e-3, 1.0, 30.0, 1e3)
LONGEST = 60


@dataclass(frozen=True, slots=True)
class _Attention:
    """Scores, the region to the weights, and the products of the weights with values, by the place of the weights."""

    scores: Node
    region: Region
    products: tuple[tuple[Node, int], ...]


@dataclass(frozen=True, slots=True)
class _Laws:
    """The axis of the scores along which a constant is not seen; for every product whether its weights sum to one."""

    blind: int | None
    sums: tuple[bool, ...]


def with_attention(graph: Graph, book: RuleBook) -> Graph:
    """The graph with products of scores and of values that say what they do not see and what they pass on."""
    flow = dataflow(graph, fed=False)
    found = [a for node in graph.calls if (a := _attention(flow, node)) is not None]
    if not found:
        return graph
    names = dict.fromkeys(table for a in found for table in a.region.tables if table not in flow.live)
    worlds = tables_in_worlds(graph, names)
    known: dict[Hashable, _Laws] = {}
    lawful: dict[str, Node] = {}
    for a in found:
        key = a.region.key(flow.live), tuple(at for _, at in a.products)
        if key not in known:
            given = [_with_live(graph, a.region, world, flow) for world in worlds]
            known[key] = unless_refused(partial(_laws, graph, a, given), _none(a))
        lawful |= {n.name: n for n in _lawful(graph, a, known[key], book)}
    return replace(graph, nodes=tuple(lawful.get(node.name, node) for node in graph.nodes))


def _attention(flow: Dataflow, node: Node) -> _Attention | None:
    """Scores and what is made of them, if all of that meets values in products."""
    if short_name(node.target) not in _PRODUCTS | _MAPS or not all(ref in flow.live for ref in node.refs()):
        return None
    ends = _weights(flow, node)
    if ends is None or ends == node.name:
        return None
    users = [(user, [i for i, a in enumerate(user.args) if a == Ref(ends)]) for user in flow.graph.users[ends]]
    products = tuple((u, at[0]) for u, at in users if short_name(u.target) in _PRODUCTS and len(at) == 1)
    return _Attention(node, flow.between(node.name, ends), products) if products else None


def _weights(flow: Dataflow, scores: Node) -> str | None:
    """The last value before a product through which everything goes that the scores are read for."""
    found = None
    for node, alone in islice(flow.behind(scores), LONGEST):
        if node is not scores and short_name(node.target) in _PRODUCTS and not _mixes(node, flow):
            return found
        found = node.name if alone else None
    return None


def _mixes(node: Node, flow: Dataflow) -> bool:
    """Whether a product only mixes heads: one side of it does not depend on any input."""
    return any(ref not in flow.fed for ref in node.refs())


def _with_live(graph: Graph, region: Region, tables: Mapping[str, Tensor], flow: Dataflow) -> dict[str, Tensor]:
    """Tables, and random values for whatever else the region reads."""
    generator = torch.Generator().manual_seed(0)
    found = dict(tables)
    for name in region.tables:
        if name in flow.live:
            shape = graph.by_name[name].shape
            found[name] = torch.randn(shape, generator=generator, dtype=torch.float64)
    return found


def _none(a: _Attention) -> _Laws:
    return _Laws(None, (False,) * len(a.products))


def _laws(graph: Graph, a: _Attention, worlds: list[dict[str, Tensor]]) -> _Laws:
    shape = a.scores.shape
    if not isinstance(graph.by_name[a.region.end].result, Meta) or len(shape) < 2:
        return _none(a)
    blind = {-1: True, -2: True}
    sums = [True] * len(a.products)
    generator = torch.Generator().manual_seed(1)
    for tables in worlds:
        run = Runner(graph, a.region, tables)
        for scale in _SCALES:
            x = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
            y = run(x)
            if tables is not worlds[0] and not bool(y.isfinite().any()):
                continue
            for axis in blind:
                constant = torch.randn(x.narrow(axis, 0, 1).shape, generator=generator, dtype=torch.float64)
                blind[axis] = blind[axis] and _agree(run(x + scale * constant), y, scale)
            for i, (_, place) in enumerate(a.products):
                total = y.sum(-1 if place == 0 else -2)
                sums[i] = sums[i] and _agree(total, torch.ones_like(total), scale)
    unseen = [axis for axis, holds in blind.items() if holds and not blind[-3 - axis]]
    return _Laws(unseen[0] if unseen else None, tuple(sums))


def _agree(found: Tensor, expected: Tensor, scale: float) -> bool:
    """Whether two results are the same; at large scores alone, exponentials may be beyond all numbers."""
    if scale > 1.0 and not bool((found.isfinite() & expected.isfinite()).any()):
        return True
    return same_where_defined(found, expected)


def _lawful(graph: Graph, a: _Attention, laws: _Laws, book: RuleBook) -> Iterator[Node]:
    """The products under rules that say what was measured.

    The last axis of a product is one of its second operand, the axis before that one of its first.
    """
    if laws.blind is not None and short_name(a.scores.target) in _PRODUCTS:
        place, axis = (1, "o") if laws.blind == -1 else (0, "t")
        yield from _with_law(graph, a.scores, book, {"i": "query-key"}, "blind", place, axis)
    for (node, place), sums in zip(a.products, laws.sums, strict=True):
        if sums:
            names = {"o" if place == 0 else "t": "value-output"}
            yield from _with_law(graph, node, book, names, "shift", 1 - place, "output")


def _with_law(
    graph: Graph, node: Node, book: RuleBook, names: dict[str, str], key: str, place: int, law: str
) -> Iterator[Node]:
    binding: Binding | None = book.binding(node, graph)
    # What is multiplied with itself changes on both sides.
    if binding is None or len(set(node.refs())) < 2:
        return
    heads = "b" if "b" in binding.rule.admits else "..."
    laws = {key: {list(binding.operands)[place]: law}}
    yield lawful_node(node, binding, names={**names, heads: "heads"}, **laws)
