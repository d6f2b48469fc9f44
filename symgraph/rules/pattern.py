"""Patterns: idioms of several operators, written as expressions and matched against the graph.

    x * rsqrt(mean(x ** 2, [-1], True) + eps)

Function names are ATen operators (any overload), lower-case names are variables (the same name is the same value), `_`
matches anything, `inf` the end of an axis. `+`, `*` and the two axes of a transpose match in either order; casts
between floating dtypes, copies and dropout in evaluation are looked through. The text is parsed with
`ast`, never evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from symgraph.errors import RuleError
from symgraph.ir import Graph, Kind, Node, Ref, Tensor
from symgraph.rules.allowed import MOST_ENTRIES
from symgraph.rules.expression import END, Term, parse_term
from symgraph.tracing.arguments import arguments, parameters
from symgraph.tracing.operators import is_wide

_COMMUTE = {"add": (0, 1), "mul": (0, 1), "transpose": (1, 2)}
_DIMS = {"dim", "dim0", "dim1", "start_dim", "end_dim"}
_CASTS = {"to", "_to_copy", "contiguous", "clone", "alias", "detach", "dropout", "type_as"}
_NEW_RANK = {"cat", "stack", "unsqueeze"}

Bindings = dict[str, Any]


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern; `text` is what the author wrote, `str()` its canonical form."""

    tree: Term
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        return str(self.tree)

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """Its variables in order of appearance."""
        return tuple(dict.fromkeys(term.value for term in self.tree.walk() if term.kind == "var"))

    @cached_property
    def size(self) -> int:
        """How many operators it spans."""
        return sum(term.kind == "call" for term in self.tree.walk())

    @property
    def root(self) -> str:
        """The operator that produces its value."""
        return str(self.tree.value)

    def match(self, graph: Graph, root: Node) -> Bindings | None:
        """The values of the variables if the pattern describes `root`, else None."""
        if root.kind is not Kind.CALL or base(root) != self.root:
            return None
        return next(_call(self.tree, root, {}, graph), None)

    def evaluate(self, bindings: Mapping[str, Any]) -> Any:
        """Runs the pattern on tensors through `torch.ops.aten`."""
        return _evaluate(self.tree, bindings)


def parse(text: str) -> Pattern:
    """Parses a pattern.

    Raises:
        GrammarError: with the column of the first mistake.
    """
    return Pattern(parse_term(text), " ".join(text.split()))


# -- matching --------------------------------------------------------------------------------------------------------


def base(node: Node) -> str:
    """`linear` for a node of `aten.linear.default`; the whole target for other nodes."""
    parts = node.target.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "aten" else node.target


def _match(term: Term, value: Any, bindings: Bindings, graph: Graph) -> Iterator[Bindings]:
    if term.kind == "any":
        yield bindings
    elif term.kind == "var":
        yield from _variable(term.value, value, bindings, graph)
    elif term.kind == "constant":
        if not isinstance(value, Ref) and _equal(term.value, value):
            yield bindings
    elif term.kind == "list":
        if isinstance(value, list | tuple) and len(value) == len(term.items):
            yield from _all(tuple(zip(term.items, value, strict=True)), bindings, graph)
    elif isinstance(value, Ref):
        node = _through(graph.by_name[value.name], term.value, graph)
        if node is not None:
            yield from _call(term, node, bindings, graph)


def _variable(name: str, value: Any, bindings: Bindings, graph: Graph) -> Iterator[Bindings]:
    if name not in bindings:
        yield {**bindings, name: value}
    elif isinstance(value, Ref) and isinstance(bindings[name], Ref):
        if _source(value, graph) == _source(bindings[name], graph):
            yield bindings
    elif not isinstance(value, Ref) and not isinstance(bindings[name], Ref) and bindings[name] == value:
        yield bindings


