"""Signatures: `input[... i], weight[o i'], bias[o]? -> [... o]`.

signature := operand ("," operand)* "->" axes ("," axes)*
operand   := name axes "?"?
axes      := "[" axis* "]"
axis      := token | "(" token* ")" (several axes that the tensor holds flattened into one)
token     := name | name' (dual) | name~ (permutation part) | ... (batch) | * (pointwise) | 1 | _ (no claim)
           | _... (as many axes without a claim as the operator's name says: two for conv2d)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from symgraph.groups.lattice import Bound, SymmetryClass, down
from symgraph.rules.grammar import Cursor, GrammarError, tokenize

_TOKEN = re.compile(r"->|_?\.\.\.|[\[\](),?*]|[A-Za-z_][A-Za-z_0-9]*['~]?|1")
_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
# A tensor that is constant along an axis stays so under the maps that fix the ones vector.
FIXES_ONES: Bound = down(SymmetryClass.ORTHOGONAL_ONES, SymmetryClass.SEMI_PERMUTATION)


@dataclass(frozen=True, slots=True)
class AxisToken:
    """What a signature says about one axis: its name and its mark ("", "'" dual, "~" permutation part).

    In a `Binding` batch axes are "...0", "...1", pointwise axes "*0", "*1" (numbered from the right), axes without a
    claim "_0", "_1", broadcast axes "1", and further axes of a list argument "d.1", "d.2".
    """

    name: str
    mark: str = ""

    @property
    def batch(self) -> bool:
        """Whether this is a batch or a pointwise axis."""
        return self.name[0] in ".*"

    @property
    def axis(self) -> str:
        """The name under which `admits` classifies it."""
        if self.name[0] in "*_":
            return self.name[0]
        return "..." if self.name[0] == "." else self.name.split(".")[0]

    @property
    def claimed(self) -> bool:
        """Whether a class is stated for it."""
        return self.axis not in ("1", "_")

    def __str__(self) -> str:
        return self.name + self.mark


Tokens = tuple[AxisToken, ...]
# For each axis of a tensor how many tokens it holds; () where that is one everywhere.
Joins = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that the operator reads."""

    name: str
    axes: Tokens
    optional: bool = False
    joins: Joins = ()

    @property
    def scalar(self) -> bool:
        """Whether a number may stand for it."""
        return not self.axes or self.axes[0].name == "*"

    def __str__(self) -> str:
        return f"{self.name}[{_joined_text(self.axes, self.joins)}]{'?' if self.optional else ''}"


@dataclass(frozen=True, slots=True)
class Signature:
    """Operands and results of an operator, axis by axis."""

    operands: tuple[Operand, ...]
    results: tuple[Tokens, ...]
    joins: tuple[Joins, ...] = ()

    def __str__(self) -> str:
        results = ", ".join(
            f"[{_joined_text(result, self.result_joins(number))}]" for number, result in enumerate(self.results)
        )
        return f"{', '.join(map(str, self.operands))} -> {results}"

    @property
    def axes(self) -> tuple[str, ...]:
        """Every axis that a class may be stated for, in order of appearance."""
        tokens = [token for operand in self.operands for token in operand.axes] + [
            token for result in self.results for token in result
        ]
        return tuple(dict.fromkeys(token.axis for token in tokens if token.claimed))

    def result_joins(self, i: int) -> Joins:
        """How many tokens each axis of a result holds."""
        return self.joins[i] if self.joins else ()

    def operand(self, name: str) -> Operand | None:
        """The operand called `name`."""
        return next((operand for operand in self.operands if operand.name == name), None)


def parse(text: str) -> Signature:
    """Parses a signature.

    Raises:
        GrammarError: with the column of the first mistake.
    """
    cursor = Cursor(tokenize(text, _TOKEN), len(text))
    operands = [_operand(cursor)]
    while cursor.skip(","):
        operands.append(_operand(cursor))
    cursor.expect("->")
    results = [_axes(cursor)]
    while cursor.skip(","):
        results.append(_axes(cursor))
    if cursor.text:
        raise GrammarError(f"unexpected {cursor.text!r}", cursor.column)
    joins = tuple(joined for _, joined in results)
    signature = Signature(tuple(operands), tuple(axes for axes, _ in results), joins if any(joins) else ())
    _check(signature)
    return signature


def _check(signature: Signature) -> None:
    names = [operand.name for operand in signature.operands]
    double = next((name for name in names if names.count(name) > 1), None)
    if double:
        raise GrammarError(f"operand `{double}` appears twice")
    known = {token.axis for operand in signature.operands for token in operand.axes}
    for token in (token for result in signature.results for token in result if token.claimed):
        if token.axis not in known:
            raise GrammarError(
                f"axis `{token}` of a result is in no operand", remedy="write `_` for an axis without a claim"
            )


def _operand(cursor: Cursor) -> Operand:
    column, name = cursor.column, cursor.take()
    if not _NAME.fullmatch(name) or name == "_":
        raise GrammarError(f"expected the name of an operand, found {name or 'the end'!r}", column)
    axes, joins = _axes(cursor)
    return Operand(name, axes, cursor.skip("?"), joins)


def _axes(cursor: Cursor) -> tuple[Tokens, Joins]:
    start = cursor.column
    cursor.expect("[")
    tokens: list[AxisToken] = []
    joins: list[int] = []
    while not cursor.skip("]"):
        before = len(tokens)
        if cursor.skip("("):
            while not cursor.skip(")"):
                _append(cursor, tokens)
        else:
            _append(cursor, tokens)
        joins.append(len(tokens) - before)
    if any(token.name == "*" for token in tokens) and len(tokens) > 1:
        raise GrammarError("`*` stands for all axes and must be alone", start)
    return tuple(tokens), tuple(joins) if any(width != 1 for width in joins) else ()


def _append(cursor: Cursor, tokens: list[AxisToken]) -> None:
    column, text = cursor.column, cursor.take()
    token = _token(text, column)
    if (token.axis != "_") and any(token.name == earlier.name for earlier in tokens) and token.name != "1":
        raise GrammarError(f"axis `{token.name}` appears twice in one tensor", column)
    tokens.append(token)


def _joined_text(axes: Tokens, joins: Joins) -> str:
    words, rest = [], list(map(str, axes))
    for width in joins or (1,) * len(axes):
        words.append(f"({' '.join(rest[:width])})" if width != 1 else rest[0])
        rest = rest[width:]
    return " ".join(words)


def _token(text: str, column: int) -> AxisToken:
    if text in ("...", "*", "1", "_", "_..."):
        return AxisToken(text)
    mark = text[-1:] if text[-1:] in ("'", "~") else ""
    name = text.removesuffix(mark)
    if not _NAME.fullmatch(name) or name.startswith("_"):
        raise GrammarError(f"expected an axis or `]`, found {text or 'the end'!r}", column)
    return AxisToken(name, mark)
