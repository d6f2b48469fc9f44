"""Constants that go on through products of values, because all that they are multiplied by comes to one.

In attention without a softmax values are multiplied by what is computed from data and divided by its sum, in whatever
order: phi(q) (phi(k)^T v) / phi(q) sum phi(k). A constant in the values is neither in one product nor in the quotient
as it was, but it comes out of all of them together as it went in. So it is measured from the first product on: what is
multiplied there is computed from the nearest values that maps with parameters have made, which are drawn at random.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice, product

import torch
from torch import Tensor

from symgraph.inference.measured_laws import TOLERANCE
from symgraph.inference.region_tables import tables_in_worlds
from symgraph.inference.regions import Dataflow, Region, Runner, dataflow, unless_refused
from symgraph.ir import Graph, Kind, Node, resized
from symgraph.ir import Tensor as Meta
from symgraph.tracing.operators import short_name

_PRODUCTS = frozenset({"matmul", "bmm"})
_SCALES = (0.3, 1.0, 3.0)
LONGEST = 40
# More entries than a measurement has to see.
LARGEST = 2**22


@dataclass(frozen=True, slots=True)
class Relay:
    """A later value in which a constant along `dim` comes out as it went in; it has as many axes."""

    end: str
    dim: int


Relays = Mapping[tuple[str, str], Relay]


def find_relays(graph: Graph) -> Relays:
    """For a value and the one product that reads it, where a constant comes out as it went in."""
    flow, known, found = dataflow(graph), dict[Hashable, int | None](), dict[tuple[str, str], Relay]()
    for node in graph.calls:
        if short_name(node.target) not in _PRODUCTS or not all(ref in flow.live for ref in node.refs()):
            continue
        ends = list(_ends(flow, node))
        for value in node.refs():
            alone = list(node.refs()).count(value) == 1 and graph.users[value] == (node,)
            for end in ends if alone else ():
                dim = _measured(flow, value, end, known) if _is_like(graph, value, end) else None
                if dim is not None:
                    found[value, node.name] = Relay(end, dim)
                    break
    return found


def _ends(flow: Dataflow, product: Node) -> Iterator[str]:
    """The values through which everything goes that a product is read for, up to the next map with parameters."""
    for node, alone in islice(flow.behind(product), LONGEST):
        if _reads_parameters(flow, node):
            return
        if alone and node is not product:
            yield node.name


def _reads_parameters(flow: Dataflow, node: Node) -> bool:
    return any(ref in flow.learned and ref not in flow.fed for ref in node.refs())


def _is_like(graph: Graph, value: str, end: str) -> bool:
    """Whether two values have axes of the same sizes but for one at most."""
    one, other = graph.by_name[value], graph.by_name[end]
    if not isinstance(one.result, Meta) or not isinstance(other.result, Meta) or len(one.shape) != len(other.shape):
        return False
    if torch.Size(one.shape).numel() > LARGEST:
        return False
    return sum(a != b for a, b in zip(one.shape, other.shape, strict=True)) <= 1


def _measured(flow: Dataflow, value: str, end: str, known: dict[Hashable, int | None]) -> int | None:
    """The dimension along which a constant comes out as it went in."""
    region, drawn = _from_maps(flow, flow.between(value, end))
    # Weights of experts, say, are too large to be drawn.
    if region is None or any(torch.Size(flow.graph.by_name[name].shape).numel() > LARGEST for name in drawn):
        return None
    key = region.key(drawn)
    if key not in known:
        known[key] = unless_refused(partial(_dim, flow.graph, region, drawn), None)
    return known[key]


def _from_maps(flow: Dataflow, region: Region) -> tuple[Region | None, tuple[str, ...]]:
    """The region with what its tables are computed by, back to values that are drawn at random, and these."""
    by, found, drawn, given = flow.graph.by_name, set[str](), dict[str, None](), dict[str, None]()
    todo = list(region.tables)
    while todo:
        node = by[todo.pop()]
        if node.name not in flow.live and isinstance(node.result, Meta):
            given[node.name] = None
        elif isinstance(node.result, Meta) and (node.kind is not Kind.CALL or _reads_parameters(flow, node)):
            drawn[node.name] = None
        elif node.name not in found:
            found.add(node.name)
            todo += node.refs()
        if len(found) > LONGEST or node.name == region.start:
            return None, ()
    nodes = sorted({*found, *(node.name for node in region.nodes)}, key=flow.order.__getitem__)
    tables = (*drawn, *given)
    return Region(region.start, region.end, tuple(by[n] for n in nodes), tables), tuple(drawn)


def _dim(graph: Graph, region: Region, drawn: Iterable[str]) -> int | None:
    return next(_dims(graph, region, drawn), None)


def _dims(graph: Graph, region: Region, drawn: Iterable[str]) -> Iterator[int]:
    """The dimensions along which a constant comes out as it went in, at all scales."""
    generator = torch.Generator().manual_seed(0)
    shape, after = graph.by_name[region.start].shape, graph.by_name[region.end].shape
    worlds = tables_in_worlds(graph, [table for table in region.tables if table not in set(drawn)])
    left = [d for d in range(len(shape)) if shape[d] > 1 and resized(shape, d, after[d]) == after]
    for given, scale in product(worlds, _SCALES):
        tables = given | {t: scale * _noise(graph.by_name[t].shape, generator) for t in drawn}
        run, x = Runner(graph, region, tables), _noise(shape, generator)
        before = run(x)
        if given is not worlds[0] and not bool(before.isfinite().any()):
            continue
        left = [d for d in left if _comes_out(run, x, before, _noise(resized(shape, d, 1), generator))]
        if not left:
            return
    yield from left


def _comes_out(run: Runner, x: Tensor, before: Tensor, constant: Tensor) -> bool:
    """Whether exactly the constant is added, at every position: beside a number that stands for infinity it is lost."""
    if not before.is_floating_point():
        return False
    off = (run(x + constant) - before - constant).abs()
    # What is no number before is none afterwards either.
    return bool((before.isnan() | (off <= TOLERANCE * constant.abs().max())).all())


def _noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)
