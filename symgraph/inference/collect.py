"""From rules to equations between axes: unify, bound, multiply (design section 4).

Each node is visited once. What a rule may say is what the design allows it to say: which axes are the same, and which
class an axis admits. Pointwise products are kept aside as relations, because the elements of their operands multiply
instead of agreeing; `spaces` settles them when every equation is in.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from symgraph.errors import UsageError
from symgraph.groups.lattice import SymmetryClass, down
from symgraph.inference.applied import BATCH, Applied, shapes_of
from symgraph.inference.branches import Branches
from symgraph.inference.claims import Ref
from symgraph.inference.contents import picked_axis
from symgraph.inference.equations import Equations, Gathering, Pointer, branches_value
from symgraph.inference.explained import Explained
from symgraph.inference.prepared import Order
from symgraph.inference.signatures import SignatureEquations
from symgraph.inference.structural import TRANSFORMERS, Axes, Call
from symgraph.inference.unread import UNREAD
from symgraph.ir import Kind, Node, Tensor
from symgraph.rules.binding import Binding, tensor_refs
from symgraph.tracing.arguments import arguments


def collect(explained: Explained) -> Equations:
    """Runs the rules over the graph."""
    gathering = Gathering(explained)
    for number, family in enumerate(explained.branches):
        _number_branches(gathering, number, family)
    if explained.prepared.order is not None:
        _visit_shuffled(gathering, explained.prepared.order)
    else:
        for node in explained.graph.nodes:
            gathering.values[node.name] = _visit(gathering, node)
    gathering.store.settle()
    _fix_unread_parts(gathering)
    for name in explained.graph.outputs:
        _fix_output(gathering, name)
    return gathering.equations()


def _number_branches(gathering: Gathering, number: int, family: Branches) -> None:
    """An axis along which the branches of a family are the positions."""
    store = gathering.store
    store.because(family.rows[0][0], "branches", "its positions are branches that can change places")
    axis = store.new(family.count)
    store.bound(axis, down(SymmetryClass.PERMUTATION))
    gathering.values[branches_value(number)] = ((axis,),)
    gathering.slots.update((slot.source, (slot, axis)) for slots in family.slots for slot in slots)
    if family.end:
        gathering.stacks[family.end] = axis


def _visit_shuffled(gathering: Gathering, order: Order) -> None:
    """Equations of the nodes in another order, each axis being there before them as a fresh one."""
    store, nodes = gathering.store, gathering.of.graph.nodes
    places = tuple(order(len(nodes)))
    if sorted(places) != list(range(len(nodes))):
        raise UsageError(f"the order is no permutation of {len(nodes)} nodes", remedy="name each of them once")
    for node in nodes:
        gathering.values[node.name] = tuple(tuple(store.new(size) for size in shape) for shape in shapes_of(node))
    for i in places:
        declared = gathering.values[nodes[i].name]
        for mine, made in zip(declared, _visit(gathering, nodes[i]), strict=True):
            _unify_all(gathering, mine, made)


def _unify_all(gathering: Gathering, axes: Axes, others: Axes) -> None:
    for axis, other in zip(axes, others, strict=True):
        gathering.store.unify(axis, other)


def _fix_output(gathering: Gathering, name: str) -> None:
    """Whoever reads the model's outputs reads them by position."""
    gathering.store.because(name, "output", "an output of the model")
    for axes in gathering.values[name]:
        for axis in axes:
            gathering.store.rigid(axis)
    if name in gathering.of.contents:
        gathering.store.rigid(gathering.pointed(gathering.of.contents[name]))


def _fix_unread_parts(gathering: Gathering) -> None:
    """Positions of a tensor that the traced inputs do not reach are read for others, of which nothing is known."""
    store, graph = gathering.store, gathering.of.graph
    computing = (ref for node in graph.calls if not _hands_on(gathering, node) for ref in node.refs())
    ends = (node.name for node in graph.calls if not graph.users[node.name])
    values = {axes for name in (*computing, *ends, *graph.outputs) for axes in gathering.values[name]}
    read = {leaf >> 1 for axes in values for axis in axes for leaf in store.leaves(axis)}
    for node in (node for node in graph.state.values() if graph.users[node.name]):
        for part in (leaf for axis in gathering.axes(node.name) for leaf in store.leaves(axis)):
            if part >> 1 not in read:
                store.because(node.name, "unread", "the traced inputs do not reach these positions")
                store.rigid(part)


def _hands_on(gathering: Gathering, call: Node) -> bool:
    """Whether a call hands on entries of the one value that it reads as they are, or some of them."""
    applied = gathering.of.by_node.get(call.name)
    return applied is not None and bool(applied.rule.structure) and len(list(call.refs())) == 1


# -- nodes ---------------------------------------------------------------------------------------------------------


def _visit(gathering: Gathering, node: Node) -> tuple[Axes, ...]:
    """The axes of a node's results, with the equations between these and its operands'."""
    store, explained = gathering.store, gathering.of
    if node.kind is Kind.INPUT:
        store.because(node.name, "input", "an input of the model")
        return (tuple(store.fresh_rigid(size) for size in node.shape),)
    if node.kind is not Kind.CALL:
        return (tuple(_state_axis(gathering, node, size) for size in node.shape),)
    applied = explained.by_node.get(node.name)
    if applied is None:
        store.because(node.name, *_unknown(node))
        return _uncovered(gathering, node)
    store.because(node.name, applied.rule.rule, applied.rule.about)
    _tie_positions(gathering, applied)
    if node.name in gathering.slots and gathering.slots[node.name][0].axis is not None:
        return _own_entry(gathering, node)
    if node.name in gathering.stacks:
        return _stacked(gathering, node)
    if applied.rule.structure:
        return _moved(gathering, applied)
    return SignatureEquations(gathering, node, applied.binding).axes()


