"""A map of which every reader picks a part of what it writes, some of them an exponent, as one map for each part.

A variational encoder makes mean and log-variance by one map. The bias of an exponent is a factor behind the
exponential, so that it has nothing in common with the bias of the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.tracing.arguments import arguments
from symgraph.tracing.naming import numbering
from symgraph.tracing.operators import is_pointwise
from symgraph.tracing.picks import Picked, picked

_MAP, _EXP, _SLICE = "aten.linear.default", "aten.exp.default", "aten.slice.Tensor"
Picks = dict[str, Picked]


def with_exponents_apart(graph: Graph) -> Graph:
    """The graph with such maps as one for each pick, by rows of the matrix and of the bias."""
    ends = (node for node in graph.calls if node.target == _EXP)
    sources = dict.fromkeys(source for end in ends if (source := _picked_for(graph, end)) is not None)
    found = {name: picks for name in sources if (picks := _picks_alone(graph, graph.by_name[name]))}
    if not found:
        return graph
    fresh = numbering(graph.by_name.keys())
    calls = {name: tuple(_map(graph, name, pick, fresh)) for picks in found.values() for name, pick in picks.items()}
    return replace(graph, nodes=tuple(part for node in graph.nodes for part in calls.get(node.name, (node,))))


def _picked_for(graph: Graph, end: Node) -> str | None:
    """The map that an exponential is taken of a part of, by functions of each entry that nothing else reads."""
    node = end
    while len(refs := list(node.refs())) == 1:
        before = graph.by_name[refs[0]]
        if len(graph.users[before.name]) != 1 or before.name in graph.outputs:
            return None
        pick = picked(before, graph.by_name)
        if pick is not None:
            return pick.source.name if pick.source.target == _MAP else None
        if before.kind is not Kind.CALL or not is_pointwise(before.target):
            return None
        node = before
    return None


def _picks_alone(graph: Graph, node: Node) -> Picks:
    """The picks by which alone a map with a bias is read, if they share no entry; none otherwise."""
    given = arguments(node) or {}
    stored = [graph.by_name[given[key].name] for key in ("weight", "bias") if isinstance(given.get(key), Ref)]
    plain = [(value.kind, len(value.shape)) for value in stored] == [(Kind.PARAMETER, 2), (Kind.PARAMETER, 1)]
    if not plain or node.name in graph.outputs:
        return {}
    found = {reader.name: picked(reader, graph.by_name) for reader in _readers(graph, node)}
    last = len(node.shape) - 1
    picks = {name: pick for name, pick in found.items() if pick is not None and pick.axis == last and pick.start >= 0}
    in_order = sorted(picks.values(), key=lambda pick: pick.start)
    apart = all(one.start + one.count <= other.start for one, other in pairwise(in_order))
    # A pick of one position may leave its axis out.
    kept = all(len(graph.by_name[name].shape) == len(node.shape) for name in picks)
    return picks if len(picks) == len(found) > 1 and apart and kept else {}


def _readers(graph: Graph, node: Node) -> Iterator[Node]:
    """The calls that read a value, or one of the parts that it is split into."""
    for user in graph.users[node.name]:
        yield from graph.users[user.name] if isinstance(user.result, tuple) else (user,)


def _map(graph: Graph, name: str, pick: Picked, fresh: Callable[[str], str]) -> Iterator[Node]:
    """The rows of the matrix and of the bias that a pick is made by, and the map by them in the place of the pick."""
    made, given = graph.by_name[name], arguments(pick.source) or {}
    rows = []
    for value in (given["weight"], given["bias"]):
        shape = (pick.count, *graph.by_name[value.name].shape[1:])
        rows.append(made.call(fresh("slice"), _SLICE, (value, 0, pick.start, pick.start + pick.count), shape))
    yield from rows
    yield made.call(name, _MAP, (given["input"], *(Ref(row.name) for row in rows)), made.shape)
