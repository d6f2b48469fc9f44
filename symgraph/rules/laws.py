"""The laws of a rule beyond equivariance: `adds`, `gain`, `shift` and the like, as relative errors at one trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from symgraph.rules.schema import Rule
from symgraph.rules.signature import Tokens
from symgraph.rules.trial import REFUSALS, Trial, Values


def difference(result: torch.Tensor, expected: torch.Tensor, floor: float = 0.0) -> float:
    """The largest change over the largest entry, or over `floor` where that is larger; equal infinities are equal."""
    if result.shape != expected.shape or bool(expected.isnan().any()):
        return float("inf")
    change = torch.where(result == expected, 0.0, (result - expected).abs())
    scale = max(size(expected), size(result), floor, 1e-300)
    return float((change / scale).nan_to_num(torch.inf).max()) if change.numel() else 0.0


def size(value: torch.Tensor) -> float:
    """The largest finite entry."""
    return float(value.abs().nan_to_num(0.0, 0.0, 0.0).max()) if value.numel() else 0.0


def without(trial: Trial, names: set[str | None]) -> Values:
    """The operands less some."""
    return {name: value for name, value in trial.values.items() if name not in names}


def further_laws(trial: Trial, floor: float = 0.0) -> Iterator[tuple[str, str, float]]:
    """Every further law that the rule states: its key, the operand or axis it is about, and its relative error."""
    for name, law in _LAWS.items():
        for subject, error in _tried(law, trial, floor):
            yield name, subject, error


def _tried(law: _Law, trial: Trial, floor: float) -> list[tuple[str, float]]:
    """The errors of a law; infinite where it makes no sense for these shapes."""
    try:
        return [(subject, difference(result, expected, floor)) for subject, result, expected in law(trial)]
    except REFUSALS:
        return [("an operand that it does not fit", float("inf"))]


# What each law says of a subject: what was found, and what it should be.
_Law = Callable[[Trial], Iterator[tuple[str, torch.Tensor, torch.Tensor]]]
_Found = Iterator[tuple[str, torch.Tensor, torch.Tensor]]


def along(value: torch.Tensor, tokens: Tokens, result: Tokens) -> torch.Tensor:
    """`value` with its axes where the result has them, and axes of size one elsewhere."""
    order = [t.name for t in result]
    named = sorted(range(len(tokens)), key=lambda axis: order.index(tokens[axis].name))
    shape = [1] * len(order)
    for axis in named:
        shape[order.index(tokens[axis].name)] = value.shape[axis]
    return value.permute(named).reshape(shape)


def _adds(trial: Trial) -> _Found:
    name = trial.rule.adds
    if name is None or name not in trial.values:
        return
    zero = {**trial.values, name: torch.zeros_like(trial.values[name])}
    before = trial.run(without(trial, {name}) if _optional(trial.rule, name) else zero)[0]
    added = along(trial.values[name], trial.tokens[0][name], trial.tokens[1][0])
    yield name, trial.run(trial.values)[0], before + added


def _optional(rule: Rule, name: str) -> bool:
    operand = rule.signature.operand(name) if rule.signature else None
    return operand is not None and operand.optional


def _along_result(trial: Trial, name: str) -> torch.Tensor:
    """An operand with its axes where the result has them."""
    return along(trial.values[name], trial.tokens[0][name], trial.tokens[1][0])


def _gain(trial: Trial) -> _Found:
    name = trial.rule.gain
    if name is None or name not in trial.values:
        return
    plain = without(trial, {trial.rule.adds})
    core = trial.run({operand: value for operand, value in plain.items() if operand != name})[0]
    yield name, trial.run(plain)[0], core * _along_result(trial, name)


def _shift(trial: Trial) -> _Found:
    for name, law in trial.rule.shift.items():
        if _takes_numbers(trial, name):
            constant = _constant(trial, name, law)
            shifted = trial.run({**trial.values, name: trial.values[name] + constant})[0]
            before = trial.run(trial.values)[0]
            yield name, shifted, before if law == "none" else before + _arriving(trial, name, law, constant, before)


def _chooses(trial: Trial) -> _Found:
    names = [name for name in trial.rule.chooses if _takes_numbers(trial, name)]
    if names and len(names) == len(trial.rule.chooses):
        before = trial.run(trial.values)[0]
        constant = _drawn(trial, list(before.shape))
        moved = {name: trial.values[name] + constant for name in names}
        yield " and ".join(names), trial.run({**trial.values, **moved})[0], before + constant


def _differs(trial: Trial) -> _Found:
    names = [name for name in trial.rule.differs if _takes_numbers(trial, name)]
    if names and len(names) == len(trial.rule.differs):
        least = min(names, key=lambda name: trial.values[name].dim())
        constant = _drawn(trial, list(trial.values[least].shape))
        first, *_ = names
        spread = along(constant, trial.tokens[0][least], trial.tokens[0][first])
        moved = {name: trial.values[name] + (constant if name == least else spread) for name in names}
        yield " and ".join(names), trial.run({**trial.values, **moved})[0], trial.run(trial.values)[0]


def _takes_numbers(trial: Trial, name: str) -> bool:
    """Whether a constant can be added to an operand: to a mask none can."""
    return name in trial.values and trial.values[name].is_floating_point()


def _constant(trial: Trial, name: str, law: str) -> torch.Tensor:
    """A tensor like the operand, varying along batch axes and its last named axis that a constant can vary along.

    It does not along one that is reduced, nor along one that the result lacks where the constant arrives in that.
    """
    tokens, results = trial.tokens[0][name], {token.name for token in trial.tokens[1][0]}
    arrives = law in ("output", "minus")
    kept = (
        token.name
        for token in reversed(tokens)
        if token.claimed and not token.batch and token.axis != trial.rule.reduces
        if not arrives or token.name in results
    )
    feature = next(kept, "*0")
    shape = [
        size if token.batch or token.name == feature else 1
        for token, size in zip(tokens, trial.values[name].shape, strict=True)
    ]
    if any(token.axis == "*" for token in tokens):
        shape = [1] * (len(shape) - 1) + shape[-1:]
    return _drawn(trial, shape)


def _drawn(trial: Trial, shape: list[int]) -> torch.Tensor:
    return trial.world.floats(shape, trial.generator, ())


def _arriving(trial: Trial, name: str, law: str, constant: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """What a constant that is added to an operand adds to the result."""
    operands, results = trial.tokens
    if law == "minus":
        return -_arriving(trial, name, "output", constant, result)
    if law == "output":
        gone = [axis for axis, token in enumerate(operands[name]) if token.axis == trial.rule.reduces]
        return (constant if constant.dim() <= result.dim() else constant.squeeze(gone)).expand_as(result)
    letters = {name: chr(97 + number) for number, name in enumerate(trial.sizes)}
    left, right, out = (
        "".join(letters[token.name] for token in ts) for ts in (operands[name], operands[law], results[0])
    )
    return torch.einsum(f"{left},{right}->{out}", constant.expand_as(trial.values[name]), trial.values[law])


def _centred(trial: Trial) -> _Found:
    axis = trial.rule.centred
    if axis is None:
        return
    first = trial.operands[0].name
    core = without(trial, {trial.rule.gain, trial.rule.adds})
    result = trial.run(core)[0]
    names = [token.name for token in trial.tokens[0][first]]
    lengths = [1 if name == axis else size for name, size in zip(names, core[first].shape, strict=True)]
    moved = trial.run({**core, first: core[first] + _drawn(trial, lengths)})[0]
    yield f"{axis} (the mean is not seen)", moved, result
    at = [token.name for token in trial.tokens[1][0]].index(axis)
    yield f"{axis} (the result has mean zero)", result - result.mean(at, keepdim=True), result


def _weights(trial: Trial) -> _Found:
    """Rows of weights, wherever these are numbers: of what is closed everywhere there are none."""
    axis, names = trial.rule.weights, [token.name for token in trial.tokens[1][0]]
    if axis is not None and axis in names:
        total = trial.run(trial.values)[0].sum(names.index(axis))
        yield axis, total.nan_to_num(1.0), torch.ones_like(total)


def _statistics(trial: Trial) -> _Found:
    """Other statistics, then the gain and bias that make up for them: the result must be what it was."""
    rule = trial.rule
    if not rule.statistics or rule.gain not in trial.values or rule.adds not in trial.values:
        return
    first = trial.operands[0].name
    bare = without(trial, {rule.gain, rule.adds})
    other = dict(bare)
    for name in rule.statistics:
        noise = torch.rand(bare[name].shape, generator=trial.generator, dtype=torch.float64)
        other[name] = bare[name] + noise
    old, new = (_affine(trial, first, values) for values in (bare, other))
    gain, bias = _along_result(trial, rule.gain), _along_result(trial, rule.adds)
    ratio = old[0] / new[0]
    shift = gain * (old[1] - ratio * new[1])
    restored = trial.run(other)[0] * (ratio * gain) + bias + shift
    yield " and ".join(rule.statistics), restored, trial.run(trial.values)[0]


def _affine(trial: Trial, first: str, values: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """Slope and shift of the result in the first operand."""
    zero = trial.run({**values, first: torch.zeros_like(values[first])})[0]
    return trial.run({**values, first: torch.ones_like(values[first])})[0] - zero, zero


def _blind(trial: Trial) -> _Found:
    for name, axes in trial.rule.blind.items():
        if _takes_numbers(trial, name):
            along_these = zip(trial.tokens[0][name], trial.values[name].shape, strict=True)
            shape = [1 if token.axis in axes.split() else size for token, size in along_these]
            moved = trial.values[name] + _drawn(trial, shape)
            result = trial.run({**trial.values, name: moved})[0]
            yield f"{name} along {axes}", result, trial.run(trial.values)[0]


def _radial(trial: Trial) -> _Found:
    name = trial.rule.radial
    if name is not None and name in trial.values:
        before = trial.run(trial.values)[0]
        for factor in (0.03, 1.7):
            yield name, trial.run({**trial.values, name: factor * trial.values[name]})[0], before


_LAWS: dict[str, _Law] = {
    "adds": _adds,
    "gain": _gain,
    "shift": _shift,
    "chooses": _chooses,
    "differs": _differs,
    "centred": _centred,
    "weights": _weights,
    "statistics": _statistics,
    "blind": _blind,
    "radial": _radial,
}
