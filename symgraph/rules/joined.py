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
    found = re.search(r"(\d)d(?![a-z0-9])", target)
    return int(found[1]) if found else None


@cache
def expanded(rule: Rule, target: str) -> Rule:
    """The rule for one of its operators, with `_...` written out."""
    signature, count = rule.signature, positions(target)
    if signature is None or count is None:
        return rule
    operands = tuple(
        replace(o, axes=_written_out(o.axes, count), joins=_widths(o.axes, o.joins, count)) for o in signature.operands
    )
    results = tuple(_written_out(r, count) for r in signature.results)
    joins = tuple(_widths(r, j, count) for r, j in zip(signature.results, signature.joins, strict=False))
    return replace(rule, signature=Signature(operands, results, joins))


def _written_out(tokens: Tokens, count: int) -> Tokens:
    return tuple(x for t in tokens for x in ((AxisToken("_"),) * count if t == _MANY else (t,)))


def _widths(tokens: Tokens, joins: Joins, count: int, many: AxisToken = _MANY) -> Joins:
    """The joins of a tensor whose token `many` stands for `count` axes."""
    found: list[int] = []
    at = 0
    for width in joins:
        found += [1] * count if tokens[at] == many and width == 1 else [width]
        at += width
    return tuple(found)


def is_joined(rule: Rule) -> bool:
    """Whether some tensor of the rule holds several of its axes flattened into one."""
    signature = rule.signature
    return signature is not None and (any(o.joins for o in signature.operands) or any(signature.joins))


def apart(rule: Rule, target: str) -> Rule:
    """The rule about the tensors as they are once every axis stands alone."""
    signature = rule.signature
    if signature is None:
        return rule
    operands = tuple(replace(o, joins=()) for o in signature.operands)
    plain = Signature(operands, signature.results)
    return replace(rule, ops=(f"{PATTERN}{rule.rule}.{target}",), signature=plain, when=None)


def split(rule: Rule, node: Node, graph: Graph) -> tuple[Node, ...] | None:
    """Views that cut the axes of a call's operands, the call on them, and the view that joins the axes of its result.

    None where the rule does not apply. The last node has the name of the original.
    """
    given, signature = arguments(node), rule.signature
    if signature is None or given is None or not isinstance(node.result, Tensor) or not holds(rule, given, graph):
        return None
    shapes = {o.name: _shape(given.get(o.name), graph) for o in signature.operands if given.get(o.name) is not None}
    wholes = {o.name: (o.axes, o.joins) for o in signature.operands if o.name in shapes}
    if any(s is None or len(_all_joins(*wholes[k], len(s))) != len(s) for k, s in shapes.items()):
        return None
    tensors = {k: (*wholes[k], s) for k, s in shapes.items() if s is not None}
    tensors[""] = (signature.results[0], signature.result_joins(0), node.shape)
    sizes = _sizes(rule, given, tensors)
    cuts = {k: cut_shape(*wholes[k], s, sizes) for k, s in shapes.items() if s is not None}
    result = cut_shape(signature.results[0], signature.result_joins(0), node.shape, sizes)
    if result is None or any(c is None for c in cuts.values()):
        return None
    return _spliced(rule, node, graph, given, {k: c for k, c in cuts.items() if c and c != shapes[k]}, result)


def _shape(value: Any, graph: Graph) -> Shape | None:
    result = graph.by_name[value.name].result if isinstance(value, Ref) else None
    return result.shape if isinstance(result, Tensor) else None


def _all_joins(tokens: Tokens, joins: Joins, rank: int) -> Joins:
    """How many tokens each axis holds, `...` written out for a tensor of `rank` axes."""
    joins = joins or (1,) * len(tokens)
    many = next((t for t in tokens if t.name == "..."), None)
    return joins if many is None else _widths(tokens, joins, rank - len(joins) + 1, many)


def _pairs(tokens: Tokens, joins: Joins, shape: Shape) -> Iterator[tuple[Tokens, int]]:
    """The tokens and the size of every axis; no token for what `...` stands for."""
    widths, many = _all_joins(tokens, joins, len(shape)), len(shape) - len(joins or tokens) + 1
    rest = [x for t in tokens for x in ((None,) * many if t.name == "..." else (t,))]
    for width, n in zip(widths, shape, strict=True):
        yield tuple(t for t in rest[:width] if t is not None), n
        rest = rest[width:]


def _sizes(rule: Rule, given: Mapping[str, Any], wholes: Mapping[str, tuple[Tokens, Joins, Shape]]) -> dict[str, int]:
    """The size of every token that arguments, plain axes and joined axes with one unknown part determine."""
    sizes = {t: int(given[a]) for t, a in rule.sizes.items() if isinstance(given.get(a), int)}
    before = -1
    while before != (before := len(sizes)):
        for tokens, joins, shape in wholes.values():
            for axis, n in _pairs(tokens, joins, shape):
                unknown = [t.name for t in axis if t.name not in sizes]
                known = prod(sizes[t.name] for t in axis if t.name in sizes)
                if len(unknown) == 1 and n > 1 and known and n % known == 0:
                    sizes[unknown[0]] = n // known
    return sizes


def cut_shape(tokens: Tokens, joins: Joins, shape: Shape, sizes: Mapping[str, int]) -> Shape | None:
    """The shape of a tensor whose joined axes are cut; None where the sizes do not allow it."""
    found: list[int] = []
    for axis, n in _pairs(tokens, joins, shape):
        if len(axis) < 2:
            found.append(n)
            continue
        parts = [1] * len(axis) if n == 1 else [sizes.get(t.name, 1) for t in axis]
        if prod(parts) != n:
            return None
        found += parts
    return tuple(found)


def joined_shape(operand: Operand | tuple[Tokens, Joins], shape: Shape) -> Shape:
    """The shape that a tensor with an axis for every token has where the operator reads or returns it."""
    tokens, joins = (operand.axes, operand.joins) if isinstance(operand, Operand) else operand
    if not joins:
        return shape
    found, at = [], 0
    for width in _all_joins(tokens, joins, len(shape) - len(tokens) + len(joins)):
        found.append(prod(shape[at : at + width]))
        at += width
    return tuple(found)


def _spliced(
    rule: Rule, node: Node, graph: Graph, given: Mapping[str, Any], cuts: Mapping[str, Shape], result: Shape
) -> tuple[Node, ...] | None:
    views = {k: _view(node, f"{node.name}.{k}.cut", given[k], shape, graph) for k, shape in cuts.items()}
    kwargs = {**given, **{k: Ref(v.name) for k, v in views.items()}}
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
    read = {r: graph.by_name[r] for r in node.refs()}
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
