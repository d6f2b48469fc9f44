"""Lengths of what one value holds in several parts: the modulus of complex numbers, in whatever way it is written.

Entries that stand in several parts of an axis, real and imaginary ones or the coordinates of a capsule, are joined
entry by entry. Where rotations of the parts change nothing, the region is one call on an axis of its own for the parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symgraph.groups.elements import IndexSet
from symgraph.groups.lattice import Bound, SymmetryClass, down, maps
from symgraph.inference.entry_numbers import moved
from symgraph.inference.measured_laws import same
from symgraph.inference.measured_norms import numbers_of
from symgraph.inference.region_tables import tables_in_worlds
from symgraph.inference.regions import Dataflow, Region, Runner, dataflow, replaced
from symgraph.ir import Graph, Node, Ref, Shape, resized
from symgraph.ir import Tensor as Meta
from symgraph.rules.carried import measured_node
from symgraph.tracing.arguments import arguments
from symgraph.tracing.naming import numbering
from symgraph.tracing.operators import is_pointwise, short_name

_PICKS = frozenset({"slice", "select", "split", "split_with_sizes", "chunk", "unbind", "getitem"})
_JOINS = frozenset(
    {"stack", "unsqueeze", "squeeze", "complex", "view_as_complex", "abs", "to", "to_copy", "clone", "contiguous"}
)
_REDUCTIONS = frozenset({"sum", "mean", "linalg_vector_norm"})
_SCALES = (1e-3, 1.0, 1e3)
_ROWS: Bound = down(SymmetryClass.SEMI_PERMUTATION)
LONGEST = 30
# More parts than a length of coordinates has.
WIDEST = 64
# More entries than a measurement has to see.
LARGEST = 2**22


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the parts of an axis lie: `count` of them from `start`, each of `size` entries, or in turns.

    `size` is None where each part is one position, and its axis is gone.
    """

    axis: int
    start: int
    count: int
    size: int | None
    in_turns: bool = False

    @property
    def at(self) -> int:
        """The axis of the parts once it stands alone."""
        return self.axis + self.in_turns

    def cut(self, shape: Shape) -> Shape:
        """The shape with an axis for the parts."""
        inner = () if self.size is None else (self.size,)
        both = (*inner, self.count) if self.in_turns else (self.count, *inner)
        return (*shape[: self.axis], *both, *shape[self.axis + 1 :])

    def result(self, shape: Shape) -> Shape:
        """The shape of one part."""
        return (*shape[: self.axis], *(() if self.size is None else (self.size,)), *shape[self.axis + 1 :])

    @property
    def width(self) -> int:
        """How many entries of the axis all parts have."""
        return self.count * (self.size or 1)


@dataclass(frozen=True, slots=True)
class Law:
    """`factor` times the common length of parts to a power, or another function of it (None)."""

    power: float | None
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Length:
    """A region that joins parts, and what it makes of them."""

    region: Region
    parts: Parts
    law: Law


Known = dict[tuple[Hashable, Parts], Law | None]


def with_lengths(graph: Graph) -> Graph:
    """The graph with every region that sees of several parts their common length alone as one call."""
    flow = dataflow(graph, fed=False)
    fresh = numbering({node.name for node in graph.nodes})
    calls: dict[str, tuple[Node, ...]] = {}
    known: Known = {}
    for node in graph.calls:
        length = _length(flow, node, known)
        if length is not None:
            calls[length.region.end] = tuple(_calls(graph, length, fresh))
    return replaced(graph, calls) if calls else graph


# -- where to look -----------------------------------------------------------------------------------------------------


def _length(flow: Dataflow, joint: Node, known: Known) -> Length | None:
    """The region behind a call which joins parts that is their length, or else a function of it."""
    start = _start(flow, joint) if joint.name in flow.live else None
    found: Length | None = None
    for end in _ends(flow, joint) if start is not None else ():
        region = flow.region(start or "", end.name)
        parts = _parts(flow, region) if _is_plain(flow, region) else None
        if parts is None:
            break
        if end.shape != parts.result(flow.graph.by_name[region.start].shape) or not end.is_floating:
            continue
        key = region.key(), parts
        if key not in known:
            known[key] = _measured(flow.graph, region, parts)
        law = known[key]
        if law is not None and (found is None or law.power == 1.0):
            found = Length(region, parts, law)
    return found


def _start(flow: Dataflow, joint: Node) -> str | None:
    """The value whose parts a call may join: before several operands, or before entrywise calls and a sum."""
    kind, by = short_name(joint.target), flow.graph.by_name
    operands = set(flow.live_operands(joint))
    if len(operands) > 1 and (is_pointwise(joint.target) or kind in _JOINS):
        start = flow.above(joint.name)
        # Several results are no value.
        return flow.above(start) if start is not None and not isinstance(by[start].result, Meta) else start
    if kind not in _REDUCTIONS or len(operands) != 1:
        return None
    (start,) = operands
    while is_pointwise(by[start].target) and len(set(flow.live_operands(by[start]))) == 1:
        start = flow.live_operands(by[start])[0]
    return None if start in operands else start


