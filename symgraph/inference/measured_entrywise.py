"""Functions of each entry of one value, in whatever calls they are written: how they pass on a scale or a sign.

`clamp(x, min=0)`, `where(x > 0, x, 0.1 * x)`, `maximum(x, zeros)` and `x * (x > 0)` pass on positive scales as `relu`
does, and `2 * sigmoid(2 * x) - 1` passes on signs as `tanh` does. What the calls say one by one is less.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from functools import reduce
from operator import and_

import torch
from torch import Tensor

from symgraph.groups.lattice import Bound, SymmetryClass, down
from symgraph.inference.measured_laws import same
from symgraph.inference.measured_norms import numbers_of
from symgraph.inference.region_tables import tables_in_worlds
from symgraph.inference.regions import Dataflow, Region, Runner, dataflow, replaced
from symgraph.ir import Graph, Node, Ref
from symgraph.ir import Tensor as Meta
from symgraph.rules.carried import measured_node
from symgraph.tracing.operators import is_pointwise, short_name

# Of these alone a rule has to say less than some functions that are made of them pass on.
_CUTTING = frozenset(
    {
        "clamp",
        "clamp_min",
        "clamp_max",
        "threshold",
        "where",
        "maximum",
        "minimum",
        "fmax",
        "fmin",
        "gt",
        "ge",
        "lt",
        "le",
        "sign",
    }
)
_SATURATING = frozenset({"abs", "sigmoid", "exp", "expm1", "exp2", "softplus", "logaddexp"})
_WORTH = (SymmetryClass.POSITIVE_MONOMIAL, SymmetryClass.SIGNED)
LONGEST = 12
_CLOSING = 1e9
_SCALES = (1e-3, 1.0, 1e3)
_BESIDE = (0.3, 3.0)
_SMALLEST = 0.3


def with_entrywise(graph: Graph) -> Graph:
    """The graph with every such function as one call, where it passes on more than its calls do."""
    flow = dataflow(graph, fed=False)
    known: dict[Hashable, Bound] = {}
    parts: dict[str, tuple[Node, ...]] = {}
    for node in graph.calls:
        if node.name not in flow.live or not _is_entrywise(flow, node) or not node.is_floating:
            continue
        for region in _regions(flow, node, parts):
            key = region.key()
            if key not in known:
                known[key] = _bound(flow, region)
            if any(cls in known[key] for cls in _WORTH):
                parts[node.name] = (_call(node, region.start, known[key]),)
                break
    return replaced(graph, parts) if parts else graph


def _regions(flow: Dataflow, end: Node, found: dict[str, tuple[Node, ...]]) -> list[Region]:
    """The regions that end here and in which every call treats entries alone, the smallest first."""
    regions, start = list[Region](), flow.above(end.name)
    while start is not None:
        region = flow.region(start, end.name)
        plain = all(_is_entrywise(flow, node) and node.shape == end.shape for node in region.nodes)
        if not plain or len(region.nodes) > LONGEST or not flow.runs(region):
            break
        names = {short_name(node.target) for node in region.nodes}
        first = flow.graph.by_name[start]
        # What closes scores is known by its number, not by what it does to a factor.
        if any(abs(number) >= _CLOSING for node in region.nodes for number in numbers_of(node)):
            break
        if names & (_CUTTING | _SATURATING) and first.shape == end.shape and first.is_floating:
            regions.append(region)
        if start in found or any(node.name in found for node in region.nodes):
            break
        start = flow.above(start)
    return regions


def _is_entrywise(flow: Dataflow, node: Node) -> bool:
    """Whether a call treats entries alone, with fixed numbers beside what is live."""
    if not isinstance(node.result, Meta) or not is_pointwise(node.target):
        return False
    if "complex" in node.result.dtype:
        return False
    operands = [flow.graph.by_name[ref] for ref in node.refs()]
    return all(n.shape == node.shape if n.name in flow.live else n.name not in flow.fed for n in operands)


def _bound(flow: Dataflow, region: Region) -> Bound:
    """The classes of factors that the function passes on, whatever the tables are."""
    return reduce(and_, (_measured(flow, region, tables) for tables in tables_in_worlds(flow.graph, region.tables)))


def _measured(flow: Dataflow, region: Region, tables: dict[str, Tensor]) -> Bound:
    numbers = {name: _number(table) for name, table in tables.items()}
    if None in numbers.values():
        return down()
    single = {name: number for name, number in numbers.items() if number is not None}
    run = Runner(flow.graph, _of_any_size(region), single)
    made_with = [float(a) for node in region.nodes for a in numbers_of(node)]
    pairs = [(x, run(x)) for x in _worlds((*made_with, *map(float, single.values())))]
    odd = all(same(run(-x), -y) for x, y in pairs)
    generator = torch.Generator().manual_seed(1)
    factors = [_SMALLEST + 3.0 * torch.rand(x.shape, generator=generator, dtype=x.dtype) for x, _ in pairs]
    if all(same(run(s * x), s * y) for (x, y), s in zip(pairs, factors, strict=True)):
        return down(SymmetryClass.MONOMIAL if odd else SymmetryClass.POSITIVE_MONOMIAL)
    return down(SymmetryClass.SIGNED) if odd else down()


def _number(table: Tensor) -> Tensor | None:
    """The number that all entries of a table are."""
    first = table.reshape(-1)[:1]
    alike = bool(table.numel()) and bool((table == first).all())
    return first.reshape(()) if alike else None


def _of_any_size(region: Region) -> Region:
    """The region without its shapes, which entrywise calls do not ask for."""
    return replace(region, nodes=tuple(replace(node, result=None) for node in region.nodes))


def _worlds(numbers: tuple[float, ...]) -> Iterator[Tensor]:
    """Values of either sign and zeros, at sizes of their own: on both sides of every number and of one over it."""
    generator = torch.Generator().manual_seed(0)
    finite = [abs(number) for number in numbers if 1e-30 < abs(number) < 1e30]
    beside = [size * b for number in finite for size in (number, 1.0 / number) for b in _BESIDE]
    for scale in dict.fromkeys((*_SCALES, *beside)):
        plain = torch.randn(64, generator=generator, dtype=torch.float64)
        yield scale * torch.cat([plain.new_zeros(3), plain])


def _call(node: Node, start: str, bound: Bound) -> Node:
    tokens = [f"p{i}" for i in range(len(node.shape))]
    positive = SymmetryClass.POSITIVE_MONOMIAL in bound
    about = f"Measured entry by entry: a {'positive scale' if positive else 'sign'} comes out as it went in."
    admits = dict.fromkeys(tokens, bound | down(SymmetryClass.SEMI_PERMUTATION))
    return measured_node(node, "measured-entrywise", about, {"x": Ref(start)}, {"x": tokens}, tokens, admits)
