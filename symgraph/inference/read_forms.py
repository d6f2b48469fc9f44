"""Parameters that a model reads in another form than they are stored in, and the graph of what it reads.

`cat([a, b])` of parameters that nothing reads by themselves is one tensor. Read as it stands, each piece has spaces of
its own: less than the whole has where the pieces end inside of a head or of parts that take turns, or are parts of one
stream.

A parameter of which all that reads it picks parts, `w[0]` and `w[1]` of a stack of layers, `t[:, 0]` and `t[:, 1]` of a
table, is as many tensors. Read as it stands, these have one space along each of its other axes. A row that nothing
reads is one of them where others are picked by their numbers.

A parameter of which all that reads it makes several axes one, `w.flatten(0, 1)`, is a tensor with this axis, which is
cut wherever its readers cut what they make of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import reduce
from math import prod

from symgraph.ir import Graph, Kind, Node, Ref, Tensor
from symgraph.symmetry.forms import Form
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.arguments import arguments
from symgraph.tracing.normalize import without_dead_calls
from symgraph.tracing.picks import Picked, picked

_CAT, _RESHAPE = "aten.cat.default", "aten.reshape.default"
_RESHAPES = frozenset({"aten.view.default", _RESHAPE, "aten.flatten.using_ints"})
# The forms in which some values are read, by their names: calls that put parameters together, and parameters.
Ways = Mapping[str, Form]


def put_together(graph: Graph) -> Ways:
    """The calls that put parameters together which nothing else reads."""
    found = ((node.name, _together(node, graph)) for node in graph.calls if node.target == _CAT)
    return {name: form for name, form in found if form is not None}


def picked_apart(graph: Graph) -> Ways:
    """Parameters and stored buffers of which all that reads them picks parts, which are all of them."""
    found = ((node.name, _apart(node, graph)) for node in _stored(graph))
    return {name: form for name, form in found if form is not None}


def flattened(graph: Graph) -> Ways:
    """Parameters and stored buffers of which all that reads them makes the same neighbouring axes one."""
    found = ((node.name, _flat(node, graph)) for node in _stored(graph))
    return {name: form for name, form in found if form is not None}


# Each finds something in what the ones before it leave; the parts of a stack may be flattened in turn.
FORMS: tuple[Callable[[Graph], Ways], ...] = (put_together, flattened, picked_apart, flattened)


def _stored(graph: Graph) -> Iterator[Node]:
    """Parameters, and buffers of numbers that checkpoints store."""
    for node in graph.state.values():
        buffer = node.target not in graph.transient and node.is_floating
        if node.kind is Kind.PARAMETER or buffer:
            yield node


def _together(node: Node, graph: Graph) -> Form | None:
    """The parameters that a call puts together, if it reads nothing else, and they are read nowhere else."""
    read = [graph.by_name[name] for name in node.refs()]
    alone = all(n.kind is Kind.PARAMETER and n.shape and graph.users[n.name] == (node,) for n in read)
    if not alone or not 1 < len(read) == len({n.name for n in read} - {*graph.outputs}):
        return None
    axis = int((arguments(node) or {}).get("dim", 0)) % len(node.shape)
    name = f"{read[0].target} and {len(read) - 1} beside it"
    return Form(tuple(n.target for n in read), (name,), axis, tuple(n.shape[axis] for n in read))


def _apart(node: Node, graph: Graph) -> Form | None:
    """The parts of a parameter that are picked along one axis, if they share nothing, and those that nothing reads."""
    picks = [] if node.name in graph.outputs else _picks(node, graph)
    axes = {pick.axis for pick in picks if pick is not None}
    if None in picks or len(axes) != 1:
        return None
    (axis,) = axes
    picked_ends = {(pick.start, pick.start + pick.count) for pick in picks if pick is not None}
    idle = {*_unread(picked_ends, node.shape[axis])}
    ends = sorted(picked_ends | idle)
    stops = [stop for _, stop in ends]
    if [start for start, _ in ends] != [0, *stops[:-1]] or len(ends) < 2 or (idle and not _by_number(picks, graph)):
        return None
    names = tuple(f"{node.target}[{':, ' * axis}{_positions(start, stop)}]" for start, stop in ends)
    return Form((node.target,), names, axis, tuple(stop - start for start, stop in ends))


def _unread(ends: set[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """The runs of positions that none of these parts has."""
    behind = 0
    for start, stop in (*sorted(ends), (size, size)):
        if behind < start:
            yield behind, start
        behind = max(behind, stop)


def _by_number(picks: list[Picked | None], graph: Graph) -> bool:
    """Whether no input reaches other positions than these: each is picked by its number, which no input decides.

    A model that takes further inputs may read the others for these, and one that goes through the positions of an input
    reads more of them for a longer one. Two are a batch rather.
    """
    lengths = {size for given in graph.inputs for size in given.shape} - {1, 2}
    places = {pick.start for pick in picks if pick is not None}
    return graph.closed and all(pick is not None and pick.single for pick in picks) and len(places) not in lengths


def _positions(start: int, stop: int) -> str:
    return str(start) if stop - start == 1 else f"{start}:{stop}"


def _picks(node: Node, graph: Graph) -> list[Picked | None]:
    """What all calls that read a value pick of it, each result of those with several by itself."""
    users = graph.users[node.name]
    ends = (end for user in users for end in (graph.users[user.name] if isinstance(user.result, tuple) else (user,)))
    return [picked(end, graph.by_name) for end in ends]


def _flat(node: Node, graph: Graph) -> Form | None:
    """Neighbouring axes of a parameter that all its readers make one, the others as they are."""
    users, rank = graph.users[node.name], len(node.shape)
    shapes = {user.shape if user.target in _RESHAPES else () for user in users}
    for axis in range(rank) if node.name not in graph.outputs else ():
        for end in range(axis + 2, rank + 1):
            form = Form((node.target,), (f"{node.target} as {rank - end + axis + 1} axes",), axis, node.shape[axis:end])
            if shapes == {*form.shapes(node.shape)} and prod(form.sizes) > max(form.sizes):
                return form
    return None


# -- the graph of what is read -----------------------------------------------------------------------------------------


def with_forms(graph: Graph, ways: Ways) -> Graph:
    """The graph with what is read in other forms as parameters; nothing reads those that are stored any more."""
    if not ways:
        return graph
    nodes = tuple(found for node in graph.nodes for found in _rewritten(node, graph, ways))
    return without_dead_calls(replace(graph, nodes=nodes))


def _rewritten(node: Node, graph: Graph, ways: Ways) -> Iterator[Node]:
    """What stands for a node: itself with what is read of it behind it, or what it makes of something that is read."""
    form = ways.get(node.name)
    if form is not None and form.joins:
        yield replace(node, kind=Kind.PARAMETER, target=form.read[0], args=(), kwargs=())
    elif form is not None:
        yield node
        for number, shape in enumerate(form.shapes(node.shape)):
            result = replace(_tensor(node), shape=shape)
            yield replace(node, name=_name(node.name, number), target=form.read[number], result=result)
    else:
        source = _source(node, graph, ways) if node.kind is Kind.CALL else None
        read = None if source is None else (Ref(source), node.shape)
        yield node if read is None else replace(node, target=_RESHAPE, args=read, kwargs=())


def _source(node: Node, graph: Graph, ways: Ways) -> str | None:
    """What a call reads in the place of a parameter, which it reshapes or picks a part of."""
    pick = picked(node, graph.by_name)
    read = next(node.refs()) if pick is None and node.target in _RESHAPES else "" if pick is None else pick.source.name
    form = ways.get(read)
    if form is None or form.joins:
        return None
    if not form.parts:
        return _name(read, 0)
    if pick is None:
        raise TypeError(f"{node.name} picks nothing of {read}")
    starts = [sum(form.sizes[:number]) for number in range(len(form.sizes))]
    return _name(read, starts.index(pick.start))


def _name(node: str, number: int) -> str:
    return f"{node}_read{number}"


def _tensor(node: Node) -> Tensor:
    if not isinstance(node.result, Tensor):
        raise TypeError(f"{node.name} is no tensor")
    return node.result


def as_read(symmetry: SymmetryGraph) -> SymmetryGraph:
    """The same symmetries of the graph of what is read, which reads no parameter in another form than it has."""
    if not symmetry.forms:
        return symmetry
    graph = reduce(_with_form, symmetry.forms, symmetry.graph)
    kept = tuple(node for node in graph.nodes if node.target not in symmetry.reading.form_of or graph.users[node.name])
    return replace(symmetry, graph=replace(graph, nodes=kept), terms=symmetry.read_terms, forms=())


def _with_form(graph: Graph, form: Form) -> Graph:
    """The graph with one form, which it has."""
    first = graph.state[form.stored[0]]
    node = graph.users[first.name][0] if form.joins else first
    return with_forms(graph, {node.name: form})
