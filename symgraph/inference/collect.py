"""From a graph and a rule book to equations between axes: unify, bound, multiply.

Each node is visited once. What a rule may say is what the design allows it to say: which axes are the same, and which
class an axis admits. Pointwise products are kept aside as relations, because the elements of their operands multiply
instead of agreeing; `resolve` settles them when every equation is in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from symgraph.groups.lattice import SymmetryClass, down
from symgraph.inference.applied import BATCH, Applied, shapes_of
from symgraph.inference.branches import Branches
from symgraph.inference.contents import find_contents, picked_axis
from symgraph.inference.equations import Equations, Pointer, branches_value, pointed
from symgraph.inference.signatures import SignatureEquations
from symgraph.inference.store import Ref
from symgraph.inference.structural import TRANSFORMERS, Axes, Call
from symgraph.ir import Graph, Kind, Node, Tensor
from symgraph.rules.binding import Binding, tensor_refs
from symgraph.rules.book import RuleBook
from symgraph.tracing.arguments import arguments
from symgraph.tracing.interpreter import call


def collect(
    graph: Graph, book: RuleBook, order: Iterable[int] | None = None, branches: Sequence[Branches] = ()
) -> Equations:
    """Runs the rules over the graph.

    `branches` are taken as positions of a space each.

    `order` permutes the nodes' equations for the test that the order of rules cannot matter: values get their axes in
    program order first, each axis being a fresh node, and the equations of each node then apply in the given order.
    """
    eq = Equations(graph)
    _explain(eq, book)
    for number, family in enumerate(branches):
        _enumerate(eq, number, family)
    nodes = graph.nodes
    if order is None:
        for node in nodes:
            eq.values[node.name] = _visit(eq, node)
    else:
        _collect_shuffled(eq, nodes, order)
    for name in graph.outputs:
        eq.store.because(name, "output", "an output of the model")
        for axes in eq.values[name]:
            for ref in axes:
                eq.store.rigid(ref)
        if name in eq.contents:
            eq.store.rigid(pointed(eq, eq.contents[name]))
    return eq


def _explain(eq: Equations, book: RuleBook) -> None:
    """Finds the rule of every node, what is learned, and which operator wrote each value, before there are axes."""
    for node in eq.graph.nodes:
        if node.kind is Kind.PARAMETER or any(r in eq.learned for r in node.refs()):
            eq.learned.add(node.name)
        eq.writers[node.name] = node.name
        if node.kind is not Kind.CALL:
            continue
        binding = book.binding(node, eq.graph)
        eq.applied.append(Applied(node, binding.rule if binding else None, binding))
        sources = {eq.writers[r] for r in node.refs() if r in eq.learned}
        if binding is not None and len(sources) == 1 and (binding.rule.structure or _pointwise(binding)):
            eq.writers[node.name] = sources.pop()
    eq.by_node.update((a.node.name, a) for a in eq.applied)
    for a in eq.applied:
        _note_offset(eq, a)
    eq.contents |= find_contents(eq.applied)


def _enumerate(eq: Equations, number: int, family: Branches) -> None:
    """An axis along which the branches of a family are the positions."""
    eq.store.because(family.rows[0][0], "branches", "its positions are branches that can change places")
    axis = eq.store.new(family.count)
    eq.store.bound(axis, down(SymmetryClass.PERMUTATION))
    eq.values[branches_value(number)] = ((axis,),)
    eq.slots.update((s.source, (s, axis)) for slots in family.slots for s in slots)
    if family.end:
        eq.branches[family.end] = axis


def _note_offset(eq: Equations, a: Applied) -> None:
    """A parameter that is only ever used with a number added (a gain stored as its difference from one).

    The group acts on the sum. The rule says that the operator is a sum; its value at zero is the number.
    """
    refs = list(a.node.refs())
    if a.rule is None or a.binding is None or len(refs) != 1 or a.rule.structure:
        return
    node = eq.graph.by_name[refs[0]]
    law = next((a.rule.shift.get(k) for k, (r, _) in a.binding.operands.items() if r.name == refs[0]), None)
    alone = node.kind is Kind.PARAMETER and len(eq.graph.users[node.name]) == 1 and a.rule.reduces is None
    if law != "output" or not alone or a.node.shape != node.shape or not a.rule.scalars:
        return
    value = call(eq.graph, a.node.name, {refs[0]: torch.zeros(1, dtype=torch.float64)})
    if value.numel() == 1 and float(value) != 0.0:
        eq.offsets[node.target] = float(value)
        eq.shifted[a.node.name] = node.name


def _collect_shuffled(eq: Equations, nodes: tuple[Node, ...], order: Iterable[int]) -> None:
    for node in nodes:
        eq.values[node.name] = tuple(tuple(eq.store.new(n) for n in s) for s in shapes_of(node))
    for i in order:
        declared = eq.values[nodes[i].name]
        for mine, found in zip(declared, _visit(eq, nodes[i]), strict=True):
            for a, b in zip(mine, found, strict=True):
                eq.store.unify(a, b)


def _visit(eq: Equations, node: Node) -> tuple[Axes, ...]:
    store = eq.store
    if node.kind is Kind.INPUT:
        store.because(node.name, "input", "an input of the model")
        return (tuple(store.fresh_rigid(n) for n in node.shape),)
    if node.kind is not Kind.CALL:
        return (tuple(_state_axis(eq, node, n) for n in node.shape),)
    if node.name in eq.shifted:
        return eq.values[eq.shifted[node.name]]
    found = eq.by_node[node.name]
    if found.rule is None or found.binding is None:
        store.because(node.name, "(none)", f"no rule covers {node.target}")
        return _rigid(eq, node)
    store.because(node.name, found.rule.rule, found.rule.about)
    _tie_contents(eq, found)
    if node.name in eq.slots and eq.slots[node.name][0].axis is not None:
        return _own_entry(eq, node)
    if node.name in eq.branches:
        return _stacked(eq, node)
    return (
        _structural(eq, node, found.binding)
        if found.rule.structure
        else SignatureEquations(eq, node, found.binding).axes()
    )


def _own_entry(eq: Equations, node: Node) -> tuple[Axes, ...]:
    """The entry that belongs to a branch: its number is the branch's own, so that no position is told apart."""
    slot, axis = eq.slots[node.name]
    axes, at = eq.axes(slot.value), slot.axis or 0
    eq.store.unify(axes[at], axis)
    kept = [n for n in shapes_of(node) if len(n) == len(axes)]
    one = (eq.store.new(1),) if kept else ()
    return tuple((*axes[:at], *one, *axes[at + 1 :]) for _ in shapes_of(node))


