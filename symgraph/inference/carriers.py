"""Parameters that take a factor of a value, since they write it or read it, and calls that pass a factor on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.applied import Applied
from symgraph.inference.flow import Flow
from symgraph.inference.structural import KEEPING
from symgraph.ir import Kind, Node
from symgraph.rules.schema import Rule
from symgraph.rules.signature import AxisToken
from symgraph.tracing.operators import short_name

_SUMS = frozenset(["add", "sub"])


@dataclass(frozen=True, slots=True)
class Carriers:
    """Tensors that take a factor of a value, and the calls that use them for it."""

    tensors: tuple[str, ...]
    calls: frozenset[str]


def used(flow: Flow, tensors: Iterable[str]) -> set[str]:
    """All calls that use one of the tensors, and those of these that are outputs."""
    names = [flow.graph.state[tensor].name for tensor in tensors]
    return {user.name for name in names for user in flow.graph.users[name]} | {*names}.intersection(flow.graph.outputs)


def are_alone(flow: Flow, found: list[Carriers]) -> bool:
    """Whether tensors that take factors are not the same, and are used for nothing else."""
    tensors = [name for carriers in found for name in carriers.tensors]
    calls = set().union(*(carriers.calls for carriers in found))
    return len(set(tensors)) == len(tensors) and used(flow, tensors) == calls


def together(parts: Iterable[Carriers | None]) -> Carriers | None:
    """What takes a factor of a sum, if something takes one of each summand."""
    found = list(parts)
    known = [part for part in found if part is not None]
    tensors = tuple(name for part in known for name in part.tensors)
    return Carriers(tensors, frozenset().union(*(part.calls for part in known))) if known == found else None


def relayed(flow: Flow, node: Node) -> list[str] | None:
    """The operands of which a common factor becomes one of the result; None for all other calls."""
    if node.name not in flow.applied:
        return None
    refs = list(node.refs())
    if keeps(flow, node):
        return refs
    if is_sum(node):
        return refs
    if len(refs) == 1 and flow.is_linear(flow.applied[node.name]):
        return refs
    factor = multiplied(flow, node)
    read = read_linearly(flow.applied[node.name]) if factor is None else [factor]
    return read if len(read) == 1 else None


def is_sum(node: Node) -> bool:
    """Whether a call adds values, or takes one from another."""
    return short_name(node.target) in _SUMS and len(list(node.refs())) == len(node.args)


def read_linearly(writer: Applied) -> list[str]:
    """The values that a call is linear in: any map may act along an axis that its result has of this operand alone."""
    found: list[str] = []
    for token in _free_axes(writer):
        values = [ref.name for ref, tokens in writer.binding.operands.values() if token in tokens]
        found += values if len(values) == 1 else []
    # A product of a value with itself is not.
    return [value for value in found if list(writer.node.refs()).count(value) == 1]


def multiplied(flow: Flow, product: Node) -> str | None:
    """What a call multiplies by a learned number."""
    refs = list(product.refs())
    numbers = [r for r in refs if is_number(source_of(flow, r))]
    if short_name(product.target) != "mul" or len(refs) != 2 or len(numbers) != 1:
        return None
    return refs[1 - refs.index(numbers[0])]


def has_own_length(flow: Flow, value: str) -> bool:
    """Whether a value has been divided by its length, so that it has no factor of what made it."""
    writer = flow.applied.get(source_of(flow, value).name)
    return writer is not None and writer.rule.radial is not None


def source_of(flow: Flow, value: str) -> Node:
    """The value that another one has the entries of."""
    node = flow.graph.by_name[value]
    while keeps(flow, node):
        node = flow.graph.by_name[next(iter(node.refs()))]
    return node


def linear_in(flow: Flow, writer: Applied) -> Iterator[Carriers]:
    """Parameters along an axis of the result that any map may act on: a factor of all of them is one of the result."""
    for token in _free_axes(writer):
        values = [ref.name for ref, tokens in writer.binding.operands.values() if token in tokens]
        uses = [use for value in values if (use := use_of(flow, writer, value)) is not None]
        if uses and len(uses) == len(values):
            yield Carriers(tuple(name for name, _ in uses), frozenset(call for _, call in uses))


def _free_axes(writer: Applied) -> Iterator[AxisToken]:
    """The axes of a call's result along which any invertible map may act."""
    rule, binding = writer.rule, writer.binding
    if rule is not None and binding is not None and binding.results:
        yield from (t for t in binding.results[0] if not (t.batch or t.mark) and _free(rule, t))


def _free(rule: Rule, token: AxisToken) -> bool:
    """Whether any invertible map may act along an axis."""
    return token.claimed and SymmetryClass.INVERTIBLE in rule.admits.get(token.axis, ())


def use_of(flow: Flow, a: Applied, value: str) -> tuple[str, str] | None:
    """The parameter that an operand of a call is, or that it has the entries of, and the call that reads it."""
    if flow.operand(a, value) is None:
        return None
    node, call = flow.graph.by_name[value], a.node.name
    while keeps(flow, node) and len(flow.graph.users[node.name]) == 1 and node.name not in flow.graph.outputs:
        node, call = flow.graph.by_name[next(iter(node.refs()))], node.name
    return (node.target, call) if node.kind is Kind.PARAMETER else None


def uses_of(flow: Flow, name: str) -> Iterator[tuple[str, Node | None]]:
    """Calls that do more with a value than to move its entries, and what each reads; None where that is an output."""
    todo = [name]
    while todo:
        value = todo.pop()
        if value in flow.graph.outputs:
            yield value, None
        for user in flow.graph.users[value]:
            if keeps(flow, user):
                todo.append(user.name)
            else:
                yield value, user


def keeps(flow: Flow, node: Node) -> bool:
    """Whether a call moves the entries of its one operand and does nothing else."""
    applied = flow.applied.get(node.name)
    rule = applied.rule if applied is not None else None
    return rule is not None and rule.structure in KEEPING and len(list(node.refs())) == 1


def is_number(node: Node) -> bool:
    return node.kind is Kind.PARAMETER and node.is_floating and set(node.shape) <= {1}


def reading(flow: Flow, user: Node, value: str) -> tuple[str, str] | None:
    """The parameter by which a call multiplies a value along an axis that it sums over, and the call that reads it."""
    a = flow.applied.get(user.name)
    operand = flow.operand(a, value) if a is not None else None
    if a is None or a.rule is None or a.binding is None or operand is None:
        return None
    rule, operands = a.rule, a.binding.operands
    kept = {token.name for result in a.binding.results for token in result}
    for token in operands[operand][1]:
        if not token.batch and token.name not in kept and _free(rule, token):
            others = [
                k
                for k, (_, tokens) in operands.items()
                if k != operand and token.name in {other.name for other in tokens}
            ]
            return use_of(flow, a, operands[others[0]][0].name) if len(others) == 1 else None
    return None
