"""A rule for an operator, measured: its signature from how it can be called, its classes from what it commutes with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from symgraph.errors import RuleError
from symgraph.groups.lattice import RIGID
from symgraph.ir import Graph, Node, Ref, Tensor
from symgraph.rules import condition
from symgraph.rules.allowed import why_not
from symgraph.rules.climb import BATCH, measured, runs
from symgraph.rules.probing import NO_NAME, POSITIONS, Call, Layout, calls, layout, needs
from symgraph.rules.schema import Admits, Example, Rule
from symgraph.rules.signature import AxisToken, Operand, Signature
from symgraph.rules.verdict import NAMES, is_name
from symgraph.tracing.arguments import arguments, operator, parameters
from symgraph.tracing.operators import short_name

SMALLEST = 3
SOURCE = "measured: random operands and random elements of every class, in float64"


@dataclass(frozen=True, slots=True)
class Use:
    """How an operator is used: its arguments that are no tensors, how many axes each tensor has, and what it holds.

    Where nothing is said of the tensors, all ways of calling the operator with few axes are tried.
    """

    given: Mapping[str, Any]
    ranks: Mapping[str, int] | None = None
    kinds: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """A layout without the axes that it repeats its work along: `batch` are the operands that have these.

    With `total` they are added up, or the like, and no result has them.
    """

    layout: Layout
    batch: frozenset[str] = frozenset()
    total: bool = False


def new_rule(target: str, use: Use | None = None, *, name: str = "") -> Rule:
    """A sound and tight rule for an operator.

    Args:
        target: the operator, as `aten.lgamma.default`.
        use: how it is called; the rule holds for these arguments, where it does not for others.
        name: what the rule is called (default: after the operator).

    Raises:
        RuleError: a rule cannot speak about the operator, or it does not run on anything that was tried.
    """
    _require_allowed(target)
    if name and not is_name(name):
        raise RuleError(f"no rule can be called {name!r}", remedy=NAMES)
    use = use or Use({})
    with torch.no_grad():
        shapes = [_without_batch(made) for made in calls(target, use.given, use.ranks, use.kinds)]
        called = name or short_name(target).replace("_", "-").lower()
        for shape in sorted([*shapes, *_total(shapes)], key=_worth, reverse=True):
            rule = _first(_with_optional(shape) if use.ranks is None else shape, called)
            if runs(rule):
                return measured(rule, use.given)
    raise RuleError(
        f"no rule about `{target}` was found", remedy="write one by hand, as `symgraph rules show linear` is"
    )


def _require_allowed(target: str) -> None:
    overload = operator(target)
    reason = "torch has no such operator" if overload is None else why_not(target, overload)
    if reason:
        remedy = "rules are about operators that return tensors and do nothing else"
        raise RuleError(f"there can be no rule about `{target}`", cause=reason, remedy=remedy)


def used(target: str, graph: Graph) -> Use | None:
    """How a graph calls an operator, where it does: the call with the most axes."""
    uses = [_use(node, graph) for node in graph.calls if node.target == target]
    return max(uses, key=lambda use: sum((use.ranks or {}).values()), default=None)


def _use(node: Node, graph: Graph) -> Use:
    given = arguments(node) or {}
    tensors = {name: graph.by_name[value.name].result for name, value in given.items() if isinstance(value, Ref)}
    shaped = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    kinds = {
        name: kind for name, tensor in shaped.items() if (kind := tensor.dtype.rstrip("0123456789")) in ("int", "bool")
    }
    defaults = {argument.name: argument.default for argument in parameters(node.target) or ()}
    others = {
        name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if name not in tensors
    }
    plain = {
        name: value
        for name, value in others.items()
        if value != defaults.get(name) and isinstance(value, int | float | str | list)
    }
    return Use(
        {name: _last(name, value) for name, value in plain.items()},
        {name: len(value.shape) for name, value in shaped.items()},
        kinds,
    )


def _last(name: str, value: Any) -> Any:
    """The position of an axis: the rule is measured along the last one, wherever the call has it."""
    if name not in POSITIONS:
        return value
    return [-1] if isinstance(value, list) else -1


# -- the signature -----------------------------------------------------------------------------------------------------


def _without_batch(layout: Layout) -> Shape:
    """The layout without leading axes along which the operator does the same again and again."""
    batch: frozenset[str] = frozenset()
    while (shorter := _shorter(layout, batch)) is not None:
        layout, batch = shorter
    return Shape(layout, batch)


def _worth(shape: Shape) -> tuple[int, ...]:
    """How much a shape says: the most axes, none of which only repeats the work along others."""
    made = shape.layout
    repeated = bool(shape.batch) and _shorter(made, frozenset()) is not None
    first = next(iter(made.operands), "") in shape.batch
    axes = sum(made.call.ranks.values())
    return shape.total, not repeated, len(made.names), len(shape.batch), first, -axes


def _total(shapes: Sequence[Shape]) -> Iterator[Shape]:
    """Where operands of any number of axes make one number, what is true of all axes alike."""
    alike = [shape.layout for shape in shapes if len(set(shape.layout.operands.values())) == 1 and not shape.batch]
    numbers = [made for made in alike if made.names and not any(made.results)]
    if len(numbers) > 1 and len(numbers) == len([made for made in alike if made.names]):
        least = min(numbers, key=lambda made: len(made.names))
        operands = dict.fromkeys(least.operands, ())
        yield Shape(replace(least, operands=operands, sizes={}), frozenset(operands), total=True)


def _shorter(found: Layout, batch: frozenset[str]) -> tuple[Layout, frozenset[str]] | None:
    """The layout without its first axis, where the operator takes any number of such."""
    first = next((names[0] for names in found.results if names), "_")
    holding = frozenset(name for name, names in found.operands.items() if names[:1] == (first,))
    if first == "_" or first == along(found) or not holding or (batch and batch != holding):
        return None
    if not all(names[:1] == (first,) for names in found.results) or _last_of_numbers(found, holding):
        return None
    shorter, longer = (layout(_ranked(found.call, holding, by)) for by in (-1, 1))
    if shorter is None or longer is None:
        return None
    same = _pattern(shorter) == _pattern(found, holding) and _pattern(found) == _pattern(longer, holding)
    return (shorter, holding) if same else None


def _last_of_numbers(layout: Layout, holding: frozenset[str]) -> bool:
    """Whether tensors of numbers would be left without axes: what is done along the last one may be another thing."""
    return any(len(layout.operands[name]) == 1 and name not in layout.call.kinds for name in holding)


def _pattern(layout: Layout, holding: frozenset[str] | None = None) -> list[list[int]]:
    """Which axes are one, whatever their names, without the first axis of results and of operands that hold it."""
    held = [names[1:] if holding and name in holding else names for name, names in layout.operands.items()]
    held += [names[1:] if holding else names for names in layout.results]
    order = list(dict.fromkeys(name for names in held for name in names))
    return [[order.index(name) for name in names] for names in held]


def _ranked(call: Call, operands: frozenset[str], by: int) -> Call:
    ranks = {name: rank + by * (name in operands) for name, rank in call.ranks.items()}
    return replace(call, ranks=ranks)


def along(layout: Layout) -> str:
    """The axis whose position an argument of the operator gives: the last of the first operand; '' without such."""
    if not any(position in layout.call.given for position in POSITIONS):
        return ""
    return next((names[-1] for names in layout.operands.values() if names), "")


def _with_optional(shape: Shape) -> Shape:
    """The shape with those operands besides that change the result, each at the fewest axes."""
    for argument in parameters(shape.layout.call.target) or ():
        if argument.tensor and not needs(argument):
            shape = next(_with_operand(shape, argument.name), shape)
    return shape


def _with_operand(shape: Shape, name: str) -> Iterator[Shape]:
    own = shape.layout.call
    for rank in range(1, max([*own.ranks.values(), 1]) + 1):
        made = layout(replace(own, ranks={**own.ranks, name: rank}))
        known = made is not None and set(made.names) == set(shape.layout.names)
        if made is not None and known and made.results == shape.layout.results and _matters(made, name):
            yield replace(shape, layout=made)


def _matters(made: Layout, name: str) -> bool:
    """Whether an operand changes the result."""
    ranks = {operand: rank for operand, rank in made.call.ranks.items() if operand != name}
    whole, without = made.call.run({}), replace(made.call, ranks=ranks).run({})
    return whole is not None and without is not None and not all(map(torch.equal, whole, without))


def _first(shape: Shape, name: str) -> Rule:
    """The rule with nothing claimed yet."""
    made = shape.layout
    target, axis = made.call.target, along(made)
    optional = {argument.name for argument in parameters(target) or () if not needs(argument)}
    lead = (AxisToken(BATCH),)
    operands = tuple(
        Operand(name, (*(lead if name in shape.batch else ()), *map(AxisToken, names)), name in optional)
        for name, names in made.operands.items()
    )
    behind = () if shape.total or not shape.batch else lead
    signature = Signature(operands, tuple((*behind, *map(AxisToken, names)) for names in made.results))
    position = next((position for position in POSITIONS if position in made.call.given), "")
    fewer = all(len(names) < max(map(len, made.operands.values())) for names in made.results)
    moved = (axis, *([NO_NAME] if any(NO_NAME in names for names in made.results) and not fewer else []))
    rule = Rule(
        name,
        about(target),
        SOURCE,
        (target,),
        signature=signature,
        admits=Admits(dict.fromkeys(signature.axes, RIGID)),
        at=dict.fromkeys(moved, position) if axis else {},
        reduces=axis if axis and fewer else None,
        examples=_examples(made, [operand.name for operand in operands if operand.optional], position),
    )
    return rule if runs(rule) else _at_its_place(_sized(rule, made.sizes), position)


def _sized(rule: Rule, sizes: Mapping[str, int]) -> Rule:
    """The rule with sizes in its examples at which the operator runs, as small as it lets them be."""
    order = sorted(sizes, key=lambda name: sizes[name])
    small = _with_sizes(rule, {name: SMALLEST + order.index(name) for name in sizes})
    return small if runs(small) else _with_sizes(rule, sizes)


def _with_sizes(rule: Rule, sizes: Mapping[str, int]) -> Rule:
    return replace(rule, examples=tuple(replace(example, sizes=dict(sizes)) for example in rule.examples))


def _at_its_place(rule: Rule, position: str) -> Rule:
    """The rule for the last axis alone, where it does not run along another one."""
    if runs(rule) or not position:
        return rule
    first = rule.examples[0].args[position]
    kept = tuple(example for example in rule.examples if example.args.get(position) == first)
    return replace(rule, at={}, examples=kept, when=condition.parse(f"{position} == {first}"))


def _examples(made: Layout, optional: Sequence[str], position: str) -> tuple[Example, ...]:
    call, sizes = made.call, {name: made.sizes[name] for name in made.fixed}
    limit = next(iter(made.names), "")
    integers = {name: limit for name, kind in call.kinds.items() if kind == "int"}
    booleans = tuple(name for name, kind in call.kinds.items() if kind == "bool")
    first = Example(sizes, args=dict(call.given), integers=integers, booleans=booleans, keep=tuple(made.fixed))
    examples = [first]
    if position:
        other = [1] if isinstance(call.given[position], list) else 1
        examples.append(replace(first, args={**call.given, position: other}))
    if optional:
        examples.append(replace(first, omit=tuple(optional)))
    return tuple(examples)


def about(target: str) -> str:
    """The first sentence of what torch says about an operator, or its name."""
    short = target.split(".")[-2]
    for module in (torch, torch.nn.functional, torch.special, torch.linalg, torch.fft, torch.Tensor):
        function = getattr(module, short, None)
        text = (getattr(function, "__doc__", None) or "") if function is not None else ""
        sentence = next(
            (
                paragraph
                for paragraph in text.split("\n\n")
                if paragraph.strip() and "->" not in paragraph and "(" not in paragraph[:40]
            ),
            "",
        )
        if sentence:
            return _plain(sentence)
    return f"The operator {short}."


def _plain(text: str) -> str:
    """A sentence without the marks of reStructuredText and TeX."""
    words = re.sub(r":\w+:`~?([^`<]*)(?:<[^`]*>)?`", r"\1", " ".join(text.split())).replace("`", "")
    words = re.sub(r"\\text\{([^}]*)\}", r"\1", words).replace("\\", "")
    return words.split(". ")[0].rstrip(".:") + "."
