"""What no rule covers: where it is, how much of the model it holds fixed, and what its user can do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from textwrap import wrap

from symgraph.errors import CoverageError, argument
from symgraph.groups.lattice import maximal
from symgraph.symmetry.fold import WIDTH, fold
from symgraph.symmetry.structure import Structure, Uncovered, meet

# What stands for a rule in the evidence where there is none.
NO_RULE = "(none)"
NOTHING = "nothing to be done: what it reads is read by position in any case"
# Kernels that stand for a whole module: a part of their name, and the argument that chooses plain operators instead.
KERNELS = (
    ("grouped_mm", 'load the model with experts_implementation="batched_mm", which is made of plain operators'),
    ("flash", 'load the model with attn_implementation="sdpa" or "eager", which are made of plain operators'),
    ("flex_attention", 'load the model with attn_implementation="sdpa" or "eager", which are made of plain operators'),
)


def remedy(missing: Uncovered) -> str:
    """What to do about an uncovered operator, in a sentence."""
    if missing.idle:
        return NOTHING
    return next((text for part, text in KERNELS if part in missing.operator), measuring(missing.operator))


def measuring(operator: str) -> str:
    """How a rule for an operator is made."""
    return f"`symgraph rules new {operator} --model MODEL` measures a rule, to be given with --rules"


def report(missing: Sequence[Uncovered]) -> Iterator[str]:
    """For each cause one paragraph: the operator, the places where it is, and what to do."""
    causes: dict[tuple[str, str], list[Uncovered]] = {}
    for call in missing:
        causes.setdefault((call.operator, remedy(call)), []).append(call)
    for (operator, todo), calls in causes.items():
        yield f"no rule covers {operator}; the axes it touches are rigid at"
        for place in _places(calls):
            yield from wrap(place, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4, break_on_hyphens=False)
        yield f"  to do: {todo}"


def _places(calls: Sequence[Uncovered]) -> Iterator[str]:
    """The places with repeated layers folded, each with its operands."""
    modules: dict[tuple[str, str], list[str]] = {}
    for call in calls:
        module, _, inside = call.where.partition(" (")
        modules.setdefault((inside, ", ".join(call.shapes)), []).append(module)
    for (inside, shapes), names in modules.items():
        for folded in fold(names):
            yield f"{folded.pattern} ({inside}, operands {shapes}"


def coverage_error(missing: Sequence[Uncovered]) -> CoverageError:
    """The error under `strict`: every cause with its place, what would help, and a rule to fill in."""
    lines = "\n".join(
        f"  {call.operator} at {call.where}, operands {', '.join(call.shapes)}; to do: {remedy(call)}"
        for call in missing
    )
    write = next((todo for call in missing if (todo := remedy(call)) == measuring(call.operator)), "")
    return CoverageError(
        f"{len(missing)} operators have no rule:\n{lines}",
        cause=f"{argument('strict', True)} makes an uncovered operator an error; without it their axes are rigid",
        remedy=write or f"leave out {argument('strict', True)}",
    )


# -- how much it holds -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gap:
    """An operator without a rule: how often it is called, and the size of the parameters that it alone freezes.

    These are the parameters with an axis on a space that evidence other than missing rules would let move.
    """

    operator: str
    calls: int
    frozen: int
    todo: str


def gaps(symmetry: Structure) -> tuple[Gap, ...]:
    """The operators without a rule, that which freezes most first."""
    frozen = {name: frozenset[str]() for name in dict.fromkeys(call.operator for call in symmetry.uncovered)}
    for space in symmetry.spaces:
        missing = [reason.reason for reason in space.evidence if reason.rule == NO_RULE]
        others = meet([reason for reason in space.evidence if reason.rule != NO_RULE])
        if not missing or maximal(others) == maximal(space.bound):
            continue
        for operator in frozen:
            if any(reason.endswith(f" {operator}") for reason in missing):
                frozen[operator] |= set(symmetry.parameters_of[space.id]) & symmetry.graph.parameters.keys()
    calls = Counter(call.operator for call in symmetry.uncovered)
    todo = {call.operator: remedy(call) for call in sorted(symmetry.uncovered, key=lambda call: not call.idle)}
    sizes = {operator: sum(_size(symmetry, name) for name in names) for operator, names in frozen.items()}
    ranked = sorted(sizes, key=lambda operator: (-sizes[operator], operator))
    return tuple(Gap(operator, calls[operator], sizes[operator], todo[operator]) for operator in ranked)


def _size(symmetry: Structure, name: str) -> int:
    return prod(symmetry.graph.state[name].shape)
