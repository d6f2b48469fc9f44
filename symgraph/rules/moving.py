"""What `structure:` says: an operator moves the entries of its operands, drops or repeats some, makes no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from symgraph.ir import Ref, map_refs
from symgraph.rules.schema import Rule
from symgraph.rules.trial import REFUSALS, typed
from symgraph.tracing.arguments import call, parameters
from symgraph.tracing.operators import short_name

# They may make entries of their own, the same whatever the operands hold.
FILLING = frozenset({"constant", "zero", "pad", "rigid"})
# The index of what they pick from is read by value.
PICKING = frozenset({"index", "rigid"})
# Memory that is only there to be written to: what it holds cannot matter.
MEMORY = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
_SHAPE, OFFSET = (3, 5), 0.3125

Values = Mapping[str, torch.Tensor]
Run = Callable[[Values], list[torch.Tensor]]


def runner(target: str, arguments: Mapping[str, Any]) -> Run:
    """The operator as a function of the values that its arguments refer to."""

    def run(values: Values) -> list[torch.Tensor]:
        given = {name: typed(name, map_refs(value, lambda ref: values[ref.name])) for name, value in arguments.items()}
        results = call(target, given)
        return list(results) if isinstance(results, list | tuple) else [results]

    return run


def numbered(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Operands of which every entry has a number of its own, from 1 on; `OFFSET` tells these from other numbers."""
    numbers, start = {}, 1
    for name, shape in shapes.items():
        size = torch.Size(shape).numel()
        numbers[name] = torch.arange(start, start + size, dtype=torch.float64).reshape(shape) + OFFSET
        start += size
    return numbers


def why_not_moved(rule: Rule, run: Run, operands: Values, fixed: Values) -> str:
    """How the operator does more to its operands than move their entries, or ''.

    Args:
        operands: see `numbered`.
        fixed: what else it reads, such as positions to pick at.
    """
    count = sum(operand.numel() for operand in operands.values()) + 1
    generator = torch.Generator().manual_seed(0)
    for scale in (1.0, 1000.0):
        table = scale * torch.randn(count, generator=generator, dtype=torch.float64)
        at = [result.double() for result in run({**operands, **fixed})]
        fetched = [
            result.double()
            for result in run({name: table[positions.long()] for name, positions in operands.items()} | dict(fixed))
        ]
        for number, value in zip(at, fetched, strict=True):
            own = (number < 1) | (number >= count) | (number - OFFSET != (number - OFFSET).round())
            if bool(own.any()) and rule.structure not in FILLING:
                return "it makes entries that its operands do not have"
            if rule.structure == "zero" and bool(value.ne(0).any()):
                return "its result is not zero"
            if rule.structure == "constant" and value.numel() and bool(value.ne(value.reshape(-1)[0]).any()):
                return "its result is not the same everywhere"
            moved = torch.where(own, number, table[number.clamp(0, count - 1).long()])
            if rule.structure not in FILLING - {"pad"} and not torch.equal(moved, value):
                return "it changes entries"
    return ""


def moved_at_example(rule: Rule) -> Iterator[tuple[str, str]]:
    """For every operator that can be tried without a call, how it does more than move entries."""
    for target in rule.ops:
        known = parameters(target) or ()
        args = dict(rule.examples[0].args)
        tensors = [argument.name for argument in known if argument.tensor and argument.required]
        if short_name(target) in MEMORY or rule.structure in PICKING:
            continue
        given = {argument.name: argument.default for argument in known} | args | {name: Ref(name) for name in tensors}
        if any(argument.required and argument.name not in (*tensors, *args) for argument in known) or not tensors:
            continue
        try:
            reason = why_not_moved(rule, runner(target, given), numbered(dict.fromkeys(tensors, _SHAPE)), {})
        except REFUSALS:
            continue
        if reason:
            yield target, reason