def _state_axis(gathering: Gathering, node: Node, size: int) -> Ref:
    store, graph = gathering.store, gathering.of.graph
    axis = store.new(size)
    if not graph.users[node.name] and node.name not in graph.outputs:
        read = any(node.target in form.stored for form in gathering.of.prepared.forms)
        said = ("read in another form", "the group acts on what is read of it")
        store.because(node.name, *(said if read else ("unused", "nothing reads this tensor")))
        store.rigid(axis)
    if node.target in graph.transient:
        store.because(node.name, "buffer", "a buffer that checkpoints do not store")
        store.rigid(axis)
    if isinstance(node.result, Tensor) and not getattr(torch, node.result.dtype).is_floating_point:
        store.because(node.name, "integers", "numbers of this kind can be moved, not scaled or mixed")
        store.bound(axis, BATCH)
    return axis


def _unknown(node: Node) -> tuple[str, str]:
    """Why nothing is known of what a call does."""
    if node.target == UNREAD:
        return "unread", "parameters that no trace reads may meet it"
    return "(none)", f"no rule covers {node.target}"


def _uncovered(gathering: Gathering, node: Node) -> tuple[Axes, ...]:
    for name in node.refs():
        for axes in gathering.values[name]:
            for axis in axes:
                gathering.store.rigid(axis)
    return tuple(tuple(gathering.store.fresh_rigid(size) for size in shape) for shape in shapes_of(node))


def _own_entry(gathering: Gathering, node: Node) -> tuple[Axes, ...]:
    """The entry that belongs to a branch: its number is the branch's own, so that no position is told apart."""
    slot, numbers = gathering.slots[node.name]
    axes, at, shapes = gathering.axes(slot.value), slot.axis or 0, shapes_of(node)
    gathering.store.unify(axes[at], numbers)
    keeps_axis = any(len(shape) == len(axes) for shape in shapes)
    single = (gathering.store.new(1),) if keeps_axis else ()
    return tuple((*axes[:at], *single, *axes[at + 1 :]) for _ in shapes)


def _stacked(gathering: Gathering, node: Node) -> tuple[Axes, ...]:
    """The results of all branches along a new axis, which is theirs."""
    first, *others = (gathering.axes(name) for name in node.refs())
    for other in others:
        _unify_all(gathering, first, other)
    given = arguments(node) or {}
    at = int(given.get("dim", 0)) % (len(first) + 1)
    return ((*first[:at], gathering.stacks[node.name], *first[at:]),)


def _moved(gathering: Gathering, applied: Applied) -> tuple[Axes, ...]:
    """The results of a structural operator."""
    node, binding, picked = applied.node, applied.binding, picked_axis(applied, gathering.of.graph)
    if picked is not None and picked[1] in gathering.of.contents:
        return _picked(gathering, node, *picked)
    refs = tensor_refs(binding)
    items = gathering.values[refs[0].name] if refs else ()
    tensors = tuple(gathering.axes(ref.name) for ref in refs if gathering.values[ref.name])
    call = Call(tensors, binding.arguments, shapes_of(node), items)
    return TRANSFORMERS[binding.rule.structure](gathering.store, call)  # type: ignore[index]


# -- positions as numbers ------------------------------------------------------------------------------------------


def _picked(gathering: Gathering, node: Node, at: int, index: str) -> tuple[Axes, ...]:
    """Entries along one axis, picked by positions that point along it: the axes of the positions take its place."""
    content = gathering.of.contents[index]
    source = next(name for name in node.refs() if name != index)
    axes, places = gathering.axes(source), gathering.axes(index)
    gathering.store.unify(axes[at], gathering.pointed(content))
    gathering.pointers.append(Pointer(places, axes[at], content.origin))
    return ((*axes[:at], *places, *axes[at + 1 :]),)


def _tie_positions(gathering: Gathering, applied: Applied) -> None:
    """Positions that are used to pick make two axes one; used in any other way they make theirs rigid."""
    store, contents = gathering.store, gathering.of.contents
    node, binding = applied.node, applied.binding
    for operand, name in binding.rule.indexes.items():
        content = contents.get(binding.operands[operand][0].name) if operand in binding.operands else None
        for axis in _axes_called(gathering, binding, name):
            if content is None:
                store.rigid(axis, "read by position")
            else:
                store.unify(axis, gathering.pointed(content))
    used = {*_picking(gathering, applied), *_branch_numbers(gathering, node)}
    for value in node.refs():
        if value in contents and value not in used and node.name not in contents:
            store.rigid(gathering.pointed(contents[value]), "its positions are used as numbers")


def _picking(gathering: Gathering, applied: Applied) -> Iterator[str]:
    """Operands of a call that are used to pick along an axis."""
    operands = applied.binding.operands
    yield from (operands[name][0].name for name in applied.rule.indexes if name in operands)
    picked = picked_axis(applied, gathering.of.graph)
    if picked is not None:
        yield picked[1]


def _branch_numbers(gathering: Gathering, node: Node) -> Iterator[str]:
    """The positions that a branch compares with its own number, which point at the branches then."""
    if node.name not in gathering.slots:
        return
    slot, numbers = gathering.slots[node.name]
    if slot.value in gathering.of.contents:
        gathering.store.unify(gathering.pointed(gathering.of.contents[slot.value]), numbers)
        yield slot.value
    elif slot.axis is None:
        gathering.store.rigid(numbers, "numbers that are no positions")


def _axes_called(gathering: Gathering, binding: Binding, name: str) -> Iterator[Ref]:
    for ref, tokens in binding.operands.values():
        for token, axis in zip(tokens, gathering.axes(ref.name), strict=True):
            if token.axis == name:
                yield axis
