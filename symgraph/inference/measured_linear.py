"""Regions that are linear in one value, with coefficients that are no parameters: rotary products in any spelling.

At every position such a region is a matrix on one axis, found by sending the unit vectors through it once. What
commutes with the matrices of all positions acts on that axis unseen, however the region is written. Coefficients that
are not known are drawn at random, so that what is found holds whatever they are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from symgraph.groups.lattice import Bound, SymmetryClass, down
from symgraph.inference.commutant import TOLERANCE, Pair, Turns, turns
from symgraph.inference.meetings import Meeting, meetings_of
from symgraph.inference.region_tables import further_tables, tables_of
from symgraph.inference.regions import AT_ONCE, Dataflow, Region, Runner, dataflow, replaced
from symgraph.ir import Graph, Kind, Node, Ref, Shape, resized
from symgraph.ir import Tensor as Meta
from symgraph.rules.book import RuleBook
from symgraph.rules.carried import measured_node
from symgraph.symmetry.terms import turn_order
from symgraph.tracing.fingerprint import outline
from symgraph.tracing.naming import numbering
from symgraph.tracing.operators import short_name

_WORLDS = 2
_REACH = 8
LARGEST = 512
# fmt: off
_MOVES = frozenset({
    "view", "unsafe_view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "movedim", "squeeze",
    "unsqueeze", "cat", "stack", "split", "split_with_sizes", "chunk", "slice", "narrow", "select", "unbind",
    "getitem", "expand", "repeat", "repeat_interleave", "alias", "clone", "contiguous", "to", "to_copy", "neg",
    "view_as_complex", "view_as_real", "real", "imag", "conj", "conj_physical", "complex", "flip", "roll", "index",
    "index_select", "pad", "constant_pad_nd", "swapaxes", "swapdims", "mT", "tile", "expand_as", "view_as",
    "reshape_as", "slice_scatter", "select_scatter",
})
# fmt: on
# They read positions, or what is written over, beside what they move.
_PLACES = frozenset({"index", "index_select", "slice_scatter", "select_scatter"})
_SUMS = frozenset({"add", "sub", "rsub"})
_PRODUCTS = frozenset({"mul", "div", "matmul", "bmm", "mm", "linear"})


def with_linear_regions(graph: Graph, book: RuleBook) -> Graph:
    """The graph with every region that turns pairs of coordinates as one call that says so.

    Tables that are parameters come last: most that multiplies so is a gain, in front of turns by a fixed table.
    """
    return _with_regions(_with_regions(graph, book, own=False), book, own=True)


def _with_regions(graph: Graph, book: RuleBook, own: bool) -> Graph:
    """The same with the regions whose tables are no parameters themselves, or with `own` those where some may be."""
    flow = dataflow(graph)
    candidates = [found for group in _groups(flow, own) if (found := list(_candidates(flow, group, own)))]
    if not candidates:
        return graph
    wanted = dict.fromkeys(table for regions in candidates for r in regions for table in r.tables)
    worlds = [tables_of(graph, wanted, seed) for seed in range(_WORLDS)]
    worlds += further_tables(graph, wanted, tuple(worlds))
    measured = _Measured(graph, worlds, book.proofs.measured)
    parts: dict[str, tuple[Node, ...]] = {}
    fresh = numbering(graph.by_name.keys())
    chosen = [best for regions in candidates if (best := _best(graph, regions, measured)) is not None]
    for region, law in _readable(graph, chosen):
        parts[region.end] = tuple(_calls(graph, region, law, fresh))
    return replaced(graph, parts) if parts else graph


# -- where to look -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Group:
    """Calls that multiply by tables and what is made of them, up to where they are used."""

    seeds: tuple[str, ...]
    nodes: tuple[str, ...]


def _groups(flow: Dataflow, own: bool) -> list[_Group]:
    """Products with tables that flow together, each with the linear calls behind it."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    members: dict[str, list[str]] = {}
    seeds: dict[str, list[str]] = {}
    for node in flow.graph.calls:
        if node.name not in flow.live or not _is_linear(node, flow, own):
            continue
        above = [find(r) for r in dict.fromkeys(flow.live_operands(node)) if r in leader]
        if not above and not _is_seed(node, flow):
            continue
        leader[node.name] = node.name
        members[node.name], seeds[node.name] = [], []
        for other in dict.fromkeys(above):
            leader[other] = node.name
            members[node.name] += members.pop(other)
            seeds[node.name] += seeds.pop(other)
        members[node.name].append(node.name)
        if _is_seed(node, flow):
            seeds[node.name].append(node.name)
    return [_Group(tuple(seeds[k]), tuple(sorted(m, key=flow.order.__getitem__))) for k, m in members.items()]


