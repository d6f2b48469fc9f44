"""What no rule covers, in words: where it is, and what its user can do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import indent, wrap

from symgraph.errors import CoverageError, argument
from symgraph.symmetry.fold import WIDTH, fold
from symgraph.symmetry.structure import Uncovered
from symgraph.tracing.arguments import parameters

NOTHING = "nothing to be done: what it reads is read by position in any case"
WRITE = "fill in this rule, and add its folder to your rules"
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
    return next((text for part, text in KERNELS if part in missing.operator), WRITE)


def rule_skeleton(missing: Uncovered) -> str:
    """YAML to fill in for an uncovered operator."""
    parts = missing.operator.split(".")
    short = parts[min(1, len(parts) - 1)].replace("_", "-").strip("-")
    operands = [
        f"{argument.name}[... d]"
        for argument in parameters(missing.operator) or ()
        if argument.tensor and argument.required
    ]
    return (
        f"- rule: {short}\n  about: what it does, in a sentence\n  source: 'proof: why the claim holds'\n"
        f'  ops: [{missing.operator}]\n  signature: "{", ".join(operands or ["input[... d]"])} -> [... d]"\n'
        "  admits: {d: permutation}"
    )


def report(missing: Sequence[Uncovered]) -> Iterator[str]:
    """For each cause one paragraph: the operator, the places where it is, and what to do."""
    causes: dict[tuple[str, str], list[Uncovered]] = {}
    for call in missing:
        causes.setdefault((call.operator, remedy(call)), []).append(call)
    for (operator, todo), found in causes.items():
        yield f"no rule covers {operator}; the axes it touches are rigid at"
        for place in _places(found):
            yield from wrap(place, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4, break_on_hyphens=False)
        yield f"  to do: {todo}"
        if todo == WRITE:
            yield indent(rule_skeleton(found[0]), "    ")


def _places(found: Sequence[Uncovered]) -> Iterator[str]:
    """The places with repeated layers folded, each with its operands."""
    modules: dict[tuple[str, str], list[str]] = {}
    for call in found:
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
    write = next((call for call in missing if remedy(call) == WRITE), None)
    return CoverageError(
        f"{len(missing)} operators have no rule:\n{lines}",
        cause=f"{argument('strict', True)} makes an uncovered operator an error; without it their axes are rigid",
        remedy=f"add a rule, {argument('rules', ['DIR'])}:\n{rule_skeleton(write)}"
        if write
        else f"leave out {argument('strict', True)}",
    )