def _ends(flow: Dataflow, node: Node) -> Iterator[Node]:
    """A call, and those behind it as long as each is all that reads the one before."""
    for _ in range(LONGEST):
        yield node
        users = flow.graph.users[node.name]
        if len(users) != 1 or node.name in flow.graph.outputs:
            return
        node = users[0]
        if set(flow.live_operands(node)) - {r.name for r in node.args if isinstance(r, Ref)}:
            return


def _is_plain(flow: Dataflow, region: Region) -> bool:
    """Whether a region picks parts and treats them entry by entry, with single numbers beside them."""
    by, start = flow.graph.by_name, flow.graph.by_name[region.start]
    if len(region.nodes) > LONGEST or any(torch.Size(by[table].shape).numel() != 1 for table in region.tables):
        return False
    names = {short_name(node.target) for node in region.nodes if not is_pointwise(node.target)}
    small = torch.Size(start.shape).numel() <= LARGEST
    return names <= _PICKS | _JOINS | _REDUCTIONS and small and start.is_floating


def _parts(flow: Dataflow, region: Region) -> Parts | None:
    """The parts of one axis that the region reads its start by; None where it reads it in any other way."""
    inside = {node.name: node for node in region.nodes}
    whole = flow.graph.by_name[region.start]
    readers = [n for n in flow.graph.users[region.start] if n.name in inside]
    if not any(short_name(node.target) in _PICKS for node in region.nodes):
        return _reduced(whole, region)
    dims = [(arguments(n) or {}).get("dim") for n in readers if short_name(n.target) in _PICKS]
    axes = {d % len(whole.shape) for d in dims if isinstance(d, int)}
    if len(axes) != 1 or len(dims) < len(readers) or None in dims:
        return None
    (axis,) = axes
    ways = [way for n in readers for way in _ways(flow.graph, n, inside)]
    gone = {len(way[-1].shape) < len(whole.shape) for way in ways}
    picked = sorted({_places(flow.graph, whole, axis, way) for way in ways})
    return _laid_out(picked, axis, gone=gone.pop()) if len(picked) > 1 and len(gone) == 1 else None


def _ways(graph: Graph, pick: Node, inside: Collection[str]) -> list[tuple[Node, ...]]:
    if isinstance(pick.result, Meta):
        return [(pick,)]
    return [(pick, user) for user in graph.users[pick.name] if user.name in inside]


def _reduced(whole: Node, region: Region) -> Parts | None:
    """All positions of an axis as parts, where the region begins with entrywise calls and a sum along that axis."""
    sums = [node for node in region.nodes if short_name(node.target) in _REDUCTIONS]
    dims = (arguments(sums[0]) or {}).get("dim") if len(sums) == 1 else None
    dims = [dims] if isinstance(dims, int) else dims
    if not dims or len(dims) != 1 or len(sums[0].shape) >= len(whole.shape):
        return None
    axis = dims[0] % len(whole.shape)
    return Parts(axis, 0, whole.shape[axis], None) if 1 < whole.shape[axis] <= WIDEST else None


def _places(graph: Graph, whole: Node, axis: int, way: tuple[Node, ...]) -> tuple[int, ...]:
    """The positions along an axis that a pick takes."""
    shape = [n if i == axis % len(whole.shape) else 1 for i, n in enumerate(whole.shape)]
    line = torch.arange(shape[axis], dtype=torch.float64).reshape(shape).expand(whole.shape)
    return tuple(int(x) for x in torch.unique(moved(graph, way, {whole.name: line})))


def _laid_out(picked: list[tuple[int, ...]], axis: int, *, gone: bool) -> Parts | None:
    sizes = {len(p) for p in picked}
    count, size, start = len(picked), len(picked[0]), picked[0][0]
    if len(sizes) != 1:
        return None
    if sum(picked, ()) == tuple(range(start, start + count * size)):
        return Parts(axis, start, count, None if gone else size)
    turns = all(p == tuple(range(start + k, start + k + count * size, count)) for k, p in enumerate(picked))
    return Parts(axis, start, count, size, in_turns=True) if turns else None


# -- what it does ------------------------------------------------------------------------------------------------------


def _measured(graph: Graph, region: Region, parts: Parts) -> Law | None:
    """What a region makes of the length of parts; None where it sees more of them, or mixes positions."""
    laws = [_in_world(graph, region, parts, tables) for tables in tables_in_worlds(graph, region.tables)]
    first = laws[0]
    if first is None or None in laws:
        return None
    return first if laws.count(first) == len(laws) else Law(None)


