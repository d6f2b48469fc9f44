"""From a graph and a rule book to equations between axes: unify, bound, multiply.

Each node is visited once. What a rule may say is what the design allows it to say: which axes are the same, and which
class an axis admits. Pointwise products are kept aside as relations, because the elements of their operands multiply
instead of agreeing; `resolve` settles them when every equation is in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch

from symgraph.axes.store import Ref, Store
from symgraph.axes.structural import FIXES_ONES, TRANSFORMERS, Axes, Call
from symgraph.groups.classes import Bound, SymmetryClass, down
from symgraph.infer.applied import Applied
from symgraph.infer.contents import Content, find_contents, picked_axis
from symgraph.interpret import call
from symgraph.ir import Graph, Kind, Node, Tensor
from symgraph.rules.binding import Binding, tensor_refs
from symgraph.rules.book import RuleBook
from symgraph.rules.signature import AxisToken

BATCH: Bound = down(SymmetryClass.SEMI_PERMUTATION)


@dataclass(frozen=True, slots=True)
class Relation:
    """On one axis: the element of `result` is the product of the elements of `terms` to their powers."""

    result: Ref
    terms: tuple[tuple[Ref, int], ...]
    node: str
    rule: str


@dataclass(frozen=True, slots=True)
class Pointer:
    """Axes of positions, each of which points at a place along `target`; `origin` found the positions."""

    axes: Axes
    target: Ref
    origin: str


@dataclass
class Equations:
    """Everything the rules said about one graph."""

    graph: Graph
    store: Store = field(default_factory=Store)
    values: dict[str, tuple[Axes, ...]] = field(default_factory=dict)
    relations: list[Relation] = field(default_factory=list)
    links: list[tuple[Ref, Ref]] = field(default_factory=list)
    apart: list[tuple[Axes, Ref]] = field(default_factory=list)
    labels: list[tuple[Ref, str, str]] = field(default_factory=list)
    layouts: list[tuple[Ref, str]] = field(default_factory=list)
    sums: list[Ref] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    by_node: dict[str, Applied] = field(default_factory=dict)
    learned: set[str] = field(default_factory=set)
    writers: dict[str, str] = field(default_factory=dict)
    offsets: dict[str, float] = field(default_factory=dict)
    shifted: dict[str, str] = field(default_factory=dict)
    contents: dict[str, Content] = field(default_factory=dict)
    pointers: list[Pointer] = field(default_factory=list)

    @property
    def uncovered(self) -> list[Node]:
        """Operators without a rule that something learned flows through."""
        return [a.node for a in self.applied if a.rule is None and a.node.name in self.learned]

    def axes(self, name: str) -> Axes:
        """Axes of a single-result value."""
        return self.values[name][0]


def collect(graph: Graph, book: RuleBook, order: Iterable[int] | None = None) -> Equations:
    """Runs the rules over the graph.

    `order` permutes the nodes' equations for the test that the order of rules cannot matter: values get their axes in
    program order first, each axis being a fresh node, and the equations of each node then apply in the given order.
    """
    eq = Equations(graph)
    _explain(eq, book)
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
        eq.values[node.name] = tuple(tuple(eq.store.new(n) for n in s) for s in _shapes(node))
    for i in order:
        declared = eq.values[nodes[i].name]
        for mine, found in zip(declared, _visit(eq, nodes[i]), strict=True):
            for a, b in zip(mine, found, strict=True):
                eq.store.unify(a, b)


def _shapes(node: Node) -> tuple[tuple[int, ...], ...]:
    if isinstance(node.result, Tensor):
        return (node.result.shape,)
    return () if node.result is None else tuple(t.shape for t in node.result)


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
    return _structural(eq, node, found.binding) if found.rule.structure else _Signature(eq, node, found.binding).axes()


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
    for name in a.node.refs():
        if name in eq.contents and name not in used and a.node.name not in eq.contents:
            eq.store.rigid(pointed(eq, eq.contents[name]), "its positions are used as numbers")


def _axes_called(eq: Equations, binding: Binding, name: str) -> Iterator[Ref]:
    for ref, tokens in binding.operands.values():
        for token, axis in zip(tokens, eq.values[ref.name][0], strict=True):
            if token.axis == name:
                yield axis


def pointed(eq: Equations, content: Content) -> Ref:
    """The axis that positions are taken from."""
    return eq.values[content.value][0][content.axis]


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
    return tuple(tuple(eq.store.fresh_rigid(n) for n in shape) for shape in _shapes(node))


def _structural(eq: Equations, node: Node, binding: Binding) -> tuple[Axes, ...]:
    picked = picked_axis(eq.by_node[node.name], eq.graph)
    if picked is not None and picked[1] in eq.contents:
        return _picked(eq, node, *picked)
    refs = tensor_refs(binding)
    items = eq.values[refs[0].name] if refs else ()
    tensors = tuple(eq.values[r.name][0] for r in refs if eq.values[r.name])
    call = Call(tensors, binding.arguments, _shapes(node), items)
    return TRANSFORMERS[binding.rule.structure](eq.store, call)  # type: ignore[index]


def _picked(eq: Equations, node: Node, at: int, index: str) -> tuple[Axes, ...]:
    """Entries along one axis, picked by positions that point along it: the axes of the positions take its place."""
    content = eq.contents[index]
    source = next(r for r in node.refs() if r != index)
    axes, places = eq.values[source][0], eq.values[index][0]
    eq.store.unify(axes[at], pointed(eq, content))
    eq.pointers.append(Pointer(places, axes[at], content.origin))
    return ((*axes[:at], *places, *axes[at + 1 :]),)


class _Signature:
    """Applies one rule with a signature to one node."""

    def __init__(self, eq: Equations, node: Node, binding: Binding) -> None:
        self.eq, self.node, self.binding, self.rule = eq, node, binding, binding.rule
        self.store = eq.store
        self.named: dict[str, list[Ref]] = {}
        self.outputs: list[list[Ref]] = []
        self.operand_axes: dict[str, Axes] = {
            name: eq.values[ref.name][0] for name, (ref, _) in binding.operands.items()
        }

    def axes(self) -> tuple[Axes, ...]:
        count, shapes = len(self.binding.results), _shapes(self.node)
        self._outputs(shapes[:count])
        self._named_axes()
        self._batch_axes()
        self._tail()
        self._annotate()
        unread = (tuple(self.store.fresh_rigid(n, "nothing reads it") for n in shape) for shape in shapes[count:])
        return (*map(tuple, self.outputs), *unread)

    def _outputs(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        for shape in shapes:
            self.outputs.append([self.store.new(n) for n in shape])

    def _occurrences(self, skip: set[str] = frozenset()) -> Iterator[tuple[str, AxisToken, Ref, bool]]:  # type: ignore[assignment]
        """(operand or "", token, axis, is_result) for every tensor axis of the call."""
        for name, (_, tokens) in self.binding.operands.items():
            if name not in skip:
                for token, ref in zip(tokens, self.operand_axes[name], strict=True):
                    yield name, token, ref, False
        for tokens, axes in zip(self.binding.results, self.outputs, strict=True):
            for token, ref in zip(tokens, axes, strict=True):
                yield "", token, ref, True

    def _named_axes(self) -> None:
        """Axes with a name: every occurrence of the name is one axis, up to duality."""
        tail = {self.rule.gain, self.rule.adds} - {None}
        core: dict[str, Ref] = {}
        for operand, token, ref, is_result in self._occurrences():
            if token.batch or token.name == "1":
                continue
            if token.name.startswith("_"):
                self.store.rigid(ref, "no claim is made about this axis")
                continue
            if operand in tail or (is_result and self.rule.gain in self.binding.operands):
                continue
            if token.mark == "~":
                self.eq.links.append((core.setdefault(token.name, ref), ref))
                self.store.bound(ref, BATCH, "transforms by the permutation alone")
                continue
            ref ^= token.mark == "'"
            if token.name in core:
                self.store.unify(core[token.name], ref)
            core.setdefault(token.name, ref)
        for name, ref in core.items():
            self.store.bound(ref, self.rule.admits[name])
        self.core = core

    def _tail(self) -> None:
        """The gain multiplies the core's result, the bias is added to it."""
        gain, bias = self.rule.gain, self.rule.adds
        for tokens, axes in zip(self.binding.results, self.outputs, strict=True):
            at = {t.name: r for t, r in zip(tokens, axes, strict=True)}
            if gain in self.binding.operands:
                *outer, inner = [(t, r) for t, r in self._operand(gain) if t.name in at and t.name in self.core]
                self._relate(at[inner[0].name], ((self.core[inner[0].name], 1), (inner[1], 1)))
                # A scale of a whole group is one of its members already.
                for token, ref in outer:
                    self.store.unify(self.core[token.name], at[token.name])
                    self.eq.links.append((self.core[token.name], ref))
                    self.store.bound(ref, BATCH, "transforms by the permutation alone")
                for name, ref in at.items():
                    if name in self.core and name not in {t.name for t, _ in self._operand(gain)}:
                        self.store.unify(self.core[name], ref)
            if bias in self.binding.operands:
                for token, ref in self._operand(bias):
                    if token.name in at:
                        self._meet(at[token.name], ref, FIXES_ONES)

    def _operand(self, name: str) -> list[tuple[AxisToken, Ref]]:
        _, tokens = self.binding.operands[name]
        return list(zip(tokens, self.operand_axes[name], strict=True))

    def _relate(self, result: Ref, terms: tuple[tuple[Ref, int], ...]) -> None:
        self.eq.relations.append(Relation(result, terms, self.node.name, self.rule.rule))

    def _meet(self, result: Ref, ref: Ref, broadcast: Bound | None) -> None:
        """One operand's pointwise axis against the result's; a broadcast operand may lower the bound."""
        if self.store.size(result) == self.store.size(ref):
            self.store.unify(result, ref)
        elif broadcast is not None:
            self.store.bound(result, broadcast, "an operand is constant along it")

    def _batch_axes(self) -> None:
        """`...` and `*` axes: aligned from the right; an operand of size one or absent is broadcast."""
        results: dict[str, Ref] = {}
        for tokens, axes in zip(self.binding.results, self.outputs, strict=True):
            for token, ref in zip(tokens, axes, strict=True):
                if token.batch:
                    if token.name in results:
                        self.store.unify(results[token.name], ref)
                    results.setdefault(token.name, ref)
        for name, ref in results.items():
            # A product by something constant along the axis is linear; one of two axes is settled by its relation.
            if not self.rule.product:
                self.store.bound(ref, self._batch_bound(name))
            self._batch_axis(name, ref)
        self._vanished_batch(results)

    def _batch_bound(self, name: str) -> Bound:
        return self.rule.admits.get("*" if name.startswith("*") else "...", BATCH)

    def _batch_axis(self, name: str, result: Ref) -> None:
        terms: list[tuple[Ref, int]] = []
        for operand in self.binding.operands:
            if operand in (self.rule.gain, self.rule.adds):
                continue
            ref = next((r for t, r in self._operand(operand) if t.name == name), None)
            broadcast = ref is None or self.store.size(ref) != self.store.size(result)
            if broadcast and self.rule.broadcast == "ones" and self.store.size(result) > 1:
                self.store.bound(result, FIXES_ONES, "an operand is constant along it")
            if not broadcast and ref is not None:
                terms.append((ref, self.rule.product.get(operand, 1) if self.rule.product else 1))
        if self.rule.broadcast == "ones" and name.startswith("*") and self._scalar_operand():
            self.store.bound(result, FIXES_ONES, "a constant is added to it")
        if self.rule.product and (len(terms) > 1 or any(p != 1 for _, p in terms)):
            self._relate(result, tuple(terms))
            return
        for ref, _ in terms:
            self.store.unify(result, ref)
        if name.startswith("*") and len(terms) > 1 and self._adds_learned():
            self.eq.sums.append(result)

    def _scalar_operand(self) -> bool:
        return any(
            isinstance(v, int | float) and not isinstance(v, bool) and k in self.rule.scalars and v != 0
            for k, v in self.binding.arguments.items()
        )

    def _adds_learned(self) -> bool:
        """Whether values that different operators wrote are summed here: the mark of a residual stream."""
        refs = [ref.name for ref, _ in self.binding.operands.values()]
        written = {
            self.eq.writers[r] for r in refs if self.eq.graph.by_name[r].kind is Kind.CALL and r in self.eq.learned
        }
        return self.rule.broadcast == "ones" and len(written) > 1

    def _vanished_batch(self, results: dict[str, Ref]) -> None:
        """A batch axis that no result has is read as a whole: nothing is claimed about it."""
        for _, token, ref, is_result in self._occurrences():
            if token.batch and not is_result and token.name not in results:
                self.store.rigid(ref, "an axis that the result does not have")

    def _part_company(self) -> None:
        """What stands beside an axis in one tensor only is another index there, even if both index one space."""
        tensors = [self._operand(operand) for operand in self.binding.operands]
        for tokens, axes in zip(self.binding.results, self.outputs, strict=True):
            tensors.append(list(zip(tokens, axes, strict=True)))
        for name, ref in self.core.items():
            holding = [t for t in tensors if any(token.name == name for token, _ in t)]
            shared = set.intersection(*({token.name for token, _ in t} for t in holding)) if holding else set()
            for other in (r for t in holding for token, r in t if token.name not in shared):
                self.eq.apart.append(((ref,), other))

    def _annotate(self) -> None:
        """Which axes mix positions (no other element may depend on them), and the names a rule gives.

        A map that commutes with copying positions treats each of them alone; all others mix.
        """
        kept = {t.name for tokens in self.binding.results for t in tokens}
        for operand in self.binding.operands:
            pairs = self._operand(operand)
            mixing = [
                r
                for t, r in pairs
                if not t.batch
                and t.name in kept
                and t.name in self.core
                and SymmetryClass.SEMI_PERMUTATION not in self.rule.admits[t.name]
            ]
            for ref in mixing:
                self.eq.apart.append((tuple(r for _, r in pairs if r != ref), ref))
        self._part_company()
        for name, ref in self.core.items():
            if name in self.rule.names:
                self.eq.labels.append((ref, self.rule.names[name], self.node.name))
            if self.rule.layout and SymmetryClass.ROTARY in self.rule.admits[name]:
                self.eq.layouts.append((ref, self.rule.layout))
        if "..." in self.rule.names:
            for tokens, axes in zip(self.binding.results, self.outputs, strict=True):
                for token, ref in zip(tokens, axes, strict=True):
                    if token.batch:
                        self.eq.labels.append((ref, self.rule.names["..."], self.node.name))
