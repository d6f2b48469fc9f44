"""Rules that inference measures for one region of one graph: the call that stands for the region carries its rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from symgraph.groups.lattice import Bound, describe
from symgraph.ir import Node, Ref
from symgraph.rules.binding import Binding
from symgraph.rules.schema import Rule
from symgraph.rules.signature import AxisToken, Operand, Signature
from symgraph.tracing.arguments import PATTERN
from symgraph.tracing.operators import short_name

_RULE = "rule"


@dataclass(frozen=True, slots=True)
class Carried:
    """A rule among the arguments of the call that it is about."""

    rule: Rule

    def __repr__(self) -> str:
        axes = [f"{axis}: {describe(bound)}" for axis, bound in self.rule.admits.items()]
        laws = [f"{operand} -> {law}" for operand, law in self.rule.shift.items()]
        laws += [f"{operand} blind to {axis}" for operand, axis in self.rule.blind.items()]
        return f"({self.rule.rule}: {', '.join(axes + laws)})"


def measured_rule(node: Node) -> Rule | None:
    """The rule that a call carries, if it stands for a measured region."""
    carried = dict(node.kwargs).get(_RULE)
    return carried.rule if isinstance(carried, Carried) else None


def measured_node(
    node: Node,
    name: str,
    about: str,
    operands: Mapping[str, Ref],
    axes: Mapping[str, Sequence[str]],
    results: Sequence[str],
    admits: Mapping[str, Bound],
    **laws: Any,
) -> Node:
    """The call in the place of `node` that stands for a region, with the rule that was measured for it.

    Args:
        operands: what the region reads, by name.
        axes: for every operand what its axes are called, as in a signature.
        results: the same for the result.
        admits: the class of every axis.
        laws: further keys of the rule.
    """
    signature = Signature(tuple(Operand(operand, _tokens(axes[operand])) for operand in operands), (_tokens(results),))
    rule = Rule(name, about, f"measured: {about}", (), signature=signature, admits=admits, **laws)
    return replace(node, target=PATTERN + name, args=(), kwargs=((_RULE, Carried(rule)), *operands.items()))


def lawful_node(node: Node, binding: Binding, **laws: Any) -> Node:
    """The call under its own rule with further laws, which were measured for it where it stands."""
    rule = replace(binding.rule, **laws)
    kwargs = tuple((name, value) for name, value in binding.arguments.items())
    return replace(node, target=PATTERN + short_name(node.target), args=(), kwargs=((_RULE, Carried(rule)), *kwargs))


def _tokens(names: Sequence[str]) -> tuple[AxisToken, ...]:
    return tuple(AxisToken(name.rstrip("'~"), name[len(name.rstrip("'~")) :]) for name in names)
