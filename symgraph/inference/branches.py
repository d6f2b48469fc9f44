"""Branches of a graph that can change places: experts in a list, heads in a list, parallel towers (design section 4).

Several subgraphs that are alike, but for parameters of their own, read the same values and end in one sum or side by
side in one stack. Each may also pick the entry of its own number from a common axis (its weight in a router's output,
or whether it is among the positions that a router found). To exchange two of them, with their parameters, is to
exchange the two positions along that axis, which then becomes a space like any other: the branches are its positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.tracing.arguments import arguments

_SUM = "aten.add.Tensor"
_STACK = "aten.stack.default"
_SEVERAL = frozenset({"aten.unbind.int", "aten.split.Tensor", "aten.chunk.default", "aten.split.sizes"})
_EQUAL = frozenset({"aten.eq.Scalar", "aten.ne.Scalar"})


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a branch picks its own entry: `index` along `axis` of `value`; axis None for positions among numbers.

    `source` is the node that tells the entries apart, the pick itself or an operator with a result for each.
    """

    node: str
    source: str
    value: str
    axis: int | None
    index: int


@dataclass(frozen=True, slots=True)
class Branches:
    """Branches in their order along the common axis.

    `rows` has the nodes of all branches, those of one kind together; `slots` the picks among them, in the same order.
    `end` is the stack that the branches end in; '' for a sum, of which `partial` are the values that lack some branch.
    """

    rows: tuple[tuple[str, ...], ...]
    slots: tuple[tuple[Slot, ...], ...]
    end: str
    partial: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of branches."""
        return len(self.rows[0])

    def __str__(self) -> str:
        tensors = ", ".join(f"%{row[0]}" for row in self.rows)
        picks = "".join(f"; entry {' '.join(str(slot.index) for slot in row)} of %{row[0].value}" for row in self.slots)
        return f"{self.count} branches that end in {f'%{self.end}' if self.end else 'a sum'}: {tensors}{picks}"

    def tensors(self, graph: Graph) -> Iterator[tuple[str, ...]]:
        """Names of the branches' own parameters and buffers, those of one kind together."""
        for row in self.rows:
            if graph.by_name[row[0]].kind is not Kind.CALL:
                yield tuple(graph.by_name[n].target for n in row)


def find_branches(graph: Graph) -> list[Branches]:
    """All families of branches with parameters of their own, in program order."""
    shapes = _Likeness(graph)
    found: list[Branches] = []
    taken: set[str] = set()
    for end, tips in _ends(graph):
        for alike in shapes.groups(tips):
            family = _family(graph, alike, end) if not end or len(alike) == len(tips) else None
            if family is not None and not taken & {n for row in family.rows for n in row}:
                found.append(family)
                taken |= {n for row in family.rows for n in row}
    return found


def slot_of(node: Node, graph: Graph) -> Slot | None:
    """The pick that a node is, if it takes one entry by its number."""
    if node.target == "getitem":
        several = graph.by_name[node.args[0].name]
        given = arguments(several) if several.target in _SEVERAL else None
        if given is None or any(t.shape != node.shape for t in several.result or ()):  # type: ignore[union-attr]
            return None
        return _along(node, several.name, given["self"].name, given.get("dim", 0), node.args[1], graph)
    given = arguments(node) if node.target in {"aten.select.int", "aten.slice.Tensor", *_EQUAL} else None
    if given is None or not isinstance(given["self"], Ref):
        return None
    value = given["self"].name
    if node.target in _EQUAL:
        return Slot(node.name, node.name, value, None, given["other"]) if type(given["other"]) is int else None
    if node.target == "aten.select.int":
        return _along(node, node.name, value, given["dim"], given["index"], graph)
    dim, start, stop = given["dim"], given["start"], given["end"]
    if not isinstance(start, int) or not isinstance(stop, int) or stop - start != 1 or given["step"] != 1:
        return None
    return _along(node, node.name, value, dim, start, graph)


def _along(node: Node, source: str, value: str, dim: object, index: object, graph: Graph) -> Slot | None:
    shape = graph.by_name[value].shape
    if not isinstance(dim, int) or not isinstance(index, int) or not shape:
        return None
    axis = dim % len(shape)
    one_each = node.target == "aten.select.int" or len(node.shape) < len(shape) or node.shape[axis] == 1
    return Slot(node.name, source, value, axis, index % shape[axis]) if one_each else None


def _ends(graph: Graph) -> Iterator[tuple[str, list[str]]]:
    """Where branches may end: each sum ('') and each stack (its name), with the values that go into it."""
    for node in graph.calls:
        if node.target == _STACK:
            yield node.name, list(node.refs())
        elif _is_sum(node) and not any(_goes_on(graph, node, user) for user in graph.users[node.name]):
            yield "", list(_summands(graph, node))


def _is_sum(node: Node) -> bool:
    return node.target == _SUM and dict(node.kwargs).get("alpha", 1) == 1 and len(node.args) == 2


def _goes_on(graph: Graph, node: Node, user: Node) -> bool:
    """Whether a sum is a summand of a greater one, and nothing else."""
    alone = len(graph.users[node.name]) == 1 and node.name not in graph.outputs
    return alone and _is_sum(user) and user.shape == node.shape and list(user.refs()).count(node.name) == 1


def _summands(graph: Graph, node: Node) -> Iterator[str]:
    stack = list(reversed(list(node.refs())))
    while stack:
        name = stack.pop()
        part = graph.by_name[name]
        if _is_sum(part) and any(_goes_on(graph, part, user) for user in graph.users[name]):
            stack.extend(reversed(list(part.refs())))
        else:
            yield name