def _in_world(graph: Graph, region: Region, parts: Parts, tables: Mapping[str, Tensor]) -> Law | None:
    shape = graph.by_name[region.start].shape
    run = Runner(graph, region, tables)
    generator = torch.Generator().manual_seed(0)

    def of(values: Tensor) -> Tensor:
        """Of values with the parts last, at every position."""
        whole = torch.zeros(shape, dtype=torch.float64)
        inside = values.movedim(-1, parts.at).reshape(resized(shape, parts.axis, parts.width))
        whole.narrow(parts.axis, parts.start, parts.width).copy_(inside)
        return run(whole)

    worlds = [s * _world(parts.result(shape), parts.count, generator) for s in (*_SCALES, *_beside(region))]
    pairs = [(world, of(world)) for world in worlds]
    if not all(_sees_length(of, x, y, generator) for x, y in pairs):
        return None
    lengths = [world.norm(dim=-1) for world in worlds]
    one, two = (of(_unit(worlds[0], n)) for n in (1.0, 2.0))
    factor, ratio = float(one.reshape(-1)[0]), float((two / one).reshape(-1)[0])
    power = round(math.log2(ratio), 9) if factor and 0 < ratio < math.inf else math.nan
    alike = power > 0 and all(same(factor * r**power, y) for r, (_, y) in zip(lengths, pairs, strict=True))
    return Law(power, factor) if alike else Law(None)


def _unit(like: Tensor, length: float) -> Tensor:
    found = torch.zeros_like(like)
    found[..., 0] = length
    return found


def _sees_length(of: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, generator: torch.Generator) -> bool:
    """Whether the same happens at every position, to it alone, and rotations of the parts change nothing."""
    turn = maps(SymmetryClass.ORTHOGONAL).sample(IndexSet(x.shape[-1], ""), generator).co
    order = torch.randperm(y.numel(), generator=generator)
    mixed = of(x.reshape(-1, x.shape[-1])[order].reshape(x.shape)).reshape(-1)
    some = torch.rand(y.shape, generator=generator) < 0.5
    noise = x.abs().max() * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    other = of(torch.where(some.unsqueeze(-1), x, noise))
    return same(torch.where(some, other, y), y) and same(mixed, y.reshape(-1)[order]) and same(of(x @ turn.T), y)


def _world(shape: Shape, count: int, generator: torch.Generator) -> Tensor:
    """Values at every position, some of them or all their coordinates zero here and there."""
    x = torch.randn((*shape, count), generator=generator, dtype=torch.float64)
    flat = x.reshape(-1, count)
    flat[1::5] = 0.0
    flat[2::5, 0] = 0.0
    return x


def _beside(region: Region) -> list[float]:
    """Scales on both sides of every number of the region."""
    numbers = dict.fromkeys(abs(a) for node in region.nodes for a in numbers_of(node) if 1e-30 < abs(a) < 1e30)
    return [number * b for number in numbers for b in (0.3, 3.0)]


# -- what stands for it ------------------------------------------------------------------------------------------------


def _calls(graph: Graph, length: Length, fresh: Callable[[str], str]) -> Iterator[Node]:
    start, end, parts = graph.by_name[length.region.start], graph.by_name[length.region.end], length.parts
    dtype = start.result.dtype if isinstance(start.result, Meta) else "float32"
    at = Ref(start.name)

    def call(target: str, args: tuple[object, ...], shape: Shape) -> Node:
        name, result = fresh(short_name(target)), Meta(shape, dtype)
        return replace(end, name=name, target=target, args=args, kwargs=(), result=result)

    shape = start.shape
    if parts.width < shape[parts.axis]:
        shape = resized(shape, parts.axis, parts.width)
        piece = call("aten.slice.Tensor", (at, parts.axis, parts.start, parts.start + parts.width), shape)
        yield piece
        at = Ref(piece.name)
    if parts.size is not None:
        cut = call("aten.reshape.default", (at, parts.cut(start.shape)), parts.cut(start.shape))
        yield cut
        at = Ref(cut.name)
    if length.law.power is None:
        yield _seen(end, parts, at, len(parts.cut(start.shape)))
        return
    radius = call("aten.linalg_vector_norm.default", (at, 2, (parts.at,), False), end.shape)
    powers = call("aten.pow.Tensor_Scalar", (Ref(radius.name), length.law.power), end.shape)
    steps = [radius, *([powers] if length.law.power != 1 else [])]
    if abs(length.law.factor - 1) > 1e-12:
        steps.append(call("aten.mul.Tensor", (Ref(steps[-1].name), length.law.factor), end.shape))
    yield from steps[:-1]
    yield replace(steps[-1], name=end.name)


def _seen(end: Node, parts: Parts, at: Ref, rank: int) -> Node:
    """The call for a function of the length that is no power of it."""
    tokens = [f"p{i}" for i in range(rank)]
    tokens[parts.at] = "c"
    kept = [token for token in tokens if token != "c"]
    admits: dict[str, Bound] = {**dict.fromkeys(kept, _ROWS), "c": down(SymmetryClass.ORTHOGONAL)}
    about = "Measured: of several parts only their common length is seen, at every position by itself."
    return measured_node(end, "measured-length", about, {"x": at}, {"x": tokens}, kept, admits, reduces="c")
