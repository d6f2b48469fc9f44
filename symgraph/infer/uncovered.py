"""What no rule covers: where it is, and what its user can do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import indent, wrap

from symgraph.errors import CoverageError
from symgraph.groups.classes import RIGID
from symgraph.infer.fold import fold
from symgraph.infer.resolve import Draft
from symgraph.infer.symmetry import Uncovered
from symgraph.ir import Node, Tensor
from symgraph.rules.operators import parameters

WIDTH = 120
NOTHING = "nothing to be done: what it reads is read by position in any case"
WRITE = "fill in this rule, and give its folder with --rules"
# Kernels that stand for a whole module: a part of their name, and the argument that chooses plain operators instead.
KERNELS = (
    ("grouped_mm", 'load the model with experts_implementation="batched_mm", which is made of plain operators'),
    ("flash", 'load the model with attn_implementation="sdpa" or "eager", which are made of plain operators'),
    ("flex_attention", 'load the model with attn_implementation="sdpa" or "eager", which are made of plain operators'),
)


def uncovered(d: Draft) -> tuple[Uncovered, ...]:
    """Every operator without a rule that something learned flows through."""
    return tuple(_found(d, node) for node in d.eq.uncovered)


def _found(d: Draft, node: Node) -> Uncovered:
    names = tuple(dict.fromkeys(node.refs()))
    operands = [d.eq.graph.by_name[r].result for r in names]
    shapes = tuple(repr(t) for t in operands if isinstance(t, Tensor))
    refs = [x for name in names for axes in d.eq.values[name] for ref in axes for x in d.eq.store.leaves(ref)]
    idle = all(_rigid_otherwise(d, x) for x in refs if d.eq.store.size(x) != 1)
    return Uncovered(node.target, node.where, shapes, idle)


def _rigid_otherwise(d: Draft, ref: int) -> bool:
    """Whether a rule bounds this axis by the identity, and not only the lack of one."""
    return any(bound == RIGID and why.rule != "(none)" for bound, why in d.evidence[d.root(ref)])


def remedy(u: Uncovered) -> str:
    """What to do about an uncovered operator, in a sentence."""
    if u.idle:
        return NOTHING
    return next((text for part, text in KERNELS if part in u.operator), WRITE)


def rule_skeleton(u: Uncovered) -> str:
    """YAML to fill in for an uncovered operator."""
    parts = u.operator.split(".")
    short = parts[min(1, len(parts) - 1)].replace("_", "-").strip("-")
    operands = [f"{a.name}[... d]" for a in parameters(u.operator) or () if a.tensor and a.required]
    return (
        f"- rule: {short}\n  about: what it does, in a sentence\n  source: 'proof: why the claim holds'\n"
        f'  ops: [{u.operator}]\n  signature: "{", ".join(operands or ["input[... d]"])} -> [... d]"\n'
        "  admits: {d: permutation}"
    )


def report(missing: Sequence[Uncovered]) -> Iterator[str]:
    """For each cause one paragraph: the operator, the places where it is, and what to do."""
    causes: dict[tuple[str, str], list[Uncovered]] = {}
    for u in missing:
        causes.setdefault((u.operator, remedy(u)), []).append(u)
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
    for u in found:
        module, _, inside = u.where.partition(" (")
        modules.setdefault((inside, ", ".join(u.shapes)), []).append(module)
    for (inside, shapes), names in modules.items():
        for f in fold(names):
            yield f"{f.pattern} ({inside}, operands {shapes}"


def coverage_error(missing: Sequence[Uncovered]) -> CoverageError:
    """The error under `strict`: every cause with its place, what would help, and a rule to fill in."""
    lines = "\n".join(
        f"  {u.operator} at {u.where}, operands {', '.join(u.shapes)}; to do: {remedy(u)}" for u in missing
    )
    write = next((u for u in missing if remedy(u) == WRITE), None)
    return CoverageError(
        f"{len(missing)} operators have no rule:\n{lines}",
        cause="--strict makes an uncovered operator an error; without it their axes are rigid",
        remedy=f"add a rule with --rules DIR:\n{rule_skeleton(write)}" if write else "leave out --strict",
    )
