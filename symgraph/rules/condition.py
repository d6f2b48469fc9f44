"""The `when:` of a rule: a condition on the operator's arguments in a closed grammar, never evaluated as Python.

condition := comparison | not condition | condition and condition | condition or condition
comparison := value (== | != | < | <= | > | >=) value
value := number | "string" | true | false | none | argument | len(x) | rank(x) | size(x, k) | [value, ...]
       | value (+ | - | * | / | //) value | (value)
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from symgraph.ir import DType, Tensor
from symgraph.rules.grammar import Cursor, GrammarError, tokenize

_TOKEN = re.compile(
    r"==|!=|<=|>=|//|[<>()\[\],+*/-]|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\"[^\"\n]*\"|[A-Za-z_][A-Za-z_0-9]*"
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
}
_FUNCTIONS = {"len": 1, "rank": 1, "size": 2}
_CONSTANTS = {"true": True, "false": False, "none": None}
_RESERVED = {"and", "or", "not", *_FUNCTIONS, *_CONSTANTS}
_PRECEDENCE = {"or": 1, "and": 2, "not": 3, **dict.fromkeys(_COMPARE, 4), "+": 5, "-": 5, "*": 6, "/": 6, "//": 6}
MAX_DEPTH = 30


class _Unknown(Exception):
    """The condition speaks about something these arguments do not have."""


@dataclass(frozen=True, slots=True)
class Term:
    """A node of the tree: `kind` is an operator, a function, "list", "name" or "constant"."""

    kind: str
    items: tuple[Term, ...] = ()
    value: Any = None

    def __str__(self) -> str:
        return _show(self, 0)


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition; its text is canonical: parsing it gives the same condition."""

    tree: Term

    def __str__(self) -> str:
        return str(self.tree)

    @property
    def names(self) -> frozenset[str]:
        """The arguments that the condition reads."""
        return frozenset(term.value for term in _walk(self.tree) if term.kind == "name")

    def evaluate(self, arguments: Mapping[str, Any]) -> bool:
        """Whether the condition holds; False when it cannot be decided from these arguments."""
        try:
            return bool(_value(self.tree, arguments))
        except (_Unknown, TypeError, ValueError, ArithmeticError, IndexError):
            return False


def parse(text: str) -> Condition:
    """Parses the text of a condition.

    Raises:
        GrammarError: with the column of the first mistake.
    """
    cursor = Cursor(tokenize(text, _TOKEN), len(text))
    tree = _binary(cursor, 1, 0)
    if cursor.text:
        raise GrammarError(f"unexpected {cursor.text!r}", cursor.column)
    return Condition(tree)


def _binary(cursor: Cursor, level: int, depth: int) -> Term:
    if depth > MAX_DEPTH:
        raise GrammarError("nested too deeply", cursor.column)
    if level > 6:
        return _atom(cursor, depth)
    if level == 3:
        if cursor.skip("not"):
            return Term("not", (_binary(cursor, 3, depth + 1),))
        return _binary(cursor, 4, depth)
    left, count = _binary(cursor, level + 1, depth), 0
    while _PRECEDENCE.get(cursor.text) == level:
        kind = cursor.take()
        count += 1
        if count > MAX_DEPTH:
            raise GrammarError(f"more than {MAX_DEPTH} of `{kind}` in a row", cursor.column)
        left = Term(kind, (left, _binary(cursor, level + 1, depth)))
        if level == 4:
            break
    return left


