"""The text of a pattern as a tree: Python's expression syntax, parsed with `ast` and never evaluated."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from symgraph.rules.allowed import too_large, why_not_named
from symgraph.rules.grammar import MAX_TEXT, GrammarError

END = 2**63 - 1
MAX_DEPTH = 40
_INFIX: dict[type, str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.Pow: "pow",
    ast.MatMult: "matmul",
}


@dataclass(frozen=True, slots=True)
class Term:
    """A node of a pattern: kind is "var", "any", "constant", "list" or "call" (then `value` is the operator)."""

    kind: str
    value: Any = None
    items: tuple[Term, ...] = ()
    keywords: tuple[tuple[str, Term], ...] = ()

    def __str__(self) -> str:
        if self.kind == "any":
            return "_"
        if self.kind == "constant":
            return "inf" if self.value == END else repr(self.value)
        if self.kind == "var":
            return str(self.value)
        inner = ", ".join([*map(str, self.items), *(f"{name}={value}" for name, value in self.keywords)])
        return f"[{inner}]" if self.kind == "list" else f"{self.value}({inner})"

    def walk(self) -> Iterator[Term]:
        """This term and all inside it."""
        yield self
        for item in (*self.items, *(value for _, value in self.keywords)):
            yield from item.walk()


def parse_term(text: str) -> Term:
    """Parses an expression.

    Raises:
        GrammarError: with the column of the first mistake.
    """
    if len(text) > MAX_TEXT:
        raise GrammarError(f"longer than {MAX_TEXT} characters", remedy="split it into two rules")
    stripped = " ".join(text.split())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(stripped, mode="eval").body
    except SyntaxError as error:
        raise GrammarError(error.msg, max((error.offset or 1) - 1, 0)) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise GrammarError(str(error) or "nested too deeply") from None
    term = _term(tree, 0)
    if term.kind != "call":
        raise GrammarError("a pattern is an operator applied to something")
    return term


def _term(node: ast.expr, depth: int) -> Term:
    if depth > MAX_DEPTH:
        raise GrammarError("nested too deeply", node.col_offset)
    if isinstance(node, ast.Name):
        return _name(node)
    if isinstance(node, ast.Constant):
        return _constant(node)
    if isinstance(node, ast.List):
        items = tuple(_term(element, depth + 1) for element in node.elts)
        if too_large([item.value for item in items if item.kind == "constant"]):
            raise GrammarError("a list of numbers that large", node.col_offset)
        return Term("list", items=items)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _term(node.operand, depth + 1)
        if inner.kind == "constant" and not isinstance(inner.value, bool | str | None):
            return Term("constant", -inner.value)
        return Term("call", "neg", (inner,))
    if isinstance(node, ast.BinOp) and type(node.op) in _INFIX:
        items = (_term(node.left, depth + 1), _term(node.right, depth + 1))
        return Term("call", _INFIX[type(node.op)], items)
    if isinstance(node, ast.Call):
        return _application(node, depth)
    raise GrammarError("only operators, variables, lists and constants can be matched", node.col_offset)


def _name(node: ast.Name) -> Term:
    if node.id == "_":
        return Term("any")
    if node.id == "inf":
        return Term("constant", END)
    if not node.id.isascii() or node.id != node.id.lower() or node.id.startswith("_"):
        raise GrammarError(f"`{node.id}` is no variable", node.col_offset, remedy="variables are lower-case words")
    return Term("var", node.id)


def _constant(node: ast.Constant) -> Term:
    if too_large(node.value):
        raise GrammarError(f"{node.value!r} is larger than a check needs", node.col_offset)
    if node.value is None or isinstance(node.value, bool | int | float | str):
        return Term("constant", node.value)
    raise GrammarError(f"{node.value!r} cannot be matched", node.col_offset)


def _application(node: ast.Call, depth: int) -> Term:
    if not isinstance(node.func, ast.Name):
        raise GrammarError("expected the name of an ATen operator", node.col_offset)
    name = node.func.id
    if not name.isascii() or name.startswith("__") or not hasattr(torch.ops.aten, name):
        raise GrammarError(f"torch has no operator `aten.{name}`", node.col_offset)
    if reason := why_not_named(name):
        remedy = "patterns are made of operators that return tensors and do nothing else"
        raise GrammarError(reason, node.col_offset, remedy=remedy)
    if any(isinstance(argument, ast.Starred) for argument in node.args) or any(
        keyword.arg is None for keyword in node.keywords
    ):
        raise GrammarError("arguments cannot be spread", node.col_offset)
    items = tuple(_term(argument, depth + 1) for argument in node.args)
    keywords = tuple((str(keyword.arg), _term(keyword.value, depth + 1)) for keyword in node.keywords)
    if any(name == "out" for name, _ in keywords):
        raise GrammarError("`out` writes to an operand", node.col_offset)
    if len({name for name, _ in keywords}) < len(keywords):
        raise GrammarError("an argument is given twice", node.col_offset)
    return Term("call", name, items, keywords)
