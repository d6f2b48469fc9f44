"""The numerical check of a rule: sound (its claim holds on the real operator) and tight (no larger claim would).

For operands x of every world and random elements g of every claimed class, f(g x) = g f(x) in float64, all axes at once
and each alone; the laws `gain`, `adds`, `shift`, `centred`, `product` and `broadcast` are tried likewise, and all of it
with other numbers where the operator takes any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from symgraph.errors import RuleError, SymgraphError
from symgraph.groups.lattice import SymmetryClass, down, maps, next_larger
from symgraph.rules.dummy import as_graph
from symgraph.rules.equivariance import SEMI, Failure, Operands, in_worlds, named, tested, turns
from symgraph.rules.examples import at_example, in_all_worlds, trials, with_other_numbers
from symgraph.rules.laws import difference, further_laws, without
from symgraph.rules.moving import moved_at_example
from symgraph.rules.schema import Rule
from symgraph.rules.signature import FIXES_ONES, AxisToken
from symgraph.rules.trial import Trial, Values

TRIES = 6


@dataclass(frozen=True, slots=True)
class Report:
    """What the check of one rule found; `loose` pairs an axis with a larger class that it admits as well."""

    rule: str
    failures: tuple[Failure, ...] = ()
    loose: tuple[tuple[str, str], ...] = ()
    excused: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether every claim holds."""
        return not self.failures

    @property
    def tight(self) -> bool:
        """Whether every larger claim fails, but for the axes that the rule explains under `gaps`."""
        return all(axis in self.excused for axis, _ in self.loose)

    @property
    def counterexample(self) -> str:
        """The first law that fails, or ''."""
        return str(self.failures[0]) if self.failures else ""

    @property
    def hints(self) -> tuple[str, ...]:
        """What the rule could claim beyond what it does."""
        return tuple(
            f"{self.rule}: axis `{axis}` admits {larger} as well; claim it, or say under `gaps` why not"
            for axis, larger in self.loose
            if axis not in self.excused
        )


def check(rule: Rule) -> Report:
    """Tries the laws of a rule on every operator or spelling it names, at each of its examples and in every world.

    Raises:
        RuleError: if an example does not fit the rule or proves nothing, or torch does not know the operator.
    """
    if rule.signature is None:
        law, moved = f"structure {rule.structure}", moved_at_example(rule)
        return Report(rule.rule, tuple(Failure(law, "", "", target, float("inf"), "", why) for target, why in moved))
    failures = list(_spellings(rule))
    loose: dict[tuple[str, str], None] = {}
    for made in trials(rule):
        _require_several_positions(rule, made)
        failures += [failure for trial in made for failure in _failures(trial)]
        loose.update(dict.fromkeys(_loose(rule, made)))
    return Report(rule.rule, tuple(failures), tuple(loose), tuple(rule.gaps))


def require_sound(rule: Rule) -> None:
    """Refuses a rule that claims something false.

    Raises:
        RuleError: with the axis, the class and the counterexample.
    """
    try:
        report = check(rule)
    except SymgraphError:
        raise
    except Exception as error:  # whatever an operator raises on operands that it was not made for
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RuleError(f"rule {rule} cannot be checked", cause=reason, remedy="check its `examples`") from None
    if not report.sound:
        raise refusal(rule, report.failures)


def refusal(rule: Rule, failures: tuple[Failure, ...], where: str = "") -> RuleError:
    """The error about a rule that claims something false, at a place in the user's model or at its examples."""
    first, more = failures[0], len(failures) - 1
    remedy = (
        f"lower the class of `{first.axis}`, or mark where it is dual"
        if first.axis
        else f"remove `{first.law.split()[0]}`"
    )
    return RuleError(
        f"rule {rule} claims something false" + (f" at {where}" if where else ""),
        cause=str(first) + (f" (and {more} further failures)" if more else ""),
        remedy=remedy,
    )


def _require_several_positions(rule: Rule, made: list[Trial]) -> None:
    """A class says nothing of an axis with one position."""
    single = {
        AxisToken(name).axis
        for trial in made
        for ts in trial.tokens[0].values()
        for name in (token.name for token in ts if token.claimed)
    }
    single -= {AxisToken(name).axis for trial in made for name, size in trial.sizes.items() if size > 1}
    empty = sorted(axis for axis in single if rule.admits[axis] != down())
    if empty:
        raise RuleError(
            f"the examples of rule {rule} prove nothing about `{empty[0]}`",
            cause="the axis has a single position there",
            remedy="give a size of two or more under `examples: [{sizes: ...}]`",
        )


# -- soundness ---------------------------------------------------------------------------------------------------------


