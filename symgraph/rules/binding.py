"""Rules meet nodes: which axis of which value every token of a signature stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from symgraph.ir import Graph, Node, Ref, Tensor
from symgraph.rules.arrange import arrange
from symgraph.rules.schema import Rule
from symgraph.rules.signature import FIXES_ONES, AxisToken, Signature, Tokens
from symgraph.tracing.arguments import arguments as arguments_of


@dataclass(frozen=True, slots=True)
class Binding:
    """A rule matched with one node: the axes of its tensors by token, its other arguments by name.

    The number of tokens always equals the rank of the tensor. Operands keep the order of the signature.
    """

    rule: Rule
    operands: dict[str, tuple[Ref, Tokens]]
    results: tuple[Tokens, ...]
    arguments: Mapping[str, Any]

    def at(self, node: Node) -> Binding:
        """The same of a node of the same form."""
        given = arguments_of(node) or {}
        operands = {name: (given[name], tokens) for name, (_, tokens) in self.operands.items()}
        return Binding(self.rule, operands, self.results, given)


def bind(rule: Rule, node: Node, graph: Graph) -> Binding | None:
    """Matches a rule with a node; None where the rule does not apply to it.

    A rule does not apply if its `when:` is false, a rank or size does not fit its signature, a tensor is given for an
    argument that the signature does not speak about, or something reads a result that it does not speak about.
    """
    given = arguments_of(node)
    if given is None or not holds(rule, given, graph):
        return None
    if rule.signature is None:
        return Binding(rule, {}, (), given)
    tensors = _tensors(rule.signature, given, graph)
    if tensors is None:
        return None
    arranged = arrange(rule, given, {name: len(tensor.shape) for name, (_, tensor) in tensors.items()})
    if arranged is None or not _supported(given, tensors):
        return None
    operands, results = arranged
    shapes = {name: tensor.shape for name, (_, tensor) in tensors.items()}
    sizes = _sizes(rule, operands, shapes)
    if sizes is None or not _results_fit(results, node, sizes) or not _read(node, graph, len(results)):
        return None
    shown = {name: (tensors[name][0], _broadcast(axes, shapes[name], sizes)) for name, axes in operands.items()}
    if rule.broadcast == "never" and any(axes != operands[name] for name, (_, axes) in shown.items()):
        return None
    return Binding(rule, shown, results, given)


def tensor_refs(binding: Binding) -> tuple[Ref, ...]:
    """Every value among the arguments, in schema order, lists spread out."""
    refs: list[Ref] = []
    for value in binding.arguments.values():
        items = value if isinstance(value, list | tuple) else (value,)
        refs += [item for item in items if isinstance(item, Ref)]
    return tuple(refs)


def holds(rule: Rule, given: Mapping[str, Any], graph: Graph) -> bool:
    """Whether the condition of a rule is true of these arguments."""
    if rule.when is None:
        return True
    by_name = graph.by_name
    return rule.when.evaluate(
        {name: by_name[value.name].result if isinstance(value, Ref) else value for name, value in given.items()}
    )


def _tensors(signature: Signature, given: Mapping[str, Any], graph: Graph) -> dict[str, tuple[Ref, Tensor]] | None:
    """The operands that are values of the graph; None if one is missing or no single tensor."""
    tensors: dict[str, tuple[Ref, Tensor]] = {}
    for operand in signature.operands:
        value = given.get(operand.name)
        if isinstance(value, Ref):
            result = graph.by_name[value.name].result
            if not isinstance(result, Tensor):
                return None
            tensors[operand.name] = (value, result)
        elif not (operand.optional if value is None else operand.scalar and isinstance(value, int | float)):
            return None
    return tensors


def _supported(given: Mapping[str, Any], tensors: Mapping[str, Any]) -> bool:
    for name, value in given.items():
        if name not in tensors:
            items = value if isinstance(value, list | tuple) else (value,)
            if any(isinstance(item, Ref) for item in items):
                return False
    return True


def _sizes(rule: Rule, operands: Mapping[str, Tokens], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int] | None:
    """The size of every token, or None where two tensors disagree about one."""
    sizes: dict[str, int] = {}
    for name, tokens in operands.items():
        for token, size in zip(tokens, shapes[name], strict=True):
            known = sizes.get(token.name, 1)
            if token.name == "1" and size != 1:
                return None
            if size != known and 1 not in (size, known):
                return None
            if token.name in sizes and size != known and not _may_broadcast(rule, token):
                return None
            sizes[token.name] = size if known == 1 else known
    return sizes


def _may_broadcast(rule: Rule, token: AxisToken) -> bool:
    return token.batch or rule.admits[token.axis] <= FIXES_ONES


def _broadcast(tokens: Tokens, shape: tuple[int, ...], sizes: Mapping[str, int]) -> Tokens:
    if all(size != 1 or sizes[token.name] == 1 for token, size in zip(tokens, shape, strict=True)):
        return tokens
    return tuple(
        AxisToken("1") if size == 1 < sizes[token.name] else token for token, size in zip(tokens, shape, strict=True)
    )


def _results_fit(results: tuple[Tokens, ...], node: Node, sizes: Mapping[str, int]) -> bool:
    shapes = [node.result.shape] if isinstance(node.result, Tensor) else [tensor.shape for tensor in node.result or ()]
    if len(shapes) < len(results):
        return False
    return all(
        len(tokens) == len(shape)
        and all(sizes.get(token.name, size) == size for token, size in zip(tokens, shape, strict=True))
        for tokens, shape in zip(results, shapes, strict=False)
    )


def _read(node: Node, graph: Graph, count: int) -> bool:
    """Whether nothing reads a result of the node after the first `count`."""
    if not isinstance(node.result, tuple) or len(node.result) == count:
        return True
    return all(user.target == "getitem" and user.args[1] < count for user in graph.users[node.name])
