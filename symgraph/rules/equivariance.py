"""f(g x) = g f(x): the law behind every class that a rule states, for random operands x and elements g."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from symgraph.groups.lattice import Bound, SymmetryClass, maximal
from symgraph.rules.laws import difference, size
from symgraph.rules.signature import AxisToken
from symgraph.rules.trial import REFUSALS, Elements, Trial, Values, act, renumbered
from symgraph.tracing.worlds import PLAIN

SEMI = SymmetryClass.SEMI_PERMUTATION
Classes = Mapping[str, SymmetryClass]
Results = list[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Failure:
    """A law that does not hold: which, for what, by how much, and in which world (of a structure: why)."""

    law: str
    axis: str
    cls: str
    target: str
    error: float
    shapes: str
    world: str = ""

    def __str__(self) -> str:
        subject = f"axis `{self.axis}`, class {self.cls}: " if self.axis else ""
        size = "the operator refused the transformed operands" if self.error == float("inf") else f"{self.error:.1e}"
        world = f", {self.world}" if self.world else ""
        if self.law.startswith("structure "):
            return f"{self.law} fails on {self.target}: {self.world}" + (f", with {self.shapes}" if self.shapes else "")
        return f"{subject}{self.law} fails on {self.target} (relative error {size}) with {self.shapes}{world}"


class Operands:
    """The operands of one trial with what the operator makes of them, computed once."""

    def __init__(self, trial: Trial, floor: float = 0.0) -> None:
        self.trial, self.floor = trial, floor
        self._results: dict[frozenset[str], list[torch.Tensor]] = {}

    def results(self, values: Values) -> list[torch.Tensor]:
        """f(x)."""
        key = frozenset(values)
        if key not in self._results:
            self._results[key] = self.trial.run(values)
        return self._results[key]

    @property
    def defined(self) -> bool:
        """Whether the operator has a value here: the others are outside its domain."""
        try:
            return not any(bool(result.isnan().any()) for result in self.results(self.trial.values))
        except REFUSALS:
            return False

    def moved(self, values: Values, elements: Mapping[str, Elements]) -> tuple[Values, Results, Results]:
        """g x, f(g x) and g f(x) for elements of axes, as `Trial.sample` draws them."""
        trial = self.trial
        operands, results = trial.tokens
        sizes = {**trial.sizes, **{name: element.co.shape[0] for name, element in elements[""].items()}}
        moved = {name: act(value, operands[name], elements[name]) for name, value in values.items()}
        expected = [
            act(result, tokens, elements[""]) for result, tokens in zip(self.results(values), results, strict=False)
        ]
        moved |= {
            name: renumbered(moved[name], axis, elements[""])
            for name, axis in trial.rule.indexes.items()
            if name in moved
        }
        for number, name in trial.rule.points.items():
            expected[int(number)] = renumbered(expected[int(number)], name, elements[""])
        return moved, trial.run(moved, sizes), expected

    def error(self, values: Values, classes: Classes) -> float:
        """Largest relative difference between f(g x) and g f(x); infinite where f(g x) cannot be computed."""
        try:
            _, results, expected = self.moved(values, self.trial.sample(classes))
        except REFUSALS:
            return float("inf")
        return max(difference(result, wanted, self.floor) for result, wanted in zip(results, expected, strict=True))

    def fails(self, error: float) -> bool:
        """Whether an error is more than rounding."""
        return not error < self.trial.world.tolerance

    def failure(
        self, law: str, error: float, axes: str = "", classes: str = "", values: Values | None = None
    ) -> Failure:
        """The counterexample."""
        trial = self.trial
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in (values or trial.values).items())
        return Failure(law, axes, classes, str(trial), error, shapes, trial.world.name)


def in_worlds(trials: Iterator[Trial] | tuple[Trial, ...]) -> Iterator[Operands]:
    """The trials in whose worlds the operator has a value; what is flat is measured against entries of size one."""
    floor = 0.0
    for trial in trials:
        operands = Operands(trial, 0.0 if trial.world.plain else floor)
        if operands.defined:
            if trial.world is PLAIN:
                floor = max((size(result) for result in operands.results(trial.values)), default=0.0)
            yield operands


def tested(bound: Bound) -> tuple[SymmetryClass, ...]:
    """The classes that stand for a bound: its largest, and unequal widths where they are inside one of these."""
    largest = maximal(bound)
    return (*largest, SEMI) if SEMI in bound and SEMI not in largest else largest


def turns(choices: Mapping[str, tuple[SymmetryClass, ...]]) -> Iterator[Classes]:
    """Every class of every axis in some combination with those of the others."""
    for turn in range(max((len(choice) for choice in choices.values()), default=0)):
        yield {name: choice[turn % len(choice)] for name, choice in choices.items()}


def named(classes: Classes) -> tuple[str, str]:
    """The axes and the classes of a combination, as text."""
    axes = ", ".join(dict.fromkeys(AxisToken(name).axis for name in classes))
    return axes, ", ".join(dict.fromkeys(map(str, classes.values())))