def _stacked(eq: Equations, node: Node) -> tuple[Axes, ...]:
    """The results of all branches along a new axis, which is theirs."""
    first, *others = (eq.axes(r) for r in node.refs())
    for other in others:
        for a, b in zip(first, other, strict=True):
            eq.store.unify(a, b)
    given = arguments(node) or {}
    at = int(given.get("dim", 0)) % (len(first) + 1)
    return ((*first[:at], eq.branches[node.name], *first[at:]),)


def _tie_contents(eq: Equations, a: Applied) -> None:
    """Positions that are used to pick make two axes one; used in any other way they make theirs rigid."""
    rule, binding = a.rule, a.binding
    if rule is None or binding is None:
        return
    for operand, name in rule.indexes.items():
        content = eq.contents.get(binding.operands[operand][0].name) if operand in binding.operands else None
        for ref in _axes_called(eq, binding, name):
            if content is None:
                eq.store.rigid(ref, "read by position")
            else:
                eq.store.unify(ref, pointed(eq, content))
    used = {binding.operands[k][0].name for k in rule.indexes if k in binding.operands}
    picked = picked_axis(a, eq.graph)
    used |= {picked[1]} if picked is not None else set()
    if a.node.name in eq.slots:
        slot, axis = eq.slots[a.node.name]
        if slot.value in eq.contents:
            eq.store.unify(pointed(eq, eq.contents[slot.value]), axis)
            used.add(slot.value)
        elif slot.axis is None:
            eq.store.rigid(axis, "numbers that are no positions")
    for name in a.node.refs():
        if name in eq.contents and name not in used and a.node.name not in eq.contents:
            eq.store.rigid(pointed(eq, eq.contents[name]), "its positions are used as numbers")


def _axes_called(eq: Equations, binding: Binding, name: str) -> Iterator[Ref]:
    for ref, tokens in binding.operands.values():
        for token, axis in zip(tokens, eq.values[ref.name][0], strict=True):
            if token.axis == name:
                yield axis


def _pointwise(binding: Binding) -> bool:
    return all(t.name.startswith("*") for tokens in binding.results for t in tokens)


def _state_axis(eq: Equations, node: Node, size: int) -> Ref:
    ref = eq.store.new(size)
    if not eq.graph.users[node.name] and node.name not in eq.graph.outputs:
        eq.store.because(node.name, "unused", "nothing reads this tensor")
        eq.store.rigid(ref)
    if node.target in eq.graph.transient:
        eq.store.because(node.name, "buffer", "a buffer that checkpoints do not store")
        eq.store.rigid(ref)
    if isinstance(node.result, Tensor) and not _is_floating(node.result):
        eq.store.because(node.name, "integers", "numbers of this kind can be moved, not scaled or mixed")
        eq.store.bound(ref, BATCH)
    return ref


def _is_floating(tensor: Tensor) -> bool:
    found: bool = getattr(torch, tensor.dtype).is_floating_point
    return found


def _rigid(eq: Equations, node: Node) -> tuple[Axes, ...]:
    for name in node.refs():
        for axes in eq.values[name]:
            for ref in axes:
                eq.store.rigid(ref)
    return tuple(tuple(eq.store.fresh_rigid(n) for n in shape) for shape in shapes_of(node))


def _structural(eq: Equations, node: Node, binding: Binding) -> tuple[Axes, ...]:
    picked = picked_axis(eq.by_node[node.name], eq.graph)
    if picked is not None and picked[1] in eq.contents:
        return _picked(eq, node, *picked)
    refs = tensor_refs(binding)
    items = eq.values[refs[0].name] if refs else ()
    tensors = tuple(eq.values[r.name][0] for r in refs if eq.values[r.name])
    call = Call(tensors, binding.arguments, shapes_of(node), items)
    return TRANSFORMERS[binding.rule.structure](eq.store, call)  # type: ignore[index]


def _picked(eq: Equations, node: Node, at: int, index: str) -> tuple[Axes, ...]:
    """Entries along one axis, picked by positions that point along it: the axes of the positions take its place."""
    content = eq.contents[index]
    source = next(r for r in node.refs() if r != index)
    axes, places = eq.values[source][0], eq.values[index][0]
    eq.store.unify(axes[at], pointed(eq, content))
    eq.pointers.append(Pointer(places, axes[at], content.origin))
    return ((*axes[:at], *places, *axes[at + 1 :]),)
