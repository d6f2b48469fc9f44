"""Factors that go from what writes a value to what reads it, where no space has them.

What a norm with a gain makes may be read by a map along another axis, as tokens are mixed. The axis of the gain has
permutations alone then, since this map treats its positions alike, but one factor of all entries goes from gain and
bias into the map. So it is of every value, or of several that have one factor in common, that parameters alone write
and read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.applied import Applied
from symgraph.inference.carriers import (
    Carriers,
    are_alone,
    has_own_length,
    is_number,
    linear_in,
    reading,
    relayed,
    use_of,
)
from symgraph.inference.flow import Flow
from symgraph.ir import Kind, Node, kept
from symgraph.symmetry.lengths import Radial
from symgraph.symmetry.terms import leaves
from symgraph.tracing.operators import short_name


@dataclass
class _Common:
    """Values with one factor in common, and the parameters that write and read them."""

    values: set[str] = field(default_factory=set)
    written: list[Carriers] = field(default_factory=list)
    read: list[Carriers] = field(default_factory=list)


def find_traded(flow: Flow) -> Iterator[Radial]:
    """Parameters that write values with a factor in common, and those that read them."""
    known = set[str]()
    for applied in flow.d.eq.applied:
        common = _Common()
        if applied.node.name not in known and _fill(flow, common, applied.node.name):
            before = tuple(name for carriers in common.written for name in carriers.tensors)
            after = tuple(name for carriers in common.read for name in carriers.tensors)
            if before and after and are_alone(flow, [*common.written, *common.read]):
                yield Radial((*before, *after), (*(1 for _ in before), *(-1 for _ in after)))
        known |= common.values


def _fill(flow: Flow, common: _Common, value: str) -> bool:
    """All values that have a factor in common with this one; whether parameters alone write and read them."""
    todo = [value]
    while todo:
        here = todo.pop()
        if here in common.values:
            continue
        common.values.add(here)
        # What is least is the norm of real numbers, and states are widened to float64 in these alone.
        if here in flow.graph.outputs or _is_scaled(flow, here) or "complex" in str(flow.graph.by_name[here].result):
            return False
        for user in flow.graph.users[here]:
            ends = _ends(flow, here, user)
            onward = None if ends is not None else _passed(flow, user)
            if ends is None and (onward is None or here not in onward):
                return False
            common.read += ends or []
            todo += [] if onward is None else [user.name]
        before = _before(flow, common, here)
        if before is None:
            return False
        todo += before
    return True


def _is_scaled(flow: Flow, value: str) -> bool:
    """Whether some space on a value has factors, this one among them."""
    frames = {leaf.frame for term in flow.d.values.get(value, ()) for leaf in leaves(term)} - {-1}
    return any(_has_factors(flow, frame) for frame in frames)


@kept
def _has_factors(flow: Flow, frame: int) -> bool:
    return SymmetryClass.PAIRWISE_SCALES in flow.bound(frame)


def _ends(flow: Flow, value: str, user: Node) -> list[Carriers] | None:
    """What makes up for the factor where a call reads a value, nothing where it does not see it; None for all else."""
    a = flow.applied.get(user.name)
    if a is None or flow.operand(a, value) is None:
        return None
    if a.rule.radial is not None and a.rule.radial == flow.operand(a, value):
        return []
    read = reading(flow, user, value)
    found = Carriers((read[0],), frozenset({read[1]})) if read is not None else _gain(flow, a, value)
    return None if found is None else [found]


def _before(flow: Flow, common: _Common, value: str) -> list[str] | None:
    """The values that one has its factor of, once parameters that it has it of are noted; None where it has none."""
    node = flow.graph.by_name[value]
    if node.kind is Kind.PARAMETER:
        common.written.append(Carriers((node.target,), frozenset(user.name for user in flow.graph.users[value])))
        return []
    writer = flow.applied.get(value)
    found = None if writer is None else next(linear_in(flow, writer), None) or _tail(flow, writer)
    if found is not None:
        common.written.append(found)
        return []
    before = _passed(flow, node)
    return before if before is not None and not any(has_own_length(flow, ref) for ref in before) else None


def _passed(flow: Flow, node: Node) -> list[str] | None:
    """The operands of which a factor becomes one of the result; None for all other calls. Absorbed gains are one."""
    a = flow.applied.get(node.name)
    if a is not None and flow.is_one(a):
        return [ref for ref in node.refs() if use_of(flow, a, ref) is None]
    return relayed(flow, node)


def _tail(flow: Flow, writer: Applied) -> Carriers | None:
    """The gain that a call multiplies by at its end, with the bias that it adds behind."""
    rule, operands = writer.rule, writer.binding.operands
    if rule.gain not in operands:
        refs = [ref for ref in writer.node.refs() if _gain(flow, writer, ref) is not None]
        return _gain(flow, writer, refs[0]) if len(refs) == 1 else None
    names = [operands[key][0].name for key in (rule.gain, rule.adds) if key in operands]
    uses = [use for name in names if (use := use_of(flow, writer, name)) is not None]
    if len(uses) < len(names) or writer.node.name in flow.gain_of:
        return None
    return Carriers(tuple(name for name, _ in uses), frozenset(call for _, call in uses))


def _gain(flow: Flow, product: Applied, value: str) -> Carriers | None:
    """The parameter of several entries that stays and multiplies a value."""
    others = [ref for ref in product.node.refs() if ref != value]
    if short_name(product.node.target) != "mul" or len(others) != 1 or product.node.name in flow.gain_of:
        return None
    use = use_of(flow, product, others[0])
    number = use is None or is_number(flow.graph.state[use[0]])
    return None if number or use is None else Carriers((use[0],), frozenset({use[1]}))
