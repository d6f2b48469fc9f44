"""Branches of a graph that can change places: experts in a list, heads in a list, parallel towers (design section 4).

Several subgraphs that are alike, but for parameters of their own, read the same values and end in one sum or side by
side in one stack. Each may also pick the entry of its own number from a common axis (its weight in a router's output,
or whether it is among the positions that a router found). To exchange two of them, with their parameters, is to
exchange the two positions along that axis, which then becomes a space like any other: the branches are its positions.

    sum(weights[:, i] * experts[i](x) for i in range(3))      three branches; their tips are the products
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.tracing.arguments import arguments

_SUM = "aten.add.Tensor"
_STACK = "aten.stack.default"
_SEVERAL = frozenset({"aten.unbind.int", "aten.split.Tensor", "aten.chunk.default", "aten.split.sizes"})
_COMPARISONS = frozenset({"aten.eq.Scalar", "aten.ne.Scalar"})
_PICKS = frozenset({"aten.select.int", "aten.slice.Tensor", *_COMPARISONS})
Row = tuple[str, ...]


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

    rows: tuple[Row, ...]
    slots: tuple[tuple[Slot, ...], ...]
    end: str
    partial: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of branches."""
        return len(self.rows[0])

    @property
    def nodes(self) -> frozenset[str]:
        """The nodes of all branches."""
        return frozenset(name for row in self.rows for name in row)

    def tensors(self, graph: Graph) -> Iterator[Row]:
        """Names of the branches' own parameters and buffers, those of one kind together."""
        for row in self.rows:
            if graph.by_name[row[0]].kind is not Kind.CALL:
                yield tuple(graph.by_name[name].target for name in row)

    def __str__(self) -> str:
        tensors = ", ".join(f"%{row[0]}" for row in self.rows)
        picks = "".join(f"; entry {' '.join(str(slot.index) for slot in row)} of %{row[0].value}" for row in self.slots)
        return f"{self.count} branches that end in {f'%{self.end}' if self.end else 'a sum'}: {tensors}{picks}"


def find_branches(graph: Graph) -> list[Branches]:
    """All families of branches with parameters of their own, in program order."""
    likeness = _Likeness(graph)
    families: list[Branches] = []
    taken: set[str] = set()
    for end, tips in _ends(graph):
        for alike in likeness.groups(tips):
            # A sum may have other summands beside the branches, a stack no other entries.
            family = _family(graph, alike, end) if not end or len(alike) == len(tips) else None
            if family is not None and taken.isdisjoint(family.nodes):
                families.append(family)
                taken |= family.nodes
    return families


# -- picking one's own entry -----------------------------------------------------------------------------------------


def slot_of(node: Node, graph: Graph) -> Slot | None:
    """The pick that a node is, if it takes one entry by its number."""
    if node.target == "getitem":
        return _one_of_several(node, graph)
    given = arguments(node) if node.target in _PICKS else None
    if given is None or not isinstance(given["self"], Ref):
        return None
    value = given["self"].name
    if node.target in _COMPARISONS:
        return Slot(node.name, node.name, value, None, given["other"]) if type(given["other"]) is int else None
    if node.target == "aten.select.int":
        return _along(node, node.name, value, given["dim"], given["index"], graph)
    start, stop = given["start"], given["end"]
    is_single = isinstance(start, int) and isinstance(stop, int) and stop - start == given["step"] == 1
    return _along(node, node.name, value, given["dim"], start, graph) if is_single else None


def _one_of_several(node: Node, graph: Graph) -> Slot | None:
    """A result of an operator that has one for each entry."""
    several = graph.by_name[node.args[0].name]
    given = arguments(several) if several.target in _SEVERAL else None
    results = several.result if isinstance(several.result, tuple) else ()
    if given is None or any(result.shape != node.shape for result in results):
        return None
    return _along(node, several.name, given["self"].name, given.get("dim", 0), node.args[1], graph)


def _along(node: Node, source: str, value: str, dim: object, index: object, graph: Graph) -> Slot | None:
    shape = graph.by_name[value].shape
    if not isinstance(dim, int) or not isinstance(index, int) or not shape:
        return None
    axis = dim % len(shape)
    is_single = node.target == "aten.select.int" or len(node.shape) < len(shape) or node.shape[axis] == 1
    return Slot(node.name, source, value, axis, index % shape[axis]) if is_single else None


