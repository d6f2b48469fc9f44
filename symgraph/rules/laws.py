"""The laws of a rule beyond equivariance: `adds`, `gain`, `shift` and `centred`, as relative errors at one trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from symgraph.rules.schema import Rule
from symgraph.rules.signature import Tokens
from symgraph.rules.trial import Trial, Values

Law = Callable[[Trial], Iterator[tuple[str, float]]]


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    if found.shape != expected.shape or not torch.isfinite(found).all():
        return float("inf")
    scale = max(float(expected.abs().max()), float(found.abs().max()), 1e-300)
    return float((found - expected).abs().max()) / scale


def without(trial: Trial, names: set[str | None]) -> Values:
    return {k: v for k, v in trial.values.items() if k not in names}


def further_laws(trial: Trial) -> Iterator[tuple[str, float]]:
    """Every further law that the rule states, and its relative error."""
    for name, law in (
        ("adds", _adds),
        ("gain", _gain),
        ("shift", _shift),
        ("centred", _centred),
        ("statistics", _statistics),
        ("blind", _blind),
        ("radial", _radial),
    ):
        for subject, error in _tried(law, trial):
            yield f"{name} of {subject}", error


def _tried(law: Law, trial: Trial) -> list[tuple[str, float]]:
    """The errors of a law; infinite where it makes no sense for these shapes."""
    try:
        return list(law(trial))
    except (RuntimeError, IndexError, TypeError, ValueError, KeyError):
        return [("an operand that it does not fit", float("inf"))]


def _along(value: torch.Tensor, tokens: Tokens, result: Tokens) -> torch.Tensor:
    """`value` with its axes where the result has them, and axes of size one elsewhere."""
    order = [t.name for t in result]
    named = sorted(range(len(tokens)), key=lambda i: order.index(tokens[i].name))
    shape = [1] * len(order)
    for i in named:
        shape[order.index(tokens[i].name)] = value.shape[i]
    return value.permute(named).reshape(shape)


def _adds(trial: Trial) -> Iterator[tuple[str, float]]:
    name = trial.rule.adds
    if name is None or name not in trial.values or trial.tokens is None:
        return
    tokens, result = trial.tokens[0][name], trial.tokens[1][0]
    zero = {**trial.values, name: torch.zeros_like(trial.values[name])}
    before = trial.run(without(trial, {name}) if _optional(trial.rule, name) else zero)[0]
    yield name, difference(trial.run(trial.values)[0], before + _along(trial.values[name], tokens, result))


def _optional(rule: Rule, name: str) -> bool:
    operand = rule.signature.operand(name) if rule.signature else None
    return operand is not None and operand.optional


def _gain(trial: Trial) -> Iterator[tuple[str, float]]:
    name = trial.rule.gain
    if name is None or name not in trial.values or trial.tokens is None:
        return
    plain = without(trial, {trial.rule.adds})
    core = trial.run({k: v for k, v in plain.items() if k != name})[0]
    gain = _along(trial.values[name], trial.tokens[0][name], trial.tokens[1][0])
    yield name, difference(trial.run(plain)[0], core * gain)


def _shift(trial: Trial) -> Iterator[tuple[str, float]]:
    for name, law in trial.rule.shift.items():
        if name not in trial.values or trial.tokens is None:
            continue
        constant = _constant(trial, name)
        moved = {**trial.values, name: trial.values[name] + constant}
        found = trial.run(moved)[0] - trial.run(trial.values)[0]
        yield name, _shift_error(trial, name, law, constant, found)


def _constant(trial: Trial, name: str) -> torch.Tensor:
    """A tensor like the operand, varying along batch axes and its last named axis; not along a reduced one."""
    tokens = (trial.tokens or ({}, ()))[0][name]
    kept = (t.name for t in reversed(tokens) if t.claimed and not t.batch and t.axis != trial.rule.reduces)
    feature = next(kept, "*0")
    shape = [n if t.batch or t.name == feature else 1 for t, n in zip(tokens, trial.values[name].shape, strict=True)]
    if any(t.axis == "*" for t in tokens):
        shape = [1] * (len(shape) - 1) + shape[-1:]
    return torch.randn(shape, generator=trial.generator, dtype=torch.float64)


def _shift_error(trial: Trial, name: str, law: str, constant: torch.Tensor, found: torch.Tensor) -> float:
    if law == "none":
        return float(found.abs().max())
    operands, results = trial.tokens or ({}, ())
    if law == "output":
        gone = [i for i, t in enumerate(operands[name]) if t.axis == trial.rule.reduces]
        arriving = constant if constant.dim() <= found.dim() else constant.squeeze(gone)
        return difference(found, arriving.expand_as(found))
    letters = {n: chr(97 + i) for i, n in enumerate(trial.sizes)}
    left, right, out = ("".join(letters[t.name] for t in ts) for ts in (operands[name], operands[law], results[0]))
    wide = constant.expand_as(trial.values[name])
    return difference(found, torch.einsum(f"{left},{right}->{out}", wide, trial.values[law]))


def _centred(trial: Trial) -> Iterator[tuple[str, float]]:
    axis = trial.rule.centred
    if axis is None or trial.tokens is None:
        return
    first = trial.operands[0].name
    core = without(trial, {trial.rule.gain, trial.rule.adds})
    result = trial.run(core)[0]
    names = [t.name for t in trial.tokens[0][first]]
    lengths = [1 if n == axis else s for n, s in zip(names, core[first].shape, strict=True)]
    moved = core[first] + torch.randn(lengths, generator=trial.generator, dtype=torch.float64)
    yield f"{axis} (the mean is not seen)", difference(trial.run({**core, first: moved})[0], result)
    at = [t.name for t in trial.tokens[1][0]].index(axis)
    yield f"{axis} (the result has mean zero)", float(result.sum(at).abs().max() / result.abs().max())


def _statistics(trial: Trial) -> Iterator[tuple[str, float]]:
    """Other statistics, then the gain and bias that make up for them: the result must be what it was."""
    rule = trial.rule
    if not rule.statistics or rule.gain not in trial.values or rule.adds not in trial.values or trial.tokens is None:
        return
    first = trial.operands[0].name
    bare = without(trial, {rule.gain, rule.adds})
    other = dict(bare)
    for name in rule.statistics:
        noise = torch.rand(bare[name].shape, generator=trial.generator, dtype=torch.float64)
        other[name] = bare[name] + noise
    old, new = (_affine(trial, first, values) for values in (bare, other))
    gain, bias = (_along(trial.values[n], trial.tokens[0][n], trial.tokens[1][0]) for n in (rule.gain, rule.adds))
    ratio = old[0] / new[0]
    found = trial.run(other)[0] * (ratio * gain) + bias + gain * (old[1] - ratio * new[1])
    yield " and ".join(rule.statistics), difference(found, trial.run(trial.values)[0])


def _affine(trial: Trial, first: str, values: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """Slope and shift of the result in the first operand."""
    zero = trial.run({**values, first: torch.zeros_like(values[first])})[0]
    return trial.run({**values, first: torch.ones_like(values[first])})[0] - zero, zero


def _blind(trial: Trial) -> Iterator[tuple[str, float]]:
    for name, axis in trial.rule.blind.items():
        if name not in trial.values or trial.tokens is None:
            continue
        value = trial.values[name]
        tokens = trial.tokens[0][name]
        shape = [1 if t.axis == axis else n for t, n in zip(tokens, value.shape, strict=True)]
        moved = value + torch.randn(shape, generator=trial.generator, dtype=torch.float64)
        found = trial.run({**trial.values, name: moved})[0]
        yield f"{name} along {axis}", difference(found, trial.run(trial.values)[0])


def _radial(trial: Trial) -> Iterator[tuple[str, float]]:
    name = trial.rule.radial
    if name is not None and name in trial.values:
        found = trial.run({**trial.values, name: 1.7 * trial.values[name]})[0]
        yield name, difference(found, trial.run(trial.values)[0])
