"""The call at hand as a trial: its constants and flags, roles of operands, sizes shrunk to distinct small ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from symgraph.groups.lattice import maps, maximal
from symgraph.ir import Graph, Node, Ref, Tensor
from symgraph.rules.binding import Binding
from symgraph.rules.examples import applies
from symgraph.rules.joined import positions
from symgraph.rules.pattern import Pattern
from symgraph.rules.schema import Rule
from symgraph.rules.signature import AxisToken, Operand, Tokens
from symgraph.rules.trial import Drawn, Trial, filled
from symgraph.tracing.arguments import PATTERN

PRIMES = (3, 5, 7, 11, 13, 17, 19, 23)
EVEN = (6, 10, 14, 22)
SMALL, LARGEST = 8, 2**16
Sizes = Mapping[str, int]


def at_call(
    binding: Binding, node: Node, graph: Graph, whole: Rule, drawn: Mapping[str, Drawn], facts: Mapping[str, str]
) -> Iterator[list[Trial]]:
    """The trials of a call at one choice of sizes after another, smallest first; one for each spelling.

    Args:
        whole: the rule as the operator reads its operands, where the binding's has axes that these hold flattened.
        drawn: what each operand holds.
        facts: what is known of operands.
    """
    operands = tuple(
        operand for operand in (whole.signature.operands if whole.signature else ()) if operand.name in binding.operands
    )
    tokens, same, merged = _unified(binding)
    actual = _actual(tokens, binding, graph)
    given = _given(binding, actual)
    rule = binding.rule
    positive, bounded = (_named(rule, key) for key in ("positive", "bounded"))
    made = Trial(
        replace(rule, signature=whole.signature), "", operands, (tokens, _results(binding, tokens)), actual, given
    )
    made = replace(made, drawn=drawn, same=same, merged=merged, assumed=facts, positive=positive, bounded=bounded)
    for sizes in _choices(rule, tokens, actual):
        yield [replace(made, target=target, sizes=sizes) for target in _targets(node, rule)]


def _named(rule: Rule, key: str) -> tuple[str, ...]:
    """The operands that some example of a rule lists under a key."""
    return tuple(dict.fromkeys(name for example in rule.examples for name in getattr(example, key)))


def _targets(node: Node, rule: Rule) -> tuple[str | Pattern, ...]:
    if not node.target.startswith(PATTERN):
        return (node.target,)
    given = {name for name, _ in node.kwargs}
    spelled = tuple(pattern for pattern in rule.pattern if set(pattern.variables) == given)
    return spelled or (node.target.removeprefix(f"{PATTERN}{rule.rule}."),)


# -- roles -----------------------------------------------------------------------------------------------------------


def _unified(binding: Binding) -> tuple[dict[str, Tokens], dict[str, str], dict[str, tuple[str, ...]]]:
    """Tokens in which operands that are one value have one name for each axis; which those are; the axes merged."""
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    name_of: dict[str, str] = {}

    def root(name: str) -> str:
        while name in name_of:
            name = name_of[name]
        return name

    for operand, (ref, tokens) in binding.operands.items():
        if ref.name not in first:
            first[ref.name] = operand
            continue
        same[operand] = first[ref.name]
        for earlier, token in zip(binding.operands[first[ref.name]][1], tokens, strict=True):
            if root(earlier.name) != root(token.name):
                name_of[root(token.name)] = root(earlier.name)
    unified = {
        operand: tuple(AxisToken(root(token.name), token.mark) for token in tokens)
        for operand, (_, tokens) in binding.operands.items()
    }
    merged: dict[str, set[str]] = {}
    for name in name_of:
        merged.setdefault(root(name), {AxisToken(root(name)).axis}).add(AxisToken(name).axis)
    return unified, same, {name: tuple(sorted(axes)) for name, axes in merged.items()}


def _results(binding: Binding, tokens: Mapping[str, Tokens]) -> tuple[Tokens, ...]:
    renamed = {
        before.name: after.name
        for operand, (_, own) in binding.operands.items()
        for before, after in zip(own, tokens[operand], strict=True)
    }
    return tuple(
        tuple(AxisToken(renamed.get(token.name, token.name), token.mark) for token in ts) for ts in binding.results
    )


# -- sizes -----------------------------------------------------------------------------------------------------------


def _actual(tokens: Mapping[str, Tokens], binding: Binding, graph: Graph) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, (ref, _) in binding.operands.items():
        result = graph.by_name[ref.name].result
        for token, size in zip(tokens[name], result.shape if isinstance(result, Tensor) else (), strict=True):
            sizes[token.name] = max(sizes.get(token.name, 1), size)
    return sizes


def _choices(rule: Rule, tokens: Mapping[str, Tokens], actual: Sizes) -> Iterator[Sizes]:
    """Distinct primes; the sizes of an example; what is small as it is; all as they are."""
    yield _primes(rule, actual, SMALL, claimed=True)
    for example in rule.examples:
        sizes = {name: example.sizes.get(name, 0) for name in actual} | {
            token.name: example.sizes.get(f"{operand}._", 0)
            for operand, ts in tokens.items()
            for token in ts
            if token.axis == "_"
        }
        yield {
            name: _primes(rule, actual, SMALL, claimed=True)[name] if size < 2 or actual[name] == 1 else size
            for name, size in sizes.items()
        }
    yield _primes(rule, actual, 128, claimed=False)
    yield actual


def _primes(rule: Rule, actual: Sizes, small: int, *, claimed: bool) -> Sizes:
    """Another prime for every axis; what is no larger than `small` stays, or all but claimed axes do."""
    odd, even = iter(PRIMES), iter(EVEN)
    sizes = {}
    for name, size in actual.items():
        token = AxisToken(name)
        if size == 1 or (size <= small and not (claimed and token.claimed)):
            sizes[name] = size
        else:
            sizes[name] = next(even, 26) if _in_pairs(rule, token) else next(odd, 29)
    return sizes


def _in_pairs(rule: Rule, token: AxisToken) -> bool:
    if not token.claimed or token.axis not in rule.admits:
        return False
    return any(maps(symmetry_class).paired for symmetry_class in maximal(rule.admits[token.axis]))


# -- constants -------------------------------------------------------------------------------------------------------


def _given(binding: Binding, actual: Sizes) -> dict[str, Any]:
    """The further arguments of the call; a size of an axis by the name that the rule has for it, where it is that."""
    rule = binding.rule
    given: dict[str, Any] = {}
    for name, value in binding.arguments.items():
        if name not in binding.operands and not (isinstance(value, Ref)):
            given[name] = _symbolic(rule, name, value, actual)
    given |= {argument: token for token, argument in rule.sizes.items() if actual.get(token) == given.get(argument)}
    return given


def _symbolic(rule: Rule, name: str, value: Any, actual: Sizes) -> Any:
    plain = list(value) if isinstance(value, tuple) else value
    many = max((positions(op) or 1 for op in rule.ops), default=1)
    for example in rule.examples:
        symbol = example.args.get(name)
        if _names_an_axis(symbol, actual) and filled(symbol, actual, many) == plain:
            return symbol
    return plain


def _names_an_axis(symbol: Any, actual: Sizes) -> bool:
    if isinstance(symbol, list | tuple):
        return any(_names_an_axis(part, actual) for part in symbol)
    return isinstance(symbol, str) and symbol in actual


def runs(trial: Trial) -> bool:
    """Whether a trial is small enough, meets the rule's condition and gives what the signature says."""
    entries = max((_entries(trial, operand) for operand in trial.operands), default=0)
    return entries <= LARGEST and applies(trial) and trial.fits


def _entries(trial: Trial, operand: Operand) -> int:
    count = 1
    for token in trial.tokens[0][operand.name]:
        count *= trial.sizes[token.name]
    return count
