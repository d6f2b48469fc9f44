"""The classes and laws of a rule, measured: from the identity upwards through the lattice, as far as nothing breaks.

Random elements of a class act on random operands in the worlds in which rules are checked; what comes out has passed
that check, and is as large as it allows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from symgraph.errors import RuleError
from symgraph.groups.lattice import RIGID, Bound, SymmetryClass, down, maps, maximal, next_larger, ranked
from symgraph.rules import condition
from symgraph.rules.check import TRIES, breaks, check
from symgraph.rules.equivariance import Operands, in_worlds
from symgraph.rules.examples import in_all_worlds, trials
from symgraph.rules.laws import further_laws
from symgraph.rules.probing import POSITIONS
from symgraph.rules.schema import LAYOUTS, Admits, Rule
from symgraph.rules.signature import AxisToken, Signature, Tokens
from symgraph.tracing.arguments import parameters
from symgraph.tracing.worlds import PLAIN

MARKS = ("", "'", "~")
POWERS = (1, -1, 2, 0)
HALVES, INTERLEAVED = LAYOUTS
MOST_CORRECTIONS = 20
BATCH, POINTWISE = "...", "*"


def measured(rule: Rule, asked: Collection[str] = ()) -> Rule:
    """A rule that claims nothing yet, with the largest classes and all laws that hold, and the condition they need.

    Args:
        asked: arguments whose values in the examples were asked for: the rule may hold for these alone.

    Raises:
        RuleError: the operator has no value at random operands.
    """
    return _conditioned(_settled(_claiming(rule), asked))


def runs(rule: Rule) -> bool:
    """Whether the operator runs at the examples of a rule, with results as its signature says."""
    try:
        return all(trial.fits for made in trials(rule) for trial in made)
    except RuleError:
        return False


# -- classes ---------------------------------------------------------------------------------------------------------


def _claiming(rule: Rule) -> Rule:
    """The rule with the largest class of each axis, in whatever way operands carry it."""
    rule = _positive(_with_tail(rule))
    pointwise = _as_pointwise(rule)
    for axis in rule.signature.axes if rule.signature else ():
        rule = _largest(rule, axis)
    if pointwise is not None:
        whole = _largest(pointwise, POINTWISE)
        if all(bound <= whole.admits[POINTWISE] for bound in rule.admits.values()):
            rule = whole
    return _with_laws(rule)


def _as_pointwise(rule: Rule) -> Rule | None:
    """The same rule about all axes alike, where every operand that has axes has the same."""
    if rule.signature is None or rule.at:
        return None
    held = {
        tokens for tokens in (*(operand.axes for operand in rule.signature.operands), *rule.signature.results) if tokens
    }
    whole: Tokens = (AxisToken(POINTWISE),)
    if len(held) != 1 or next(iter(held))[0] != AxisToken(BATCH) or len(*held) > 2:
        return None
    operands = tuple(replace(operand, axes=whole if operand.axes else ()) for operand in rule.signature.operands)
    signature = Signature(operands, tuple(whole if tokens else () for tokens in rule.signature.results))
    return replace(rule, signature=signature, admits=Admits({POINTWISE: RIGID}))


def _operands(rule: Rule) -> list[Operands]:
    """Every trial of a rule in every world in which the operator has a value."""
    return [operands for made in trials(rule) for trial in made for operands in in_worlds(in_all_worlds(trial))]


def _positive(rule: Rule) -> Rule:
    """The rule with positive operands, where the operator has no value at others."""
    if _has_values(rule) or rule.signature is None:
        return rule
    names = tuple(operand.name for operand in rule.signature.operands)
    changed = replace(rule, examples=tuple(replace(example, positive=names) for example in rule.examples))
    if not _has_values(changed):
        raise RuleError(f"`{rule.ops[0]}` has no value at random operands", remedy="write the rule by hand")
    return changed


def _has_values(rule: Rule) -> bool:
    """Whether the operator has finite values at operands of the plainest world."""
    plain = [operands for operands in _operands(rule) if operands.trial.world is PLAIN]
    return any(
        bool(result.isfinite().all()) for operands in plain for result in operands.results(operands.trial.values)
    )


def _largest(rule: Rule, axis: str) -> Rule:
    """The rule with the largest class of one axis, in the way of carrying it that allows this."""
    best, most = rule, RIGID
    for tried in _ways(rule, axis):
        bound = _climbed(tried, axis, _operands(tried)[:1], attempts=2)
        if ranked(bound) > ranked(most):
            best, most = tried, bound
        if SymmetryClass.INVERTIBLE in most:
            break
    bound = _climbed(best, axis, _operands(best))
    paired = any(maps(symmetry_class).paired for symmetry_class in maximal(bound))
    layout = (best.layout or HALVES) if paired else rule.layout
    return replace(best, admits=Admits({**best.admits, axis: bound}), layout=layout)


def _ways(rule: Rule, axis: str) -> Iterator[Rule]:
    """The rule with every way in which operands and results can carry an axis; first as it is."""
    if rule.signature is None:
        return
    tensors = [() if operand.name == rule.gain else operand.axes for operand in rule.signature.operands] + list(
        rule.signature.results
    )
    holding = [number for number, tokens in enumerate(tensors) if any(token.axis == axis for token in tokens)]
    # The axes that `...` and `*` stand for have no marks.
    many = axis in (BATCH, POINTWISE)
    for marks in product(MARKS[:1] if many else MARKS, repeat=len(holding) - 1):
        marked = dict(zip(holding, ("", *marks), strict=True))
        yield replace(rule, signature=_marked(rule.signature, axis, marked))
    names = [operand.name for operand in rule.signature.operands if any(token.axis == axis for token in operand.axes)]
    indexing = {name for example in rule.examples for name in example.integers} - set(names)
    yield from (replace(rule, indexes={name: axis}) for name in sorted(indexing) if not many)
    if axis == POINTWISE:
        yield from (
            replace(rule, product=dict(zip(names, powers, strict=True)))
            for powers in product(POWERS, repeat=len(names))
        )
    yield replace(rule, layout=INTERLEAVED)


def _marked(signature: Signature, axis: str, marks: Mapping[int, str]) -> Signature:
    def tokens(number: int, own: Tokens) -> Tokens:
        return tuple(
            AxisToken(token.name, marks.get(number, token.mark)) if token.axis == axis else token for token in own
        )

    count = len(signature.operands)
    operands = tuple(
        replace(operand, axes=tokens(number, operand.axes)) for number, operand in enumerate(signature.operands)
    )
    return replace(
        signature,
        operands=operands,
        results=tuple(tokens(count + number, result) for number, result in enumerate(signature.results)),
    )


def _climbed(rule: Rule, axis: str, cases: Sequence[Operands], attempts: int = TRIES) -> Bound:
    """The classes that an axis admits, from the identity upwards."""
    bound, refused = RIGID, set[SymmetryClass]()
    while untried := [symmetry_class for symmetry_class in next_larger(bound) if symmetry_class not in refused]:
        for cls in untried:
            if any(breaks(case, axis, cls, attempts) for case in cases):
                refused.add(cls)
            else:
                bound = bound | down(cls)
    return bound


# -- further laws ------------------------------------------------------------------------------------------------------


def _with_tail(rule: Rule) -> Rule:
    """The rule with the operands that multiply the result and are added to it at the end."""
    names = [operand.name for operand in rule.signature.operands if operand.optional] if rule.signature else []
    rule = next((longer for name in names if _holds(longer := replace(rule, adds=name), "adds")), rule)
    rule = next((longer for name in names if _holds(longer := replace(rule, gain=name), "gain")), rule)
    return rule if rule.gain is None else _only_permuted(rule, rule.gain)


def _only_permuted(rule: Rule, gain: str) -> Rule:
    """The rule with a gain of which nothing is said but the order of its entries."""
    operands = rule.signature.operands if rule.signature else ()
    bare = {
        operand.name: tuple(replace(token, mark="~") for token in operand.axes)
        for operand in operands
        if operand.name == gain
    }
    marked = tuple(replace(operand, axes=bare.get(operand.name, operand.axes)) for operand in operands)
    return replace(rule, signature=replace(rule.signature, operands=marked)) if rule.signature else rule


def _with_laws(rule: Rule) -> Rule:
    """The rule with what is not seen of its operands, and what comes out again."""
    centred = (replace(rule, centred=axis) for axis in rule.admits if axis not in (BATCH, POINTWISE))
    rule = next((tried for tried in centred if _holds(tried, "centred")), rule)
    summed = (replace(rule, weights=axis) for axis in rule.admits if axis not in (BATCH, POINTWISE))
    rule = next((tried for tried in summed if _holds(tried, "weights")), rule)
    operands = (
        [operand for operand in rule.signature.operands if operand.name not in (rule.gain, rule.adds)]
        if rule.signature
        else []
    )
    for operand in operands:
        axes = [token.axis for token in operand.axes if token.claimed and not token.batch]
        blind = next((axis for axis in axes if _holds(replace(rule, blind={operand.name: axis}), "blind")), None)
        if blind is not None:
            rule = replace(rule, blind={**rule.blind, operand.name: blind})
        others = [
            other.name for other in operands if other is not operand and rule.shift.get(other.name) != operand.name
        ]
        for law in () if operand.name in rule.blind else ("none", "output", "minus", *others):
            if _holds(replace(rule, shift={operand.name: law}), "shift"):
                rule = replace(rule, shift={**rule.shift, operand.name: law})
                break
        if rule.radial is None and _holds(replace(rule, radial=operand.name), "radial"):
            rule = replace(rule, radial=operand.name)
    return rule


def _holds(rule: Rule, key: str) -> bool:
    """Whether a law of a rule says something, and is true wherever the operator has a value."""
    errors = [
        case.fails(error)
        for case in _operands(rule)
        for law, _, error in further_laws(case.trial, case.floor)
        if law == key
    ]
    return bool(errors) and not any(errors)


# -- what the check says -----------------------------------------------------------------------------------------------


def _settled(rule: Rule, asked: Collection[str]) -> Rule:
    """The rule after the check: what holds for the numbers that were asked for alone says so, what fails is lowered."""
    for _ in range(MOST_CORRECTIONS):
        report = check(rule)
        if report.sound:
            return rule
        narrow = _only(rule, [(name, value) for name, value in _constants(rule) if name in asked])
        if rule.when is None and check(narrow).sound:
            return narrow
        rule = _lowered(rule, report.failures[0].axis, report.failures[0].cls)
    raise RuleError(f"no rule about `{rule.ops[0]}` was found", cause=report.counterexample)


def _lowered(rule: Rule, axes: str, classes: str) -> Rule:
    """The rule without the last class that failed, and what contains it."""
    axis, cls = axes.split(", ")[-1], SymmetryClass(classes.split(", ")[-1])
    bound = rule.admits[axis]
    smaller = down(*(symmetry_class for symmetry_class in bound if cls not in down(symmetry_class)))
    return replace(rule, admits=Admits({**rule.admits, axis: smaller if smaller != bound else RIGID}))


def _conditioned(rule: Rule) -> Rule:
    """The rule for those arguments alone without which it does not hold."""
    return _only(rule, [(name, value) for name, value in _constants(rule) if not _holds_beside(rule, name, value)])


def _only(rule: Rule, arguments: Sequence[tuple[str, Any]]) -> Rule:
    """The rule where arguments have these values."""
    own = [str(rule.when)] if rule.when is not None else []
    needed = dict.fromkeys([*own, *(f"{name} == {_written(value)}" for name, value in arguments)])
    return replace(rule, when=condition.parse(" and ".join(needed))) if needed else rule


def _constants(rule: Rule) -> Iterator[tuple[str, Any]]:
    """The arguments that are no tensors, with the values at which the rule was measured."""
    given = rule.examples[0].args
    for argument in parameters(rule.ops[0]) or ():
        value = given.get(argument.name, argument.default)
        if not argument.tensor and argument.name not in (*POSITIONS, "keepdim") and _others(value):
            yield argument.name, value


def _others(value: Any) -> tuple[Any, ...]:
    """Other values of an argument: none where it is of a kind that a condition cannot speak about."""
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int | float):
        return (value + 1, 2 * value + 1)
    return (
        ([number + 1 for number in value],)
        if isinstance(value, list) and all(isinstance(number, int) for number in value)
        else ()
    )


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _holds_beside(rule: Rule, name: str, value: Any) -> bool:
    """Whether the rule is true for other values of an argument as well, where the operator takes these."""
    for other in _others(value):
        changed = [
            replace(rule, examples=(replace(example, args={**example.args, name: other}),)) for example in rule.examples
        ]
        if any(runs(tried) and not check(tried).sound for tried in changed):
            return False
    return True