def _is_linear(node: Node, flow: Dataflow, own: bool) -> bool:
    """Whether a call is linear in what is live, with coefficients that are no parameters."""
    name, live = short_name(node.target), flow.live_operands(node)
    others = [ref for ref in node.refs() if ref not in flow.live]
    if name in _MOVES:
        return not others or name in _PLACES
    if name in _SUMS:
        return not others and all(isinstance(a, Ref) for a in node.args[:2])
    if name not in _PRODUCTS or len(live) != 1 or (node.args[0] != Ref(live[0]) and name == "div"):
        return False
    return all(_is_table(r, flow, name, own) for r in others)


def _is_table(value: str, flow: Dataflow, product: str, own: bool) -> bool:
    """Whether coefficients are fixed, or computed from parameters position by position; a gain is neither."""
    if value not in flow.learned:
        return True
    node = flow.graph.by_name[value]
    return product == "mul" and sum(size > 1 for size in node.shape) > 1 and (own or _computed(node, flow))


def _computed(node: Node, flow: Dataflow) -> bool:
    while node.kind is Kind.CALL and short_name(node.target) in _MOVES:
        learned = [ref for ref in node.refs() if ref in flow.learned]
        if not learned:
            return False
        node = flow.graph.by_name[learned[0]]
    return node.kind is Kind.CALL


def _is_seed(node: Node, flow: Dataflow) -> bool:
    """Whether a call multiplies by a table of several numbers."""
    others = [ref for ref in node.refs() if ref not in flow.live]
    sizes = [torch.Size(flow.graph.by_name[r].shape).numel() for r in others]
    return short_name(node.target) in _PRODUCTS and any(n > 1 for n in sizes)


def _candidates(flow: Dataflow, group: _Group, own: bool) -> Iterator[Region]:
    """Regions that hold all products of a group, nearest first, between two values of one shape."""
    by = flow.graph.by_name
    pairs: list[tuple[int, str, str]] = []
    for j, end in enumerate(_ends(flow, group)[:_REACH]):
        # What is put beside it further on does not count yet.
        inside = [n for n in group.nodes if flow.order[n] <= flow.order[end]]
        entries = {ref for n in inside for ref in flow.live_operands(by[n])} - set(inside)
        starts = _starts(flow, flow.meet(sorted(entries, key=flow.order.__getitem__)), own)
        pairs += [(i + j, start, end) for i, start in enumerate(starts) if by[start].shape == by[end].shape]
    for _, first, last in sorted(pairs, key=lambda p: p[0]):
        region = flow.region(first, last)
        if flow.runs(region):
            yield region


def _starts(flow: Dataflow, start: str | None, own: bool) -> Iterator[str]:
    """A value and those before it that only linear calls lie between."""
    for _ in range(_REACH):
        if start is None:
            return
        if isinstance(flow.graph.by_name[start].result, Meta):
            yield start
        node, above = flow.graph.by_name[start], flow.above(start)
        if node.kind is not Kind.CALL or above is None:
            return
        between = flow.region(above, start).nodes
        if not all(_is_linear(n, flow, own) and not _is_seed(n, flow) for n in between):
            return
        start = above