def _atom(cursor: Cursor, depth: int) -> Term:
    column, text = cursor.column, cursor.take()
    if text == "(":
        inner = _binary(cursor, 1, depth + 1)
        cursor.expect(")")
        return inner
    if text == "[":
        return Term("list", _items(cursor, "]", depth))
    if text == "-":
        return _negated(_atom(cursor, depth + 1), column)
    if text[:1].isdigit():
        return Term("constant", value=int(text) if text.isdigit() else float(text))
    if text[:1] == '"':
        return Term("constant", value=text[1:-1])
    if text in _CONSTANTS:
        return Term("constant", value=_CONSTANTS[text])
    if text in _FUNCTIONS:
        return _function(cursor, text, column, depth)
    if text and text not in _RESERVED and (text[0].isalpha() or text[0] == "_"):
        return Term("name", value=text)
    raise GrammarError(f"expected a value, found {text or 'the end'!r}", column)


def _negated(inner: Term, column: int) -> Term:
    if inner.kind == "constant" and isinstance(inner.value, int | float) and not isinstance(inner.value, bool):
        return Term("constant", value=-inner.value)
    if inner.kind in ("name", "len", "rank", "size"):
        return Term("-", (Term("constant", value=0), inner))
    raise GrammarError("only a number or an argument can be negated", column)


def _items(cursor: Cursor, close: str, depth: int) -> tuple[Term, ...]:
    items: list[Term] = []
    cursor.many(lambda: items.append(_binary(cursor, 1, depth + 1)), ",", close)
    return tuple(items)


def _function(cursor: Cursor, name: str, column: int, depth: int) -> Term:
    cursor.expect("(")
    items = _items(cursor, ")", depth)
    if len(items) != _FUNCTIONS[name]:
        raise GrammarError(f"{name} takes {_FUNCTIONS[name]} values, found {len(items)}", column)
    return Term(name, items)


def _walk(term: Term) -> Iterator[Term]:
    yield term
    for item in term.items:
        yield from _walk(item)


def _show(term: Term, outer: int) -> str:
    if term.kind == "constant":
        return _constant(term.value)
    if term.kind == "name":
        return str(term.value)
    if term.kind == "list" or term.kind in _FUNCTIONS:
        inner = ", ".join(_show(item, 0) for item in term.items)
        return f"[{inner}]" if term.kind == "list" else f"{term.kind}({inner})"
    level = _PRECEDENCE[term.kind]
    if term.kind == "not":
        text = f"not {_show(term.items[0], 3)}"
    else:
        left, right = _show(term.items[0], level + (level == 4)), _show(term.items[1], level + 1)
        text = f"{left} {term.kind} {right}"
    return f"({text})" if level < outer else text


def _constant(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def _value(term: Term, arguments: Mapping[str, Any]) -> Any:
    kind, items = term.kind, term.items
    if kind == "constant":
        return term.value
    if kind == "name":
        return _plain(arguments, term.value)
    if kind == "not":
        return not _value(items[0], arguments)
    if kind == "and":
        return _value(items[0], arguments) and _value(items[1], arguments)
    if kind == "or":
        return _value(items[0], arguments) or _value(items[1], arguments)
    values = [_value(item, arguments) for item in items]
    if kind == "list":
        return values
    if kind in _COMPARE:
        return _COMPARE[kind](*values)
    if kind in _ARITHMETIC:
        return _ARITHMETIC[kind](*map(_number, values))
    return _measure(kind, values)


def _number(value: Any) -> int | float:
    if not isinstance(value, int | float):
        raise TypeError("only numbers are added and multiplied")
    return value


def _plain(arguments: Mapping[str, Any], name: str) -> Any:
    if name not in arguments:
        raise _Unknown(name)
    value = arguments[name]
    if isinstance(value, tuple):
        return list(value)
    return value.name if isinstance(value, DType) else value


def _measure(kind: str, values: list[Any]) -> Any:
    measured = values[0]
    if kind == "len":
        return len(measured)
    if kind == "rank":
        return len(measured.shape) if isinstance(measured, Tensor) else _scalar_rank(measured)
    if not isinstance(measured, Tensor):
        raise _Unknown(kind)
    return measured.shape[values[1]]


def _scalar_rank(value: Any) -> int:
    if isinstance(value, int | float):
        return 0
    raise _Unknown("rank")