class _Likeness:
    """A number for each value, equal for values computed alike from parameters and inputs of equal shapes."""

    def __init__(self, graph: Graph) -> None:
        self.numbers: dict[str, int] = {}
        known: dict[object, int] = {}
        for node in graph.nodes:
            self.numbers[node.name] = known.setdefault(self._key(node, graph), len(known))

    def groups(self, names: list[str]) -> list[list[str]]:
        """Those of several values that are computed alike, two or more."""
        found: dict[int, list[str]] = {}
        for name in names:
            found.setdefault(self.numbers[name], []).append(name)
        return [g for g in found.values() if len(g) == len(set(g)) > 1]

    def _key(self, node: Node, graph: Graph) -> object:
        if node.kind is Kind.INPUT:
            return node.name
        if node.kind is not Kind.CALL:
            return node.kind, repr(node.result)
        refs = tuple(self.numbers[r] for r in node.refs())
        given = () if slot_of(node, graph) else (_constants(node.args), _constants(node.kwargs))
        return node.target, repr(node.result), refs, given


def _constants(value: object) -> str:
    """Arguments as text, each operand as a mark."""
    if isinstance(value, list | tuple):
        return f"({','.join(map(_constants, value))})"
    return "%" if isinstance(value, Ref) else repr(value)


def _family(graph: Graph, tips: list[str], end: str) -> Branches | None:
    pairs = [_side_by_side(graph, tips[0], tip) for tip in tips[1:]]
    if any(p is None for p in pairs):
        return None
    maps: list[Mapping[str, str]] = [p for p in pairs if p is not None]
    if len({frozenset(m) for m in maps}) != 1:
        return None
    rows = [(first, *(m[first] for m in maps)) for first in maps[0]]
    slots = _slots(graph, rows)
    own = [graph.by_name[n] for row in rows for n in row if graph.by_name[n].kind is not Kind.CALL]
    if not own or any(n.target in graph.transient for n in own) or slots is None or not _apart(graph, rows, tips):
        return None
    order = sorted(range(len(tips)), key=lambda j: slots[0][j].index) if slots else list(range(len(tips)))
    if end and order != list(range(len(tips))):
        return None

    def sort(row: tuple[Slot, ...]) -> tuple[Slot, ...]:
        return tuple(row[j] for j in order)

    sorted_rows = tuple(tuple(row[j] for j in order) for row in rows)
    return Branches(sorted_rows, tuple(map(sort, slots)), end, () if end else tuple(_partial(graph, tips)))


def _partial(graph: Graph, tips: list[str]) -> Iterator[str]:
    """Sums of some of the branches, on the way to the sum of all."""
    held = {name: {name} for name in tips}
    at = tips
    while at:
        users = dict.fromkeys(user.name for name in at for user in graph.users[name] if _is_sum(user))
        for name in users:
            held[name] = set().union(*(held.get(r, ()) for r in graph.by_name[name].refs()))
        at = [name for name in users if len(held[name]) < len(tips)]
        yield from at


def _side_by_side(graph: Graph, first: str, other: str) -> dict[str, str] | None:
    """The nodes of one branch with those of another that do the same; None where they differ.

    Values that both read are no part of either.
    """
    found: dict[str, str] = {}
    todo = [(first, other)]
    while todo:
        a, b = todo.pop()
        if a == b:
            continue
        if a in found:
            if found[a] != b:
                return None
            continue
        found[a] = b
        one, two = graph.by_name[a], graph.by_name[b]
        if one.kind is not two.kind or one.kind is Kind.INPUT or repr(one.result) != repr(two.result):
            return None
        if one.kind is not Kind.CALL:
            continue
        same = _constants((one.args, one.kwargs)) == _constants((two.args, two.kwargs))
        if one.target != two.target or not (same or _same_axis(slot_of(one, graph), slot_of(two, graph))):
            return None
        todo += zip(one.refs(), two.refs(), strict=True)
    return found if len(set(found.values())) == len(found) else None


def _same_axis(one: Slot | None, two: Slot | None) -> bool:
    return one is not None and two is not None and (one.value, one.axis) == (two.value, two.axis)


def _slots(graph: Graph, rows: list[tuple[str, ...]]) -> list[tuple[Slot, ...]] | None:
    """The picks by which branches differ; None where these do not number them all in one order."""
    found: list[tuple[Slot, ...]] = []
    for row in rows:
        picks = [slot_of(graph.by_name[n], graph) for n in row]
        slots = tuple(p for p in picks if p is not None)
        if len(slots) < len(row) or len({s.index for s in slots}) == 1:
            continue
        if len({(s.value, s.axis) for s in slots}) > 1 or sorted(s.index for s in slots) != list(range(len(row))):
            return None
        axis, value = slots[0].axis, graph.by_name[slots[0].value]
        if axis is not None and value.shape[axis] != len(row):
            return None
        several = slots[0].source not in row
        if several and {u.name for u in graph.users[slots[0].source]} != set(row):
            return None
        found.append(slots)
    return found if len({tuple(s.index for s in slots) for slots in found}) <= 1 else None


def _apart(graph: Graph, rows: list[tuple[str, ...]], tips: list[str]) -> bool:
    """Whether nothing outside a branch reads what is inside, and no two branches share a node."""
    inside = [{row[j] for row in rows} for j in range(len(tips))]
    if sum(map(len, inside)) != len(set().union(*inside)):
        return False
    for members, tip in zip(inside, tips, strict=True):
        for name in members:
            if name in graph.outputs or (name == tip and len(graph.users[name]) != 1):
                return False
            if name != tip and not all(user.name in members for user in graph.users[name]):
                return False
    return True
