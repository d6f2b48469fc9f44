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
        made = (at_example(own, target, e) for e in rule.examples if _meant(target, e))
        yield [_fitting(t) for t in made]


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
    held = tuple(o for o in signature if o.name in _tensors(target) and o.name not in example.omit)
    numbers = [o.name for o in signature if o.name in _accepted(target) and o.name not in _tensors(target)]
    given = {k: v for k, v in example.args.items() if k in _accepted(target)}
    given |= {k: NUMBER for k in numbers if k not in given}
    tokens = arrange(rule, given, {o.name: _rank(rule, o, example) for o in held})
    if tokens is None:
        raise _misfit(rule)
    sizes = _sizes(rule, tokens, example)
    assumed = {k: v for k, v in rule.assumes.items() if k in tokens[0]}
    keep = frozenset(example.keep)
    made = Trial(rule, target, held, tokens, sizes, given, _drawn(example), literal=True)
    return replace(made, assumed=assumed, positive=example.positive, keep=keep)


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
        defaults = {a.name: a.default for a in operators.parameters(trial.target) or ()}
    shapes = {k: Tensor(tuple(v.shape), "float64") for k, v in trial.joined(trial.values).items()}
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
        return tuple(k for k, v in trial.given.items() if isinstance(v, float))
    known = operators.parameters(trial.target) or ()
    return tuple(a.name for a in known if a.number)


def in_all_worlds(trial: Trial) -> Iterator[Trial]:
    """The trial in every world, with the operands that integers are given for also as numbers of any kind."""
    for world in WORLDS:
        yield trial.at(world)
    indexing = {*trial.rule.indexes, *(k for k, d in trial.drawn.items() if d.kind != "int" or not d.limit.isdigit())}
    anything = {k: d for k, d in trial.drawn.items() if k in indexing}
    if anything != trial.drawn and replace(trial, drawn=anything).fits:
        yield from (replace(trial, drawn=anything, world=w) for w in WORLDS)


def _meant(target: str | Pattern, example: Example) -> bool:
    """Whether the example is about this spelling: nothing that the spelling needs is left out."""
    return not (isinstance(target, Pattern) and set(target.variables) & set(example.omit))


def _accepted(target: str | Pattern) -> tuple[str, ...]:
    if isinstance(target, Pattern):
        return target.variables
    return tuple(a.name for a in operators.parameters(target) or ())


def _tensors(target: str | Pattern) -> tuple[str, ...]:
    if isinstance(target, Pattern):
        return target.variables
    return tuple(a.name for a in operators.parameters(target) or () if a.tensor)


def _rank(rule: Rule, operand: Operand, example: Example) -> int:
    ranks = {"...": len(example.batch), "*": len(POINTWISE)}
    dims = {a: example.args.get(n) for a, n in rule.at.items()}
    several = {a: len(d) for a, d in dims.items() if isinstance(d, list | tuple)}
    return sum(ranks.get(t.name, several.get(t.name, 1)) for t in operand.axes)


def _sizes(rule: Rule, tokens: Arrangement, example: Example) -> Mapping[str, int]:
    """The size of every token of the operands."""
    named = [t for t in (rule.signature.axes if rule.signature else ()) if t not in ("...", "*")]
    found = {name: example.sizes.get(name, SMALLEST + i) for i, name in enumerate(named)}
    for operand, axes in tokens[0].items():
        for token in axes:
            found.setdefault(token.name, _size(example, operand, token))
    return found


def _size(example: Example, operand: str, token: AxisToken) -> int:
    if token.batch:
        lead = POINTWISE if token.axis == "*" else example.batch
        return int(lead[-1 - int(token.name[len(token.axis) :])])
    if token.axis == "_":
        return example.sizes.get(f"{operand}._", UNCLAIMED)
    return 1 if token.name == "1" else SMALLEST + len(token.name)


def _drawn(example: Example) -> dict[str, Drawn]:
    found = {k: Drawn("int", v) for k, v in example.integers.items()}
    found |= {k: Drawn("bool") for k in example.booleans}
    return found | {k: Drawn("complex") for k in example.complex}