def _failures(trial: Trial) -> Iterator[Failure]:
    """What fails in the first world, with the first numbers, where anything does."""
    for variant in with_other_numbers(trial):
        for operands in in_worlds(in_all_worlds(variant)):
            failures = tuple(_failures_of(operands))
            if failures:
                yield from failures
                return


def _failures_of(operands: Operands) -> Iterator[Failure]:
    trial = operands.trial
    yield from _equivariance(operands, without(trial, {trial.rule.gain}), "equivariance")
    if trial.rule.gain in trial.values:
        yield from _equivariance(operands, trial.values, "equivariance with its gain", dense=False)
    yield from _broadcasting(operands)
    for key, subject, error in further_laws(trial, operands.floor):
        if operands.fails(error):
            yield operands.failure(f"{key} of {subject}", error)


def _classes(trial: Trial, name: str, dense: bool) -> tuple[SymmetryClass, ...]:
    classes = tested(
        down(*(symmetry_class for symmetry_class in trial.claims[name] if dense or not maps(symmetry_class).dense))
    )
    return tuple(
        symmetry_class
        for symmetry_class in classes
        if not (AxisToken(name).axis in trial.keep and symmetry_class is SEMI)
    )


def _equivariance(operands: Operands, values: Values, law: str, dense: bool = True) -> Iterator[Failure]:
    choices = {name: _classes(operands.trial, name, dense) for name in operands.trial.claims}
    for name, classes in choices.items():
        for cls in classes:
            error = operands.error(values, {name: cls})
            if operands.fails(error):
                yield operands.failure(law, error, AxisToken(name).axis, str(cls), values)
    for together in turns(choices):
        error = operands.error(values, together)
        if operands.fails(error):
            yield operands.failure(f"{law} of all axes together", error, *named(together), values)


def _broadcasting(operands: Operands) -> Iterator[Failure]:
    """One pointwise operand of size one along the last axis: with `ones`, only maps that fix the ones vector hold."""
    trial = operands.trial
    wide = [operand for operand, tokens in trial.tokens[0].items() if tokens and tokens[-1].name == "*0"]
    if len(wide) < 2 or trial.rule.broadcast == "never":
        return
    bound = trial.rule.admits["*"] & (FIXES_ONES if trial.rule.broadcast == "ones" else trial.rule.admits["*"])
    for name in wide:
        narrow = Operands(_narrow(trial, name), operands.floor)
        for cls in tested(bound) if narrow.defined else ():
            error = narrow.error(narrow.trial.values, {"*0": cls})
            if operands.fails(error):
                yield narrow.failure(f"equivariance with `{name}` broadcast", error, "*", str(cls))


def _narrow(trial: Trial, name: str) -> Trial:
    """The trial with one operand that has a single position along the last axis."""
    operands, results = trial.tokens
    tokens = {**operands, name: (*operands[name][:-1], AxisToken("1"))}
    return replace(trial, tokens=(tokens, results), sizes={**trial.sizes, "1": 1})


def _spellings(rule: Rule) -> Iterator[Failure]:
    """Spellings with the same variables must compute the same, and what a pattern must never match is not matched."""
    for one, other in combinations(rule.pattern, 2):
        if set(one.variables) == set(other.variables):
            first, second = (at_example(rule, pattern, rule.examples[0]) for pattern in (one, other))
            error = difference(first.run(first.values)[0], second.run(first.values)[0])
            if not error < first.world.tolerance:
                yield Operands(first).failure(f"pattern equality with `{other.text}`", error)
    for expression in rule.never:
        graph, root = as_graph(expression)
        for spelling in rule.pattern:
            if spelling.match(graph, root) is not None:
                yield Failure("never", "", "", spelling.text, float("inf"), expression.text)


# -- tightness ---------------------------------------------------------------------------------------------------------


def _loose(rule: Rule, made: list[Trial]) -> Iterator[tuple[str, str]]:
    """Axes with a larger class that holds at every example."""
    free = [trial for trial in made if not trial.numbers]
    for axis in rule.signature.axes if rule.signature and free else ():
        for cls in next_larger(rule.admits[axis]):
            if not any(breaks(operands, axis, cls) for trial in free for operands in in_worlds(in_all_worlds(trial))):
                yield axis, str(cls)


def breaks(operands: Operands, axis: str, cls: SymmetryClass, attempts: int = TRIES) -> bool:
    """Whether some random element of the class, on one of the axes of this name or on all, breaks the law."""
    trial = operands.trial
    names = [
        name for name, size in trial.sizes.items() if AxisToken(name).axis == axis and size > 1 and trial.holds(name)
    ]
    values = without(trial, {trial.rule.gain})
    choices = [*([name] for name in names), names] if len(names) > 1 else [names]
    tries = [choice for _ in range(attempts) for choice in choices if choice]
    return any(operands.fails(operands.error(values, dict.fromkeys(choice, cls))) for choice in tries)