def _ends(flow: Dataflow, group: _Group) -> list[str]:
    """Values through which everything goes that the products of a group make, nearest first."""
    last_seed = max(flow.order[s] for s in group.seeds)
    found, open_ = list[str](), dict[str, int]()
    for name in group.nodes:
        at = flow.order[name]
        open_[name] = flow.last.get(name, -1)
        open_ = {k: v for k, v in open_.items() if v > at or k == name}
        if at >= last_seed and list(open_) == [name]:
            found.append(name)
    return found


# -- what a region does ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """Which axis a region turns, how, and along which other axes its matrices vary.

    With `halves` coordinates are counted with those of the two halves of the axis taking turns: what turns, the first
    pairs of each half, lies in one run only then.
    """

    axis: int
    turns: Turns
    varying: tuple[int, ...]
    halves: bool = False


class _Measured:
    """Laws of regions; `known` are those of regions that were alike, also in other graphs."""

    def __init__(self, graph: Graph, worlds: list[dict[str, Tensor]], known: dict[Hashable, Any]) -> None:
        self.graph, self.worlds, self.known = graph, worlds, known
        self._texts: dict[str, Hashable] = {}

    def law(self, region: Region) -> _Found | None:
        """What a region does, which depends on its calls and on the numbers in its tables alone."""
        start = self.graph.by_name[region.start].result
        key = (_law, start, region.key(region.tables), *map(self._text, region.tables))
        if key not in self.known:
            self.known[key] = _law(self.graph, region, self.worlds)
        found: _Found | None = self.known[key]
        return found

    def _text(self, table: str) -> Hashable:
        if table not in self._texts:
            self._texts[table] = tuple(outline(world[table], held=True) for world in self.worlds)
        return self._texts[table]


def _best(graph: Graph, regions: list[Region], measured: _Measured) -> tuple[Region, _Found] | None:
    """The nearest region with a law, or a larger one where the axis of the nearest is another in another order."""
    best: tuple[Region, _Found] | None = None
    for region in regions:
        law = measured.law(region)
        if law is not None and (best is None or _is_whole(graph, best, region, law)):
            best = region, law
    return best


def _is_whole(graph: Graph, best: tuple[Region, _Found], region: Region, law: _Found) -> bool:
    """Whether what a nearer region turns are pieces of the axis of this one, or its coordinates in another order."""
    before, found = best
    small, large = (graph.by_name[r.start].shape for r in (before, region))
    if small[found.axis] == large[law.axis]:
        return found.turns != law.turns
    pieces = any(small[axis] * small[found.axis] == large[law.axis] for axis in found.varying)
    return pieces and len(law.varying) < len(found.varying)


def _law(graph: Graph, region: Region, worlds: list[dict[str, Tensor]]) -> _Found | None:
    shape = graph.by_name[region.start].shape
    if not shape or not graph.by_name[region.start].is_floating:
        return None
    runs = [Runner(graph, region, tables) for tables in worlds]
    for axis in sorted(range(len(shape)), key=lambda i: (i != len(shape) - 1, i)):
        if not 2 <= shape[axis] <= LARGEST:
            continue
        families = [_matrices(run, shape, axis) for run in runs]
        whole = [f for f in families if f is not None]
        if len(whole) < len(families):
            continue
        varying = [i for i in range(len(shape) - 1) if any(f.shape[i] > 1 for f in whole)]
        reduced = torch.cat([f.reshape(-1, *f.shape[-2:]) for f in whole])
        found = turns(reduced)
        others = tuple(i if i < axis else i + 1 for i in varying)
        if found is None:
            return None
        if _in_one_run(found):
            return _Found(axis, found, others)
        by_turns = _halves_by_turns(found, shape[axis]) if len(shape) > 2 else None
        return None if by_turns is None else _Found(axis, by_turns, others, halves=True)
    return None


def _matrices(run: Runner, shape: Shape, axis: int) -> Tensor | None:
    """M: (positions..., d, d) of a region, or None where it is not linear, or does not act along this axis alone.

    Axes of positions along which it does not vary have size one.
    """
    if bool(run(torch.zeros(shape, dtype=torch.float64)).abs().max() > 0):
        return None
    units = torch.eye(shape[axis], dtype=torch.float64)
    spread = units.reshape(len(units), *(size if i == axis else 1 for i, size in enumerate(shape)))
    # Some at a time: all of them at every position of a large model are gigabytes.
    parts = [_columns(run, some.expand(-1, *shape), axis) for some in torch.split(spread, AT_ONCE)]
    positions = [max(sizes) for sizes in zip(*(part.shape[:-1] for part in parts), strict=True)]
    found = torch.cat([part.expand(*positions, -1) for part in parts], -1)
    generator = torch.Generator().manual_seed(len(shape))
    for scale in (1e-3, 1.0, 1e3):
        x = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        expected = _multiplied(found, x.movedim(axis, -1))
        error = (run(x).movedim(axis, -1) - expected).abs().max()
        if not bool(error <= TOLERANCE * scale * found.abs().max().clamp_min(1.0)):
            return None
    return found


def _columns(run: Runner, units: Tensor, axis: int) -> Tensor:
    """What a region makes of some unit vectors at every position, where they vary along these.

    Shapes: units (k, ...); result (positions..., d, k).
    """
    columns = [column.movedim(axis, -1) for column in run.each(units)]
    for i in range(columns[0].dim() - 1):
        firsts = [c.narrow(i, 0, 1) for c in columns]
        if all(bool((c - f).abs().max() <= TOLERANCE) for c, f in zip(columns, firsts, strict=True)):
            columns = firsts
    return torch.stack(columns, -1)


def _multiplied(matrices: Tensor, x: Tensor) -> Tensor:
    """M x at every position; a matrix that many positions share is not written out for each of them.

    Shapes: matrices (positions..., d, d), with size one where they do not vary; x, result (positions..., d).
    """
    order = sorted(range(x.dim() - 1), key=lambda i: matrices.shape[i] == 1)
    rows, each = x.permute(*order, -1), matrices.reshape(-1, *matrices.shape[-2:])
    made = rows.reshape(len(each), -1, rows.shape[-1]) @ each.mT
    back = sorted(range(len(order)), key=order.__getitem__)
    return made.reshape(*rows.shape[:-1], -1).permute(*back, -1)


def _in_one_run(found: Turns) -> bool:
    """Whether what turns lies side by side and stays there, so that what does not turn can be cut off around it."""
    inside = sorted(i for p in found.pairs for i in p)
    images = sorted(i for p in found.images for i in p)
    return inside == images == list(range(inside[0], inside[-1] + 1))


def _halves_by_turns(found: Turns, size: int) -> Turns | None:
    """The same with the coordinates of both halves of the axis in turns; None where that leaves several runs."""
    place = {coordinate: number for number, coordinate in enumerate(turn_order(size, 2))}

    def moved(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        return tuple((place[first], place[second]) for first, second in pairs)

    by_turns = Turns(moved(found.pairs), moved(found.images), tuple(sorted(place[i] for i in found.still)))
    return by_turns if size % 2 == 0 and _in_one_run(by_turns) else None


def _readable(graph: Graph, found: list[tuple[Region, _Found]]) -> Iterator[tuple[Region, _Found]]:
    """Regions that leave coordinates where they were, or that meet only regions which move theirs alike.

    Products that sum over two values moved alike are those of the values as they were.
    """
    meetings: dict[tuple[str, int, int], object] = {}
    sites: dict[str, list[Meeting]] = {}
    for region, law in found:
        if law.turns.pairs != law.turns.images:
            met = meetings_of(graph, region.end, law.axis)
            sites[region.end] = met or []
            for m in met or ():
                meetings[m] = (law.halves, law.turns)
    for region, law in found:
        moved = (law.halves, law.turns)
        met = sites.get(region.end)
        if met is None or (met and all(meetings.get((n, 1 - place, at)) == moved for n, place, at in met)):
            yield region, law


# -- what stands for it ------------------------------------------------------------------------------------------------


def _calls(graph: Graph, region: Region, law: _Found, fresh: Callable[[str], str]) -> Iterator[Node]:
    """The calls that stand for a region: what stays as it is cut off, the rest turned, all put together again."""
    start, end = graph.by_name[region.start], graph.by_name[region.end]
    size, axis = start.shape[law.axis], law.axis
    whole_end = end
    if law.halves:
        yield from (calls := _shuffled(start, "aten.native_channel_shuffle.default", axis, 2, fresh))
        start = calls[-1]
        end = replace(end, name=fresh("turned"))
    inside = sorted(i for p in law.turns.pairs for i in p)
    first, stop = inside[0], inside[-1] + 1
    whole = (first, stop) == (0, size)
    cuts = [(a, b) for a, b in ((0, first), (first, stop), (stop, size)) if a < b]
    parts: list[Ref] = []
    for a, b in cuts:
        shape = resized(start.shape, axis, b - a)
        operand = Ref(start.name)
        if not whole:
            piece = _like(end, fresh("slice"), "aten.slice.Tensor", (operand, axis, a, b), shape)
            yield piece
            operand = Ref(piece.name)
        if a == first:
            name = end.name if whole else fresh("turned")
            node = _turned(graph, region, law, replace(end, name=name, result=_meta(end, shape)), operand)
            yield node
            operand = Ref(node.name)
        parts.append(operand)
    if not whole:
        yield _like(end, end.name, "aten.cat.default", (tuple(parts), axis), end.shape)
    if law.halves:
        *before, last = _shuffled(end, "aten.channel_shuffle.default", axis, size // 2, fresh)
        yield from (*before, replace(last, name=whole_end.name))


def _shuffled(value: Node, target: str, axis: int, groups: int, fresh: Callable[[str], str]) -> list[Node]:
    """The calls after which groups of positions take turns; the operator acts on the second axis of a tensor."""
    there = list(value.shape)
    there[1], there[axis] = there[axis], there[1]
    first = _like(value, fresh("transpose"), "aten.transpose.int", (Ref(value.name), 1, axis), tuple(there))
    turned = _like(value, fresh("turns"), target, (Ref(first.name), groups), first.shape)
    back = _like(value, fresh("transpose"), "aten.transpose.int", (Ref(turned.name), 1, axis), value.shape)
    return [first, turned, back]


def _like(node: Node, name: str, target: str, args: tuple[object, ...], shape: Shape) -> Node:
    return replace(node, name=name, target=target, args=args, kwargs=(), result=_meta(node, shape))


def _meta(node: Node, shape: Shape) -> Meta:
    return Meta(shape, node.result.dtype if isinstance(node.result, Meta) else "float32")


def _turned(graph: Graph, region: Region, law: _Found, node: Node, operand: Ref) -> Node:
    """One call for the part that turns; tables that are learned are read, so that nothing acts on them."""
    tokens = [f"p{i}" for i in range(len(node.shape))]
    tokens[law.axis] = "k"
    admits: dict[str, Bound] = {
        token: down(SymmetryClass.IDENTITY if i in law.varying else SymmetryClass.INVERTIBLE)
        for i, token in enumerate(tokens)
    }
    admits["k"] = down(SymmetryClass.ROTARY)
    learned = [table for table in region.tables if graph.by_name[table].kind is not Kind.INPUT]
    return measured_node(
        node,
        "measured-rotation",
        "Measured: pairs of coordinates turn by an angle of each position; scaled rotations of a pair pass.",
        {"x": operand, **{f"table{i}": Ref(t) for i, t in enumerate(learned)}},
        {"x": tokens, **{f"table{i}": ["_"] * len(graph.by_name[t].shape) for i, t in enumerate(learned)}},
        tokens,
        admits,
        layout=law.turns.layout,
    )