# -- where branches end ----------------------------------------------------------------------------------------------


def _ends(graph: Graph) -> Iterator[tuple[str, list[str]]]:
    """Where branches may end: each sum ('') and each stack (its name), with the tips, the values that go into it."""
    for node in graph.calls:
        if node.target == _STACK:
            yield node.name, list(node.refs())
        elif _is_sum(node) and not _is_summand(graph, node):
            yield "", list(_summands(graph, node))


def _is_sum(node: Node) -> bool:
    return node.target == _SUM and dict(node.kwargs).get("alpha", 1) == 1 and len(node.args) == 2


def _is_summand(graph: Graph, node: Node) -> bool:
    """Whether a sum is a summand of a greater one, and nothing else."""
    users = graph.users[node.name]
    if len(users) != 1 or node.name in graph.outputs:
        return False
    (user,) = users
    return _is_sum(user) and user.shape == node.shape and list(user.refs()).count(node.name) == 1


def _summands(graph: Graph, node: Node) -> Iterator[str]:
    """What a sum of sums adds up, from left to right."""
    stack = list(node.refs())[::-1]
    while stack:
        part = graph.by_name[stack.pop()]
        if _is_sum(part) and _is_summand(graph, part):
            stack.extend(list(part.refs())[::-1])
        else:
            yield part.name


class _Likeness:
    """A number for each value, equal for values computed alike from parameters and inputs of equal shapes."""

    def __init__(self, graph: Graph) -> None:
        self.numbers: dict[str, int] = {}
        known: dict[object, int] = {}
        for node in graph.nodes:
            self.numbers[node.name] = known.setdefault(self._key(node, graph), len(known))

    def groups(self, names: list[str]) -> list[list[str]]:
        """Those of several values that are computed alike, two or more."""
        by_number: dict[int, list[str]] = defaultdict(list)
        for name in names:
            by_number[self.numbers[name]].append(name)
        return [alike for alike in by_number.values() if len(alike) == len(set(alike)) > 1]

    def _key(self, node: Node, graph: Graph) -> object:
        if node.kind is Kind.INPUT:
            return node.name
        if node.kind is not Kind.CALL:
            return node.kind, repr(node.result)
        operands = tuple(self.numbers[name] for name in node.refs())
        constants = () if slot_of(node, graph) else (_constants(node.args), _constants(node.kwargs))
        return node.target, repr(node.result), operands, constants


def _constants(value: object) -> str:
    """Arguments as text, each operand as a mark."""
    if isinstance(value, list | tuple):
        return f"({','.join(map(_constants, value))})"
    return "%" if isinstance(value, Ref) else repr(value)


# -- one family ------------------------------------------------------------------------------------------------------


def _family(graph: Graph, tips: list[str], end: str) -> Branches | None:
    """The branches with these tips, if nothing but parameters and their numbers tells them apart."""
    rows = _rows(graph, tips)
    if rows is None or not _has_own_tensors(graph, rows) or not _is_closed(graph, rows, tips):
        return None
    slots = _slots(graph, rows)
    if slots is None:
        return None
    partial = () if end else tuple(_partial(graph, tips))
    return _in_order(Branches(tuple(rows), tuple(slots), end, partial))


def _in_order(family: Branches) -> Branches | None:
    """The branches by the numbers of their slots; None for a stack in another order than that."""
    if not family.slots:
        return family
    indices = [slot.index for slot in family.slots[0]]
    order = sorted(range(family.count), key=indices.__getitem__)
    if family.end and order != list(range(family.count)):
        return None
    rows = tuple(tuple(row[branch] for branch in order) for row in family.rows)
    return replace(family, rows=rows, slots=tuple(tuple(row[branch] for branch in order) for row in family.slots))


def _rows(graph: Graph, tips: list[str]) -> list[Row] | None:
    """The nodes of all branches side by side; None where one does something else than the first."""
    first, *others = tips
    pairs = [_side_by_side(graph, first, other) for other in others]
    partners = [pair for pair in pairs if pair is not None]
    if len(partners) < len(pairs) or len({frozenset(pair) for pair in partners}) != 1:
        return None
    return [(name, *(pair[name] for pair in partners)) for name in partners[0]]


