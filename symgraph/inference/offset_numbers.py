"""Numbers that a model adds to what it has learned, before anything else reads it: as if they were learned as well.

A gain that is stored as its difference from one, `x * (1 + g)`, is one in all that it does; so is the part of a linear
map that makes the gain of a modulated norm, `x * (1 + scale) + shift`, and a bias in `relu(linear(x) + 0.3)`. Where
every use of an entry of a parameter adds one number to what becomes of it by sums and by numbers that multiply, the
number is taken out of the graph, and the group acts on the entry with the number added.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from symgraph.inference.entry_numbers import compact, dims_in, is_constant, laid_out, moved, stands_anywhere
from symgraph.inference.structural import KEEPING
from symgraph.ir import Graph, Kind, Node, Ref, rewired
from symgraph.ir import Tensor as Meta
from symgraph.rules.binding import Binding
from symgraph.rules.book import RuleBook
from symgraph.rules.facts import Facts
from symgraph.rules.schema import Rule
from symgraph.symmetry.offsets import Offset
from symgraph.tracing.arguments import arguments
from symgraph.tracing.naming import numbering
from symgraph.tracing.normalize import without_dead_calls, without_identities

_MOVING = KEEPING | {"slice", "select", "split", "unbind", "getitem"}
_SUMS = frozenset({"aten.add.Tensor", "aten.add.Scalar", "aten.sub.Tensor", "aten.sub.Scalar"})
_FROM_NUMBER = "aten.rsub.Scalar"
_PRODUCT, _SUM = "aten.mul.Tensor", "aten.add.Tensor"
_QUOTIENT = "aten.div.Tensor"
_SIGNS = {"output": 1.0, "minus": -1.0}
_SAME, _MINUS = "aten.alias.default", "aten.neg.default"
# Learned numbers are of this size. A larger one says where values are: that a sigmoid saturates, so that scores tie.
_LARGEST = 2.0


@dataclass(frozen=True, slots=True)
class _Adding:
    """A call that adds a number to one value, and what is left to be done without it.

    In `x + x * s` the number is one, `taken` stands between `value` and the sum, and the product is left.
    """

    node: Node
    value: str
    number: float
    left: Node
    taken: str = ""


@dataclass
class _Way:
    """What becomes of the entries of a parameter, counted from one, in the values that they reach.

    `factors` are the numbers that they have been multiplied by, `adding` the calls that add a number to them, `raw` the
    values of which anything else is read.
    """

    entries: dict[str, Tensor] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)
    adding: list[_Adding] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)


def with_offsets(graph: Graph, book: RuleBook) -> tuple[Graph, dict[str, Offset]]:
    """The graph without numbers that parameters can be stored with, and what has to be added to each of these."""
    numbers, offsets = _Numbers(graph, book), dict[str, Offset]()
    taken, changed = list[_Adding](), set[str]()
    for name in numbers.parameters() if numbers.adding else ():
        way = numbers.way(name, {one.node.name for one in taken})
        added, adding = _settled(way, graph.by_name[name].shape)
        own = _offset(added) if adding else None
        if own is not None:
            offsets[graph.by_name[name].target] = own
            taken += adding
            changed |= _changed(way, added)
    left = {one.node.name: one.left for one in taken}
    return (without(graph, changed, left), offsets) if offsets else (graph, {})


def _settled(way: _Way, shape: tuple[int, ...]) -> tuple[Tensor, list[_Adding]]:
    """The number for each entry, and the calls that add it: each to entries that no use wants anything else of."""
    adding = list(way.adding)
    while True:
        seen = [*way.raw, *(one.value for one in way.adding if one not in adding)]
        wanted = torch.full((int(torch.Size(shape).numel()) + 1,), torch.nan, dtype=torch.float64)
        for one in adding:
            at = _places(way.entries[one.value])
            number = torch.tensor(one.number / way.factors[one.value], dtype=torch.float64)
            wanted[at] = torch.where(wanted[at].isnan() | (wanted[at] == number), number, torch.inf)
        for value in seen:
            wanted[_places(way.entries[value])] = torch.inf
        wanted[0] = torch.inf
        kept = [one for one in adding if bool(wanted[_places(way.entries[one.value])].isfinite().all())]
        if len(kept) == len(adding):
            return torch.where(wanted.isfinite(), wanted, 0.0)[1:].reshape(shape), kept
        adding = kept


def _places(entries: Tensor) -> Tensor:
    """The entries of a parameter that stand anywhere; nothing is counted as 0."""
    (held,) = compact([entries])
    return torch.tensor(sorted({*held.flatten().tolist()}), dtype=torch.long)


def _offset(numbers: Tensor) -> Offset | None:
    """The numbers as runs along one axis; None where they vary along several."""
    if bool((numbers == numbers.flatten()[0]).all()):
        return Offset.of(0, numbers.flatten()[: numbers.shape[0] if numbers.dim() else 1])
    varying = [i for i in range(numbers.dim()) if not bool((numbers == numbers.narrow(i, 0, 1)).all())]
    if len(varying) != 1:
        return None
    (axis,) = varying
    return Offset.of(axis, numbers.movedim(axis, 0).reshape(numbers.shape[axis], -1)[:, 0])


def _changed(way: _Way, numbers: Tensor) -> set[str]:
    """The values that hold entries to which numbers are added."""
    line = torch.cat([numbers.new_zeros(1), numbers.flatten()])
    return {name for name, entries in way.entries.items() if bool(line[_places(entries)].any())}


def without(graph: Graph, changed: Set[str], left: Mapping[str, Node]) -> Graph:
    """The graph with what is `left` of some calls in their place; values that are others for it have other names."""
    fresh = numbering(graph.by_name.keys())
    calls = [graph.by_name[name] for name in sorted(changed) if graph.by_name[name].kind is Kind.CALL]
    several = [graph.by_name[next(node.refs())] for node in calls if node.target == "getitem"]
    names = {node.name: fresh(f"{node.name}_offset") for node in dict.fromkeys((*calls, *several))}

    def renamed(ref: Ref) -> Ref:
        return Ref(names.get(ref.name, ref.name))

    nodes = (left.get(node.name, node) for node in graph.nodes)
    moved = [rewired(node, renamed, name=names.get(node.name, node.name), module=node.module) for node in nodes]
    outputs = tuple(names.get(name, name) for name in graph.outputs)
    return without_identities(without_dead_calls(replace(graph, nodes=tuple(moved), outputs=outputs)))


# -- which ---------------------------------------------------------------------------------------------------------


def adding_number(node: Node) -> tuple[float, float] | None:
    """The factor, 1 or -1, and the number of a call that adds a number to its one operand, or takes it from one."""
    given = arguments(node) or {}
    other, alpha = given.get("other"), given.get("alpha")
    if len(list(node.refs())) != 1 or not isinstance(given.get("self"), Ref) or not isinstance(other, int | float):
        return None
    if node.target in _SUMS:
        return 1.0, float(other) * float(alpha or 0) * (-1 if "sub" in node.target else 1)
    return (-1.0, float(other)) if node.target == _FROM_NUMBER and alpha == 1 else None


def _adding(node: Node, graph: Graph) -> _Adding | None:
    """A call that adds a number to a value, also as the product in `x + x * s`, which adds one to s."""
    given = arguments(node) or {}
    value, other, alpha = (given.get(name) for name in ("self", "other", "alpha"))
    plain = adding_number(node)
    if plain is not None and isinstance(value, Ref):
        sign, number = plain
        left = replace(node, target=_SAME if sign > 0 else _MINUS, args=(value,), kwargs=())
        return _Adding(node, value.name, sign * number, left)
    if node.target != _SUM or alpha != 1 or not isinstance(value, Ref) or not isinstance(other, Ref):
        return None
    ways = (_one_added(node, one.name, by.name, graph) for one, by in ((value, other), (other, value)))
    return next((way for way in ways if way is not None), None)


def _one_added(node: Node, value: str, product: str, graph: Graph) -> _Adding | None:
    by = graph.by_name[product]
    factors = list(by.refs()) if by.target == _PRODUCT and len(by.args) == 2 and not by.kwargs else []
    alone = graph.users[product] == (node,) and product not in graph.outputs
    if len(factors) != 2 or factors.count(value) != 1 or not alone or by.shape != graph.by_name[value].shape:
        return None
    (scale,) = (factor for factor in factors if factor != value)
    return _Adding(node, scale, 1.0, replace(node, target=_PRODUCT, args=by.args, kwargs=()), product)


def _sign(rule: Rule, operand: str) -> float:
    """The sign with which an operand is added to the result; zero where anything else is done with it."""
    return 1.0 if operand == rule.adds else _SIGNS.get(rule.shift.get(operand, ""), 0.0)


def scaling_number(node: Node) -> float | None:
    """The number that a call multiplies its one operand by; None where it does anything else, or takes all of it."""
    given = arguments(node) or {}
    number = -1.0 if node.target == _MINUS else given.get("other")
    if len(list(node.refs())) != 1 or not isinstance(number, int | float) or not number:
        return None
    return {_MINUS: -1.0, _PRODUCT: float(number), _QUOTIENT: 1.0 / number}.get(node.target)


def _note(way: _Way, value: str, entries: Tensor, factor: float) -> None:
    if stands_anywhere(entries):
        way.entries[value], way.factors[value] = entries, factor


class _Numbers:
    """Which parameters reach a call that adds a number, and how."""

    def __init__(self, graph: Graph, book: RuleBook) -> None:
        self.graph, self.book = graph, book
        self.bindings: dict[str, Binding | None] = {}

    @cached_property
    def adding(self) -> dict[str, _Adding]:
        """Calls that add a number to a value, by their names."""
        found = (_adding(node, self.graph) for node in self.graph.calls)
        # What the model puts out keeps its name.
        inside = (one for one in found if one is not None and one.node.name not in self.graph.outputs)
        return {one.node.name: one for one in inside if abs(one.number) <= _LARGEST}

    @cached_property
    def products(self) -> dict[str, _Adding]:
        """The products that these take with them."""
        return {one.taken: one for one in self.adding.values() if one.taken}

    @cached_property
    def facts(self) -> Facts:
        """What producers say of operands."""
        return Facts(self.graph)

    def parameters(self) -> list[str]:
        """Parameters that reach a call that adds a number; what is nothing but a parameter first."""
        found: dict[str, int] = {}
        todo = [(one.value, 0) for one in self.adding.values()]
        seen: set[str] = set()
        while todo:
            name, depth = todo.pop()
            node = self.graph.by_name[name]
            if name in seen:
                continue
            seen.add(name)
            if node.kind is Kind.PARAMETER:
                found.setdefault(name, depth)
            elif node.kind is Kind.CALL:
                todo += [(ref, depth + 1) for ref in dict.fromkeys(node.refs()) if self._hands_on(node, ref)]
        return sorted(found, key=lambda name: found[name])

    def _hands_on(self, node: Node, value: str) -> bool:
        if node.name in self.adding or node.name in self.products:
            return False
        if self._structure(node):
            return self._structure(node) in _MOVING and len(list(node.refs())) == 1
        return scaling_number(node) is not None or self._added(node, value) is not None

    def _binding(self, node: Node) -> Binding | None:
        if node.name not in self.bindings:
            self.bindings[node.name] = self.book.binding(node, self.graph)
        return self.bindings[node.name]

    def _structure(self, node: Node) -> str:
        binding = self._binding(node)
        return (binding.rule.structure or "") if binding is not None else ""

    def _added(self, node: Node, value: str) -> tuple[str, float] | None:
        """The operand of a call that is added to its one result, with its sign, as it has been proven there."""
        binding = self._binding(node)
        if binding is None or not isinstance(node.result, Meta) or list(node.refs()).count(value) != 1:
            return None
        operands = [k for k, (ref, _) in binding.operands.items() if ref.name == value]
        if len(operands) != 1 or not _sign(binding.rule, operands[0]):
            return None
        sign = _sign(self.book.proof(binding, node, self.graph, self.facts).rule, operands[0])
        return (operands[0], sign) if sign else None

    def way(self, name: str, taken: Set[str]) -> _Way:
        """Where the entries of a parameter go until anything else is done with them than to add to them.

        Args:
            taken: calls that add no number any more.
        """
        way, shape = _Way(), self.graph.by_name[name].shape
        count = torch.Size(shape).numel()
        way.entries[name] = torch.arange(1, count + 1, dtype=torch.float64).reshape(shape)
        way.factors[name] = 1.0
        for value in (name, *(node.name for node in self.graph.calls)):
            if value in way.entries:
                self._go_on(way, value, taken)
        return way

    def _go_on(self, way: _Way, value: str, taken: Set[str]) -> None:
        """What all that reads a value does with the entries there."""
        if value in self.graph.outputs:
            way.raw.append(value)
        for user in self.graph.users[value]:
            one = self.adding.get(user.name) or self.products.get(user.name)
            if one is not None and one.value == value and one.node.name not in taken:
                way.adding.append(one)
            elif one is not None or not self._passed(way, value, user):
                way.raw.append(value)

    def _passed(self, way: _Way, value: str, user: Node) -> bool:
        """Whether a call hands entries on, each to places of its own; where it does, they are noted there."""
        entries, factor = way.entries[value], way.factors[value]
        if user.name in way.entries:
            # Entries come together with others of the same parameter.
            way.raw.append(user.name)
            return False
        structure = self._structure(user)
        scaled = None if structure else scaling_number(user)
        added = None if structure or scaled is not None else self._added(user, value)
        if structure in _MOVING and not isinstance(user.result, Meta):
            for part in self.graph.users[user.name]:
                _note(way, part.name, moved(self.graph, (user, part), {value: entries}), factor)
        elif structure in _MOVING and len(list(user.refs())) == 1:
            _note(way, user.name, moved(self.graph, (user,), {value: entries}), factor)
        elif scaled is not None:
            _note(way, user.name, entries, factor * scaled)
        elif added is not None and (result := self._in_result(user, added[0], entries)) is not None:
            _note(way, user.name, result, factor * added[1])
        else:
            return False
        return True

    def _in_result(self, node: Node, operand: str, entries: Tensor) -> Tensor | None:
        """Where entries of what is added stand in the result; None where it does not say which of them does."""
        binding = self._binding(node)
        if binding is None:
            return None
        tokens, result = binding.operands[operand][1], binding.results[0]
        kept = {token.name for token in result}
        told = all(is_constant(entries, i) for i, token in enumerate(tokens) if token.name not in kept)
        return laid_out(entries, dims_in(result, tokens), node.shape) if told else None
