"""Axes that a tensor holds flattened into one: `input[b (g c) _...]` is a tensor of three axes or more, the second made
of g and c.

The rule is applied between a view that cuts these axes and one that joins them again, so that all the rest of the
inference sees tensors with one token for each axis.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any

from symgraph.ir import Graph, Node, Ref, Tensor
from symgraph.rules.binding import bind, holds
from symgraph.rules.schema import Rule
from symgraph.rules.signature import AxisToken, Joins, Operand, Signature, Tokens
from symgraph.tracing.arguments import PATTERN, arguments

_MANY = AxisToken("_...")
Shape = tuple[int, ...]


def positions(target: str) -> int | None:
    """How many axes of positions an operator has: two for `aten.conv2d.default`, None where its name does not say."""
    digit = re.search(r"(\d)d(?![a-z0-9])", target)
    return int(digit[1]) if digit else None


@cache
def expanded(rule: Rule, target: str) -> Rule:
    """The rule for one of its operators, with `_...` written out."""
    signature, count = rule.signature, positions(target)
    if signature is None or count is None:
        return rule
    operands = tuple(
        replace(operand, axes=_written_out(operand.axes, count), joins=_widths(operand.axes, operand.joins, count))
        for operand in signature.operands
    )
    results = tuple(_written_out(result, count) for result in signature.results)
    joins = tuple(_widths(result, j, count) for result, j in zip(signature.results, signature.joins, strict=False))
    return replace(rule, signature=Signature(operands, results, joins))


def _written_out(tokens: Tokens, count: int) -> Tokens:
    return tuple(copy for token in tokens for copy in ((AxisToken("_"),) * count if token == _MANY else (token,)))


def _widths(tokens: Tokens, joins: Joins, count: int, many: AxisToken = _MANY) -> Joins:
    """The joins of a tensor whose token `many` stands for `count` axes."""
    written: list[int] = []
    at = 0
    for width in joins:
        written += [1] * count if tokens[at] == many and width == 1 else [width]
        at += width
    return tuple(written)


def is_joined(rule: Rule) -> bool:
    """Whether some tensor of the rule holds several of its axes flattened into one."""
    signature = rule.signature
    return signature is not None and (any(operand.joins for operand in signature.operands) or any(signature.joins))


def apart(rule: Rule, target: str) -> Rule:
    """The rule about the tensors as they are once every axis stands alone."""
    signature = rule.signature
    if signature is None:
        return rule
    operands = tuple(replace(operand, joins=()) for operand in signature.operands)
    plain = Signature(operands, signature.results)
    return replace(rule, ops=(f"{PATTERN}{rule.rule}.{target}",), signature=plain, when=None)


def split(rule: Rule, node: Node, graph: Graph) -> tuple[Node, ...] | None:
    """Views that cut the axes of a call's operands, the call on them, and the view that joins the axes of its result.

    None where the rule does not apply. The last node has the name of the original.
    """
    given, signature = arguments(node), rule.signature
    if signature is None or given is None or not isinstance(node.result, Tensor) or not holds(rule, given, graph):
        return None
    tensors: dict[str, tuple[Tokens, Joins, Shape]] = {}
    for operand in signature.operands:
        if given.get(operand.name) is None:
            continue
        shape = _shape(given[operand.name], graph)
        if shape is None or len(_all_joins(operand.axes, operand.joins, len(shape))) != len(shape):
            return None
        tensors[operand.name] = (operand.axes, operand.joins, shape)
    whole = (signature.results[0], signature.result_joins(0), node.shape)
    sizes = _sizes(rule, given, {**tensors, "": whole})
    cuts = {name: cut_shape(*tensor, sizes) for name, tensor in tensors.items()}
    result = cut_shape(*whole, sizes)
    if result is None or any(cut is None for cut in cuts.values()):
        return None
    changed = {name: cut for name, cut in cuts.items() if cut and cut != tensors[name][2]}
    return _spliced(rule, node, graph, given, changed, result)


def _shape(value: Any, graph: Graph) -> Shape | None:
    result = graph.by_name[value.name].result if isinstance(value, Ref) else None
    return result.shape if isinstance(result, Tensor) else None


def _all_joins(tokens: Tokens, joins: Joins, rank: int) -> Joins:
    """How many tokens each axis holds, `...` written out for a tensor of `rank` axes."""
    joins = joins or (1,) * len(tokens)
    many = next((token for token in tokens if token.name == "..."), None)
    return joins if many is None else _widths(tokens, joins, rank - len(joins) + 1, many)


def _pairs(tokens: Tokens, joins: Joins, shape: Shape) -> Iterator[tuple[Tokens, int]]:
    """The tokens and the size of every axis; no token for what `...` stands for."""
    widths = _all_joins(tokens, joins, len(shape))
    many = len(shape) - len(joins or tokens) + 1
    rest = [place for token in tokens for place in ((None,) * many if token.name == "..." else (token,))]
    for width, size in zip(widths, shape, strict=True):
        yield tuple(token for token in rest[:width] if token is not None), size
        rest = rest[width:]


def _sizes(rule: Rule, given: Mapping[str, Any], wholes: Mapping[str, tuple[Tokens, Joins, Shape]]) -> dict[str, int]:
    """The size of every token that arguments, plain axes and joined axes with one unknown part determine."""
    sizes = {
        token: int(given[argument]) for token, argument in rule.sizes.items() if isinstance(given.get(argument), int)
    }
    before = -1
    while before != (before := len(sizes)):
        for tokens, joins, shape in wholes.values():
            for axis, size in _pairs(tokens, joins, shape):
                unknown = [token.name for token in axis if token.name not in sizes]
                known = prod(sizes[token.name] for token in axis if token.name in sizes)
                if len(unknown) == 1 and size > 1 and known and size % known == 0:
                    sizes[unknown[0]] = size // known
    return sizes


def cut_shape(tokens: Tokens, joins: Joins, shape: Shape, sizes: Mapping[str, int]) -> Shape | None:
    """The shape of a tensor whose joined axes are cut; None where the sizes do not allow it."""
    cut: list[int] = []
    for axis, size in _pairs(tokens, joins, shape):
        if len(axis) < 2:
            cut.append(size)
            continue
        parts = [1] * len(axis) if size == 1 else [sizes.get(token.name, 1) for token in axis]
        if prod(parts) != size:
            return None
        cut += parts
    return tuple(cut)


def joined_shape(operand: Operand | tuple[Tokens, Joins], shape: Shape) -> Shape:
    """The shape that a tensor with an axis for every token has where the operator reads or returns it."""
    tokens, joins = (operand.axes, operand.joins) if isinstance(operand, Operand) else operand
    if not joins:
        return shape
    whole, at = [], 0
    for width in _all_joins(tokens, joins, len(shape) - len(tokens) + len(joins)):
        whole.append(prod(shape[at : at + width]))
        at += width
    return tuple(whole)


def _spliced(
    rule: Rule, node: Node, graph: Graph, given: Mapping[str, Any], cuts: Mapping[str, Shape], result: Shape
) -> tuple[Node, ...] | None:
    views = {name: _view(node, f"{node.name}.{name}.cut", given[name], shape, graph) for name, shape in cuts.items()}
    kwargs = {**given, **{name: Ref(view.name) for name, view in views.items()}}
    target = f"{PATTERN}{rule.rule}.{node.target}"
    dtype = node.result.dtype if isinstance(node.result, Tensor) else ""
    core = replace(
        node,
        name=f"{node.name}.cut",
        target=target,
        args=(),
        kwargs=tuple(kwargs.items()),
        result=Tensor(result, dtype),
    )
    read = {ref: graph.by_name[ref] for ref in node.refs()}
    around = Graph((*read.values(), *views.values(), core), (core.name,))
    if bind(apart(rule, node.target), core, around) is None:
        return None
    return (*views.values(), core, _view(node, node.name, Ref(core.name), node.shape, around))


def _view(node: Node, name: str, ref: Ref, shape: Shape, graph: Graph) -> Node:
    source = graph.by_name[ref.name].result
    dtype = source.dtype if isinstance(source, Tensor) else ""
    return replace(
        node, name=name, target="aten.reshape.default", args=(ref, shape), kwargs=(), result=Tensor(shape, dtype)
    )
