"""The numerical check of a rule: sound (its claim holds on the real operator) and tight (no larger claim would).

For random operands x and random elements g of every claimed class, f(g x) = g f(x) in float64, all axes at once and
each alone; the laws `gain`, `adds`, `shift`, `centred`, `product` and `broadcast` are tried likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from symgraph.errors import RuleError
from symgraph.groups.lattice import Bound, SymmetryClass, down, maps, maximal, next_larger
from symgraph.rules.dummy import as_graph
from symgraph.rules.joined import expanded
from symgraph.rules.laws import difference, further_laws, without
from symgraph.rules.schema import Rule
from symgraph.rules.signature import FIXES_ONES, AxisToken
from symgraph.rules.trial import Trial, Values, act, renumbered
from symgraph.tracing import arguments as operators

TOLERANCE = 1e-9
TRIES = 6
_SEMI = SymmetryClass.SEMI_PERMUTATION


@dataclass(frozen=True, slots=True)
class Failure:
    """A law that does not hold: which, for what, and by how much."""

    law: str
    axis: str
    cls: str
    target: str
    error: float
    shapes: str

    def __str__(self) -> str:
        subject = f"axis `{self.axis}`, class {self.cls}: " if self.axis else ""
        size = "the operator refused the transformed operands" if self.error == float("inf") else f"{self.error:.1e}"
        return f"{subject}{self.law} fails on {self.target} (relative error {size}) with {self.shapes}"


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
            f"{self.rule}: axis `{a}` admits {c} as well; claim it, or say under `gaps` why not"
            for a, c in self.loose
            if a not in self.excused
        )


def check(rule: Rule) -> Report:
    """Tries the laws of a rule on every operator or spelling it names, at each of its examples.

    Raises:
        RuleError: if an example does not fit the rule, or torch does not know the operator.
    """
    if rule.signature is None:
        return Report(rule.rule)
    failures = list(_spellings(rule))
    loose: dict[tuple[str, str], None] = {}
    for target in rule.ops or rule.pattern:
        own = expanded(rule, target) if isinstance(target, str) else rule
        trials = [t for t in (Trial(own, target, e) for e in rule.examples) if t.meant]
        for trial in trials:
            _require_fit(trial)
            failures += _failures(trial)
        loose.update(dict.fromkeys(_loose(rule, trials)))
    return Report(rule.rule, tuple(failures), tuple(loose), tuple(rule.gaps))


def require_sound(rule: Rule) -> None:
    """Refuses a rule that claims something false.

    Raises:
        RuleError: with the axis, the class and the counterexample.
    """
    report = check(rule)
    if report.sound:
        return
    more = len(report.failures) - 1
    first = report.failures[0]
    remedy = (
        f"lower the class of `{first.axis}`, or mark where it is dual"
        if first.axis
        else f"remove `{first.law.split()[0]}`"
    )
    raise RuleError(
        f"rule {rule} claims something false",
        cause=report.counterexample + (f" (and {more} further failures)" if more else ""),
        remedy=remedy,
    )


def _require_fit(trial: Trial) -> None:
    rule = trial.rule
    if isinstance(trial.target, str) and operators.operator(trial.target) is None:
        raise RuleError(
            f"rule {rule} cannot be checked: torch does not know `{trial.target}`",
            cause="the library that defines it is not imported",
            remedy="import it before the rules are loaded",
        )
    if trial.tokens is None or not trial.applies():
        raise RuleError(
            f"an example of rule {rule} does not fit its signature or its `when:`",
            remedy="give sizes and args under `examples` for which the rule applies",
        )
    try:
        trial.run(trial.values)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        remedy = "give the operator's arguments under `examples: [{args: ...}]`"
        raise RuleError(f"an example of rule {rule} does not run on {trial}", cause=reason, remedy=remedy) from None


# -- soundness ---------------------------------------------------------------------------------------------------------


def tested(bound: Bound) -> tuple[SymmetryClass, ...]:
    """The classes that stand for a bound: its largest, and unequal widths where they are inside one of these."""
    largest = maximal(bound)
    return (*largest, _SEMI) if _SEMI in bound and _SEMI not in largest else largest


def _failures(trial: Trial) -> Iterator[Failure]:
    core = without(trial, {trial.rule.gain})
    yield from _equivariance(trial, core, "equivariance")
    if trial.rule.gain in trial.values:
        yield from _equivariance(trial, trial.values, "equivariance with its gain", dense=False)
    yield from _broadcasting(trial)
    for law, error in further_laws(trial):
        if not error < TOLERANCE:
            yield Failure(law, "", "", str(trial), error, _shapes(trial.values))


def _bound(trial: Trial, name: str) -> Bound:
    bound = trial.rule.admits[name]
    return bound & FIXES_ONES if trial.numbers and trial.rule.broadcast == "ones" else bound


def _classes(trial: Trial, name: str, dense: bool) -> list[SymmetryClass]:
    found = tested(down(*(c for c in _bound(trial, name) if dense or not maps(c).dense)))
    kept = AxisToken(name).axis in trial.example.keep
    return [c for c in found if not (kept and c is _SEMI)]


def _equivariance(trial: Trial, values: Values, law: str, dense: bool = True) -> Iterator[Failure]:
    choices = {n: _classes(trial, n, dense) for n in trial.claimed}
    for name, found in choices.items():
        for cls in found:
            error = _error(trial, values, {name: cls})
            if not error < TOLERANCE:
                yield Failure(law, AxisToken(name).axis, str(cls), str(trial), error, _shapes(values))
    for turn in range(max((len(c) for c in choices.values()), default=0)):
        together = {n: c[turn % len(c)] for n, c in choices.items()}
        error = _error(trial, values, together)
        if not error < TOLERANCE:
            names = ", ".join(dict.fromkeys(AxisToken(n).axis for n in together))
            classes_text = ", ".join(dict.fromkeys(map(str, together.values())))
            yield Failure(f"{law} of all axes together", names, classes_text, str(trial), error, _shapes(values))


def _error(trial: Trial, values: Values, classes: Mapping[str, SymmetryClass]) -> float:
    """Largest relative difference between f(g x) and g f(x); infinite where f(g x) cannot be computed."""
    operands, results = trial.tokens or ({}, ())
    elements = dict(trial.sample(classes))
    sizes = {**trial.sizes, **{n: e.co.shape[0] for n, e in elements[""].items()}}
    moved = {k: act(v, operands[k], elements[k]) for k, v in values.items()}
    expected = [act(r, t, elements[""]) for r, t in zip(trial.run(values), results, strict=False)]
    try:
        moved |= {k: renumbered(moved[k], n, elements[""]) for k, n in trial.rule.indexes.items() if k in moved}
        for number, name in trial.rule.points.items():
            expected[int(number)] = renumbered(expected[int(number)], name, elements[""])
        found = trial.run(moved, sizes)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return float("inf")
    return max(difference(a, b) for a, b in zip(found, expected, strict=True))


def _shapes(values: Values) -> str:
    return ", ".join(f"{k} {list(v.shape)}" for k, v in values.items())


def _broadcasting(trial: Trial) -> Iterator[Failure]:
    """One pointwise operand of size one along the last axis: with `ones`, only maps that fix the ones vector hold."""
    operands = (trial.tokens or ({}, ()))[0]
    wide = [k for k, t in operands.items() if t and t[-1].name == "*0"]
    if len(wide) < 2:
        return
    bound = trial.rule.admits["*"] & (FIXES_ONES if trial.rule.broadcast == "ones" else trial.rule.admits["*"])
    for name in wide:
        narrow = Trial(trial.rule, trial.target, trial.example)
        narrow.values[name] = narrow.values[name][..., :1]
        for cls in tested(bound):
            error = _error(narrow, narrow.values, {"*0": cls})
            if not error < TOLERANCE:
                law = f"equivariance with `{name}` broadcast"
                yield Failure(law, "*", str(cls), str(trial), error, _shapes(narrow.values))


def _spellings(rule: Rule) -> Iterator[Failure]:
    """Spellings with the same variables must compute the same, and what a pattern must never match is not matched."""
    for a, b in combinations(rule.pattern, 2):
        if set(a.variables) == set(b.variables):
            first, second = (Trial(rule, p, rule.examples[0]) for p in (a, b))
            error = difference(first.run(first.values)[0], second.run(first.values)[0])
            if not error < TOLERANCE:
                yield Failure(f"pattern equality with `{a.text}`", "", "", b.text, error, _shapes(first.values))
    for expression in rule.never:
        graph, root = as_graph(expression)
        for spelling in rule.pattern:
            if spelling.match(graph, root) is not None:
                yield Failure("never", "", "", spelling.text, float("inf"), expression.text)


# -- tightness ---------------------------------------------------------------------------------------------------------


def _loose(rule: Rule, trials: list[Trial]) -> Iterator[tuple[str, str]]:
    """Axes with a larger class that holds at every example."""
    for axis in rule.signature.axes if rule.signature else ():
        for cls in next_larger(rule.admits[axis]):
            if not any(_breaks(t, axis, cls) for t in trials if not t.numbers) and any(not t.numbers for t in trials):
                yield axis, str(cls)


def _breaks(trial: Trial, axis: str, cls: SymmetryClass) -> bool:
    """Whether some random element of the class, on one of the axes of this name or on all, breaks the law."""
    names = [n for n in trial.claimed if AxisToken(n).axis == axis]
    values = without(trial, {trial.rule.gain})
    choices = [*([n] for n in names), names] if len(names) > 1 else [names]
    tries = [c for _ in range(TRIES) for c in choices if c]
    return any(not _error(trial, values, dict.fromkeys(c, cls)) < TOLERANCE for c in tries)
