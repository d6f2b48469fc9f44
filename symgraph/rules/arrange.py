"""The tokens of a signature laid out over operands of given ranks: `[... d]` on three axes is `...1 ...0 d`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from symgraph.rules.schema import Rule
from symgraph.rules.signature import AxisToken, Tokens

Arrangement = tuple[dict[str, Tokens], tuple[Tokens, ...]]


def arrange(rule: Rule, arguments: Mapping[str, Any], ranks: Mapping[str, int]) -> Arrangement | None:
    """Tokens for every axis of operands of the given ranks, or None where the ranks do not fit the signature."""
    signature, unclaimed = rule.signature, count()
    if signature is None:
        return None
    operands: dict[str, Tokens] = {}
    lead: dict[str, int] = {"...": 0, "*": 0, **({rule.reduces: 0} if rule.reduces else {})}
    for operand in signature.operands:
        if operand.name not in ranks:
            continue
        axes = _placed(rule, operand.axes, arguments, ranks[operand.name], unclaimed)
        if axes is None:
            return None
        operands[operand.name] = axes
        for kind in lead:
            lead[kind] = max(lead[kind], sum(token.axis == kind for token in axes))
    results = []
    for tokens in signature.results:
        axes = _result(rule, tokens, arguments, lead, unclaimed)
        if axes is None:
            return None
        results.append(axes)
    return operands, tuple(results)


def _dims(rule: Rule, axis: str, arguments: Mapping[str, Any], rank: int) -> list[int] | None:
    """Positions of a moved axis in a tensor of `rank` axes, or None if they do not fit."""
    given = arguments.get(rule.at[axis])
    dims: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    if dims in ([], [None]):
        dims = list(range(rank))
    if not dims or not all(isinstance(dim, int) and -rank <= dim < rank for dim in dims):
        return None
    return sorted(int(dim) % rank for dim in dims)


def _placed(
    rule: Rule, tokens: Tokens, arguments: Mapping[str, Any], rank: int, unclaimed: Iterator[int]
) -> Tokens | None:
    moved = [token for token in tokens if token.name in rule.at]
    # What has one axis alone is a list of positions, wherever those are in the others.
    if not moved or len(tokens) == 1:
        return _spread(tokens, rank, unclaimed)
    dims = _dims(rule, moved[0].name, arguments, rank)
    if dims is None:
        return None
    rest = _spread(tuple(token for token in tokens if token != moved[0]), rank - len(dims), unclaimed)
    token = AxisToken(f"_{next(unclaimed)}") if moved[0].name == "_" else moved[0]
    return None if rest is None else _insert(rest, dims, token)


def _insert(rest: Tokens, dims: list[int], token: AxisToken) -> Tokens:
    axes = list(rest)
    for place, dim in enumerate(dims):
        name = token.name if place == 0 or token.name == "1" else f"{token.name}.{place}"
        axes.insert(dim, AxisToken(name, token.mark))
    return tuple(axes)


def _result(
    rule: Rule, tokens: Tokens, arguments: Mapping[str, Any], lead: dict[str, int], unclaimed: Iterator[int]
) -> Tokens | None:
    if rule.reduces is None:
        moved = [token for token in tokens if token.name in rule.at]
        given = arguments.get(rule.at[moved[0].name]) if moved else None
        extra = len(given) - 1 if isinstance(given, list | tuple) else 0
        return _placed(rule, tokens, arguments, _rank(tokens, lead) + extra, unclaimed)
    rest = _spread(tokens, _rank(tokens, lead), unclaimed)
    if rest is None or not arguments.get("keepdim"):
        return rest
    rank = len(rest) + lead[rule.reduces]
    dims = _dims(rule, rule.reduces, arguments, rank) if rule.reduces in rule.at else [len(rest)]
    return None if dims is None else _insert(rest, dims, AxisToken("1"))


def _rank(tokens: Tokens, lead: dict[str, int]) -> int:
    return sum(lead.get(token.name, 1) for token in tokens)


def _spread(tokens: Tokens, rank: int, unclaimed: Iterator[int]) -> Tokens | None:
    """`...`, `*` and `_` written out for a tensor of `rank` axes."""
    many = next((token.name for token in tokens if token.name in ("...", "*")), "")
    free = rank - len(tokens) + bool(many)
    if free < 0 or (free and not many):
        return None
    axes: list[AxisToken] = []
    for token in tokens:
        if token.name == many:
            axes += [AxisToken(f"{many}{free - 1 - number}") for number in range(free)]
        else:
            axes.append(AxisToken(f"_{next(unclaimed)}") if token.name == "_" else token)
    return tuple(axes)