def _equal(expected: Any, value: Any) -> bool:
    if expected == END:
        return value is None or (isinstance(value, int) and value >= END // 2)
    return bool(expected == value)


def _all(pairs: tuple[tuple[Term, Any], ...], bindings: Bindings, graph: Graph) -> Iterator[Bindings]:
    if not pairs:
        yield bindings
        return
    for bound in _match(*pairs[0], bindings, graph):
        yield from _all(pairs[1:], bound, graph)


def _call(term: Term, node: Node, bindings: Bindings, graph: Graph) -> Iterator[Bindings]:
    given, schema = arguments(node), parameters(node.target)
    if given is None or schema is None or len(term.items) > len(schema):
        return
    names = [argument.name for argument in schema]
    wanted = dict(zip(names, term.items, strict=False)) | dict(term.keywords)
    if not set(wanted) <= set(names):
        return
    if any(
        argument.name not in wanted and (argument.required or _tuple(given[argument.name]) != _tuple(argument.default))
        for argument in schema
    ):
        return
    rank = _rank(node, given, graph)
    for order in _orders(term, names):
        pairs = [(term, _positive(order.get(name, name), term, given, rank)) for name, term in wanted.items()]
        pairs.sort(key=lambda pair: pair[0].kind == "var")
        yield from _all(tuple(pairs), bindings, graph)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _orders(term: Term, names: list[str]) -> Iterator[dict[str, str]]:
    yield {}
    pair = _COMMUTE.get(term.value)
    if pair and len(term.items) > pair[1]:
        one, other = names[pair[0]], names[pair[1]]
        yield {one: other, other: one}


def _positive(name: str, term: Term, given: Mapping[str, Any], rank: int) -> Any:
    """An argument; positions of axes in the sign that the pattern writes them in."""
    value = given[name]
    if name not in _DIMS or not rank:
        return value
    if term.kind == "list" and isinstance(value, list | tuple) and len(value) == len(term.items):
        return [_signed(item, part, rank) for item, part in zip(term.items, value, strict=True)]
    return _signed(term, value, rank)


def _signed(term: Term, value: Any, rank: int) -> Any:
    if term.kind != "constant" or not isinstance(term.value, int) or not isinstance(value, int):
        return value
    return value % rank - (rank if term.value < 0 else 0)


def _rank(node: Node, given: Mapping[str, Any], graph: Graph) -> int:
    first = given.get("self")
    result = graph.by_name[first.name].result if isinstance(first, Ref) else None
    if isinstance(result, Tensor) and base(node) not in _NEW_RANK:
        return len(result.shape)
    return len(node.shape)


def _through(node: Node, op: str, graph: Graph) -> Node | None:
    """The node of operator `op` that `node` is, or that it casts or copies."""
    while base(node) != op:
        if not _is_cast(node, graph):
            return None
        node = graph.by_name[node.args[0].name]
    return node


def _source(ref: Ref, graph: Graph) -> str:
    node = graph.by_name[ref.name]
    while _is_cast(node, graph):
        node = graph.by_name[node.args[0].name]
    return node.name


def _is_cast(node: Node, graph: Graph) -> bool:
    casts = node.kind is Kind.CALL and base(node) in _CASTS
    if not casts or not node.args or not isinstance(node.args[0], Ref):
        return False
    if base(node) == "dropout" and (arguments(node) or {}).get("train", True):
        return False
    source, result = graph.by_name[node.args[0].name].result, node.result
    return isinstance(source, Tensor) and isinstance(result, Tensor) and _is_wide(source) and _is_wide(result)


def _is_wide(tensor: Tensor) -> bool:
    return is_wide(getattr(torch, tensor.dtype))


# -- evaluation ------------------------------------------------------------------------------------------------------


def _evaluate(term: Term, bindings: Mapping[str, Any]) -> Any:
    if term.kind == "constant":
        return term.value
    if term.kind == "var":
        return bindings[term.value]
    if term.kind == "list":
        return [_evaluate(item, bindings) for item in term.items]
    if term.kind == "any":
        raise RuleError("`_` in the middle of a pattern has no value", remedy="put it last, or name the argument")
    items = list(term.items)
    while items and items[-1].kind == "any":
        items.pop()
    values = [_evaluate(item, bindings) for item in items]
    keywords = {name: _evaluate(term, bindings) for name, term in term.keywords if term.kind != "any"}
    result = getattr(torch.ops.aten, term.value)(*values, **keywords)
    if isinstance(result, torch.Tensor) and result.numel() > MOST_ENTRIES:
        raise ValueError(f"{term} has more than {MOST_ENTRIES} entries")
    return result
