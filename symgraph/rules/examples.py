"""The examples of a rule as trials: what it is checked on where no call is at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from symgraph.errors import RuleError
from symgraph.ir import Tensor
from symgraph.rules.arrange import Arrangement, arrange
from symgraph.rules.joined import expanded
from symgraph.rules.pattern import Pattern
from symgraph.rules.schema import Example, Rule
from symgraph.rules.signature import AxisToken, Operand
from symgraph.rules.trial import Drawn, Trial
from symgraph.tracing import arguments as operators
from symgraph.tracing.worlds import WORLDS

POINTWISE = (3, 4)
UNCLAIMED = 5
SMALLEST = 4
NUMBER = 0.37


def trials(rule: Rule) -> Iterator[list[Trial]]:
    """For every operator or spelling of a rule the trials at its examples.

    Raises:
        RuleError: an example does not fit the rule, or torch does not know the operator.
    """
    for target in rule.ops or rule.pattern:
        own = expanded(rule, target) if isinstance(target, str) else rule
        made = (at_example(own, target, example) for example in rule.examples if _meant(target, example))
        yield [_fitting(trial) for trial in made]


def at_example(rule: Rule, target: str | Pattern, example: Example) -> Trial:
    """One operator or spelling at one example.

    Raises:
        RuleError: the example does not fit the signature.
    """
    if isinstance(target, str) and operators.operator(target) is None:
        raise RuleError(
            f"rule {rule} cannot be checked: torch does not know `{target}`",
            cause="the library that defines it is not imported",
            remedy="import it before the rules are loaded",
        )
    signature = rule.signature.operands if rule.signature else ()
    held = tuple(
        operand for operand in signature if operand.name in _tensors(target) and operand.name not in example.omit
    )
    numbers = [
        operand.name
        for operand in signature
        if operand.name in _accepted(target) and operand.name not in _tensors(target)
    ]
    given = {name: value for name, value in example.args.items() if name in _accepted(target)}
    given |= {name: NUMBER for name in numbers if name not in given}
    tokens = arrange(rule, given, {operand.name: _rank(rule, operand, example) for operand in held})
    if tokens is None:
        raise _misfit(rule)
    sizes = _sizes(rule, tokens, example)
    assumed = {name: fact for name, fact in rule.assumes.items() if name in tokens[0]}
    keep = frozenset(example.keep)
    made = Trial(rule, target, held, tokens, sizes, given, _drawn(example), literal=True)
    return replace(made, assumed=assumed, positive=example.positive, bounded=example.bounded, keep=keep)


def _misfit(rule: Rule) -> RuleError:
    return RuleError(
        f"an example of rule {rule} does not fit its signature or its `when:`",
        remedy="give sizes and args under `examples` for which the rule applies",
    )


def _fitting(trial: Trial) -> Trial:
    if not applies(trial):
        raise _misfit(trial.rule)
    try:
        trial.run(trial.values)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        remedy = "give the operator's arguments under `examples: [{args: ...}]`"
        raise RuleError(
            f"an example of rule {trial.rule} does not run on {trial}", cause=reason, remedy=remedy
        ) from None
    return trial


def applies(trial: Trial) -> bool:
    """Whether the rule's condition holds for a trial."""
    if trial.rule.when is None:
        return True
    defaults: dict[str, Any] = {}
    if isinstance(trial.target, str):
        defaults = {argument.name: argument.default for argument in operators.parameters(trial.target) or ()}
    shapes = {name: Tensor(tuple(value.shape), "float64") for name, value in trial.joined(trial.values).items()}
    return trial.rule.when.evaluate({**defaults, **trial.arguments(trial.sizes), **shapes})


def with_other_numbers(trial: Trial) -> Iterator[Trial]:
    """The trial, and the same with other numbers wherever the operator takes any and the rule's condition allows it."""
    yield trial
    for name, value in trial.given.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name in _free(trial):
            for other in (value + 0.75, -2.0 * value - 1.5, 30.0):
                changed = replace(trial, given={**trial.given, name: other})
                if applies(changed) and changed.fits:
                    yield changed


def _free(trial: Trial) -> tuple[str, ...]:
    """The arguments of the operator that may be any number."""
    if isinstance(trial.target, Pattern):
        return tuple(name for name, value in trial.given.items() if isinstance(value, float))
    known = operators.parameters(trial.target) or ()
    return tuple(argument.name for argument in known if argument.number)


def in_all_worlds(trial: Trial) -> Iterator[Trial]:
    """The trial in every world, with the operands that integers are given for also as numbers of any kind."""
    for world in WORLDS:
        yield trial.at(world)
    indexing = {
        *trial.rule.indexes,
        *(name for name, drawn in trial.drawn.items() if drawn.kind != "int" or not drawn.limit.isdigit()),
    }
    anything = {name: drawn for name, drawn in trial.drawn.items() if name in indexing}
    if anything != trial.drawn and replace(trial, drawn=anything).fits:
        yield from (replace(trial, drawn=anything, world=world) for world in WORLDS)


def _meant(target: str | Pattern, example: Example) -> bool:
    """Whether the example is about this spelling: nothing that the spelling needs is left out."""
    return not (isinstance(target, Pattern) and set(target.variables) & set(example.omit))


def _accepted(target: str | Pattern) -> tuple[str, ...]:
    if isinstance(target, Pattern):
        return target.variables
    return tuple(argument.name for argument in operators.parameters(target) or ())


def _tensors(target: str | Pattern) -> tuple[str, ...]:
    if isinstance(target, Pattern):
        return target.variables
    return tuple(argument.name for argument in operators.parameters(target) or () if argument.tensor)


def _rank(rule: Rule, operand: Operand, example: Example) -> int:
    ranks = {"...": len(example.batch), "*": len(POINTWISE)}
    dims = {axis: example.args.get(argument) for axis, argument in rule.at.items()}
    several = {axis: len(given) for axis, given in dims.items() if isinstance(given, list | tuple)}
    return sum(ranks.get(token.name, several.get(token.name, 1)) for token in operand.axes)


def _sizes(rule: Rule, tokens: Arrangement, example: Example) -> Mapping[str, int]:
    """The size of every token of the operands."""
    named = [axis for axis in (rule.signature.axes if rule.signature else ()) if axis not in ("...", "*")]
    sizes = {name: example.sizes.get(name, SMALLEST + number) for number, name in enumerate(named)}
    for operand, axes in tokens[0].items():
        for token in axes:
            sizes.setdefault(token.name, _size(example, operand, token))
    return sizes


def _size(example: Example, operand: str, token: AxisToken) -> int:
    if token.batch:
        lead = POINTWISE if token.axis == "*" else example.batch
        return int(lead[-1 - int(token.name[len(token.axis) :])])
    if token.axis == "_":
        return example.sizes.get(f"{operand}._", UNCLAIMED)
    return 1 if token.name == "1" else SMALLEST + len(token.name)


def _drawn(example: Example) -> dict[str, Drawn]:
    drawn = {name: Drawn("int", limit) for name, limit in example.integers.items()}
    drawn |= {name: Drawn("bool") for name in example.booleans}
    return drawn | {name: Drawn("complex") for name in example.complex}