def _side_by_side(graph: Graph, first: str, other: str) -> dict[str, str] | None:
    """The nodes of one branch with those of another that do the same; None where they differ.

    Values that both read are no part of either.
    """
    partner: dict[str, str] = {}
    todo = [(first, other)]
    while todo:
        mine, theirs = todo.pop()
        if mine == theirs or partner.get(mine) == theirs:
            continue
        one, two = graph.by_name[mine], graph.by_name[theirs]
        if mine in partner or not _do_the_same(one, two, graph):
            return None
        partner[mine] = theirs
        if one.kind is Kind.CALL:
            todo += zip(one.refs(), two.refs(), strict=True)
    return partner if len(set(partner.values())) == len(partner) else None


def _do_the_same(one: Node, two: Node, graph: Graph) -> bool:
    if one.kind is not two.kind or one.kind is Kind.INPUT or repr(one.result) != repr(two.result):
        return False
    if one.kind is not Kind.CALL:
        return True
    if one.target != two.target:
        return False
    if _constants((one.args, one.kwargs)) == _constants((two.args, two.kwargs)):
        return True
    mine, theirs = slot_of(one, graph), slot_of(two, graph)
    return mine is not None and theirs is not None and (mine.value, mine.axis) == (theirs.value, theirs.axis)


def _has_own_tensors(graph: Graph, rows: list[Row]) -> bool:
    """Whether branches have parameters or buffers, all of which a checkpoint stores."""
    own = [graph.by_name[name] for row in rows for name in row if graph.by_name[name].kind is not Kind.CALL]
    return bool(own) and not any(tensor.target in graph.transient for tensor in own)


def _is_closed(graph: Graph, rows: list[Row], tips: list[str]) -> bool:
    """Whether nothing outside a branch reads what is inside, and no two branches share a node."""
    branches = [set(members) for members in zip(*rows, strict=True)]
    if sum(map(len, branches)) != len(set().union(*branches)):
        return False
    if any(len(graph.users[tip]) != 1 for tip in tips) or not set().union(*branches).isdisjoint(graph.outputs):
        return False
    return all(
        user.name in members
        for members, tip in zip(branches, tips, strict=True)
        for name in members - {tip}
        for user in graph.users[name]
    )


def _slots(graph: Graph, rows: list[Row]) -> list[tuple[Slot, ...]] | None:
    """The picks by which branches differ; None where these do not number them all in one order."""
    numberings: list[tuple[Slot, ...]] = []
    for row in rows:
        picks = [slot_of(graph.by_name[name], graph) for name in row]
        slots = tuple(pick for pick in picks if pick is not None)
        if len(slots) < len(row) or len({slot.index for slot in slots}) == 1:
            continue
        if not _numbers_all(graph, row, slots):
            return None
        numberings.append(slots)
    orders = {tuple(slot.index for slot in slots) for slots in numberings}
    return numberings if len(orders) <= 1 else None


def _numbers_all(graph: Graph, row: Row, slots: tuple[Slot, ...]) -> bool:
    """Whether picks take every entry of one axis, each branch another one, and nothing else takes any."""
    first = slots[0]
    if len({(slot.value, slot.axis) for slot in slots}) > 1 or {slot.index for slot in slots} != set(range(len(row))):
        return False
    if first.axis is not None and graph.by_name[first.value].shape[first.axis] != len(row):
        return False
    return first.source in row or {user.name for user in graph.users[first.source]} == set(row)


def _partial(graph: Graph, tips: list[str]) -> Iterator[str]:
    """Sums of some of the branches, on the way to the sum of all."""
    held = {name: {name} for name in tips}
    reached = tips
    while reached:
        sums = dict.fromkeys(user.name for name in reached for user in graph.users[name] if _is_sum(user))
        for name in sums:
            held[name] = set().union(*(held.get(operand, ()) for operand in graph.by_name[name].refs()))
        reached = [name for name in sums if len(held[name]) < len(tips)]
        yield from reached
