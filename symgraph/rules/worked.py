"""A rule in words, with a worked example: its operator at small operands, moved by one element, in numbers.

Numbers are shown to two decimals; what is compared is not rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import RuleError
from symgraph.groups.elements import IndexSet
from symgraph.groups.lattice import RIGID, SymmetryClass, describe, group_of, maps, maximal, next_larger, ranked
from symgraph.rules.equivariance import Operands
from symgraph.rules.examples import at_example, trials
from symgraph.rules.laws import difference, without
from symgraph.rules.schema import Rule
from symgraph.rules.signature import AxisToken, Signature
from symgraph.rules.trial import Trial

BATCH, SMALL, PAIRS = (2,), 3, 4
SHOWN_SPELLINGS = 3
LAST = "*0"
_ACTS = {"": "by g", "'": "by the inverse transpose of g", "~": "by the permutation in g alone"}


@dataclass(frozen=True, slots=True)
class Worked:
    """One element of one axis at work: the operands before and after, f(g x), g f(x), and how far these differ.

    `breaks` has the next larger classes, each with the difference that a random element of it makes.
    """

    target: str
    axis: str
    group: str
    element: Tensor
    operands: Mapping[str, tuple[Tensor, Tensor]]
    found: Tensor
    expected: Tensor
    error: float
    breaks: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def to_plain(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "target": self.target,
            "axis": self.axis,
            "group": self.group,
            "element": self.element.tolist(),
            "operands": {
                name: {"before": before.tolist(), "after": after.tolist()}
                for name, (before, after) in self.operands.items()
            },
            "f(g x)": self.found.tolist(),
            "g f(x)": self.expected.tolist(),
            "error": self.error,
            "breaks": dict(self.breaks),
        }


# -- in words ----------------------------------------------------------------------------------------------------------


def in_words(rule: Rule) -> str:
    """What a rule says, in sentences."""
    return "\n".join(_words(rule))


def _words(rule: Rule) -> Iterator[str]:
    yield str(rule)
    yield f"  {rule.about}"
    yield f"  {rule.source}"
    said = rule.ops or tuple(pattern.text for pattern in rule.pattern)
    more = f", and {len(said) - SHOWN_SPELLINGS} more" if len(said) > SHOWN_SPELLINGS else ""
    yield f"  It is about {', '.join(said[:SHOWN_SPELLINGS])}{more}" + (f", where {rule.when}." if rule.when else ".")
    if rule.signature is None:
        yield f"  Entries change their places as by `{rule.structure}`, and nothing is mixed: every class passes."
        return
    yield ""
    yield f"f: {rule.signature}"
    for axis, bound in rule.admits.items():
        meaning = maps(group_of(bound)).meaning(IndexSet(SMALL, rule.layout or "halves"))
        words = meaning.replace(f"its {SMALL} positions", "its positions").replace(f"{SMALL // 2} ", "")
        yield f"  {axis}: {describe(bound)}: {words}"
        yield from (f"    moved {what}" for what in _acting(rule, rule.signature, axis))
    yield from (f"  {text}" for text in _laws(rule))
    yield from (f"  {axis} is left smaller than it is: {why}" for axis, why in rule.gaps.items())


def _acting(rule: Rule, signature: Signature, axis: str) -> Iterator[str]:
    if group_of(rule.admits[axis]) is SymmetryClass.IDENTITY:
        return
    tensors = [(operand.name, operand.axes) for operand in signature.operands]
    many = len(signature.results) > 1
    tensors += [
        (f"result {number}" if many else "the result", result) for number, result in enumerate(signature.results)
    ]
    by_mark: dict[str, list[str]] = {}
    for name, tokens in tensors:
        for token in tokens:
            if token.axis == axis:
                by_mark.setdefault(token.mark, []).append(name)
    yield from (f"{_ACTS[mark]}: {', '.join(names)}" for mark, names in by_mark.items())


def _laws(rule: Rule) -> Iterator[str]:
    """What holds beyond equivariance, in sentences."""
    if rule.gain:
        yield f"{rule.gain} multiplies the result at the end."
    if rule.adds:
        yield f"{rule.adds} is added to the result at the end."
    if rule.reduces:
        yield f"The result no longer has {rule.reduces}."
    if rule.product:
        powers = ", ".join(f"{name} to the power {power}" for name, power in rule.product.items())
        yield f"Scales and signs of the operands multiply in the result: {powers}."
    if rule.centred:
        yield f"The mean along {rule.centred} is neither seen nor produced."
    if rule.weights:
        yield f"The entries along {rule.weights} sum to one."
    if rule.radial:
        yield f"The length of {rule.radial} is not seen."
    yield from (f"A constant along {axis} that is added to {name} is not seen." for name, axis in rule.blind.items())
    yield from (f"What is added to {name} {_arrives(law)}." for name, law in rule.shift.items())
    yield from (f"{name} holds positions along {axis}, and follows them." for name, axis in rule.indexes.items())
    yield from (f"This is so where {name} is known to be {fact}." for name, fact in rule.assumes.items())


def _arrives(law: str) -> str:
    known = {"none": "is not seen", "output": "is added to the result", "minus": "is taken from the result"}
    return known.get(law, f"is added to the result after the product with {law}")


# -- in numbers --------------------------------------------------------------------------------------------------------


def worked(rule: Rule) -> Worked | None:
    """The axis with the largest class at work; None for a rule that claims nothing of any axis."""
    if rule.signature is None:
        return None
    trial = _small(rule)
    named = [name for name in trial.claims if trial.claims[name] != RIGID]
    if not named:
        return None
    name = max(named, key=lambda axis: (not AxisToken(axis).batch, ranked(trial.claims[axis]), axis == LAST))
    with torch.no_grad():
        return _at_work(Operands(trial), name, group_of(trial.claims[name]))


def _small(rule: Rule) -> Trial:
    """The first example of a rule at the fewest positions at which the operator runs."""
    target, example = (rule.ops or rule.pattern)[0], rule.examples[0]
    paired = any(maps(symmetry_class).paired for bound in rule.admits.values() for symmetry_class in maximal(bound))
    axes = rule.signature.axes if rule.signature else ()
    sizes = dict.fromkeys(axes, PAIRS if paired else SMALL)
    tried = (replace(example, batch=BATCH, sizes=sizes), replace(example, batch=BATCH))
    for smaller in tried:
        try:
            trial = at_example(rule, target, smaller)
        except RuleError:
            continue
        if trial.fits and trial.claims:
            return trial
    return next(made[0] for made in trials(rule))


def _at_work(operands: Operands, name: str, cls: SymmetryClass) -> Worked:
    trial = operands.trial
    values, tokens = without(trial, {trial.rule.gain}), trial.tokens[0]
    elements = trial.sample({name: cls})
    moved, result, expected = operands.moved(values, elements)
    larger = next_larger(trial.rule.admits[AxisToken(name).axis])
    return Worked(
        str(trial),
        name,
        str(cls),
        elements[""][name].co,
        {
            operand: (value, moved[operand])
            for operand, value in values.items()
            if any(token.name == name for token in tokens[operand])
        },
        result[0],
        expected[0],
        max(map(difference, result, expected)),
        tuple((str(symmetry_class), operands.error(values, {name: symmetry_class})) for symmetry_class in larger),
    )


def _lines(example: Worked) -> Iterator[str]:
    yield f"worked example: {example.target}, an element g of the class {example.group} on {example.axis}"
    yield from _array("g", example.element)
    for name, (before, after) in example.operands.items():
        yield from _array(name, before)
        yield from _array(f"g {name}", after)
    yield from _array("f(g x)", example.found)
    yield from _array("g f(x)", example.expected)
    yield f"  they differ by {example.error:.0e} (relative)"
    for cls, error in example.breaks:
        told = "the operator refuses" if error == float("inf") else f"they differ by {error:.0e}"
        yield f"  with a random element of the next larger class, {cls}: {told}"


def _array(name: str, value: Tensor) -> Iterator[str]:
    """A tensor in rows; of one with more than two axes, the first matrix."""
    shape = "x".join(map(str, value.shape))
    shown = value
    while shown.dim() > 2:
        shown = shown[0]
    first = " (its first matrix)" if value.dim() > 2 else ""
    yield f"  {name} = {shape}{first}" if value.dim() else f"  {name} = {float(value):.2f}"
    rows = shown.reshape(-1, shown.shape[-1]) if shown.dim() else shown.reshape(0, 1)
    yield from ("    " + " ".join(f"{float(entry):8.2f}" for entry in row) for row in rows)
