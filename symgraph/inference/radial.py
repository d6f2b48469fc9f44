"""Weights whose length nothing sees: what they write is divided by its length, or a learned number makes up for it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, takewhile
from math import prod

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.applied import Applied
from symgraph.inference.carriers import (
    Carriers,
    are_alone,
    has_own_length,
    is_number,
    is_sum,
    keeps,
    linear_in,
    multiplied,
    read_linearly,
    reading,
    relayed,
    together,
    use_of,
    used,
    uses_of,
)
from symgraph.inference.flow import Flow
from symgraph.inference.learned_gains import LearnedGains
from symgraph.ir import Kind, Node
from symgraph.symmetry.lengths import Radial
from symgraph.symmetry.terms import Leaf, Product, leaves
from symgraph.tracing.operators import short_name


def find_radial(flow: Flow) -> list[Radial]:
    """Linear maps, with their biases, that write for scale-free readers alone, and those beside a learned number."""
    outer: dict[tuple[str, ...], set[int]] = {}
    calls: dict[tuple[str, ...], set[str]] = {}
    for applied in flow.d.eq.applied:
        if applied.rule is None or applied.binding is None or not applied.rule.radial:
            continue
        found = _common(flow, applied.binding.operands[applied.rule.radial][0].name)
        if found is not None:
            beside = _beside_length(flow, applied)
            outer[found.tensors] = outer.get(found.tensors, beside) & beside
            calls.setdefault(found.tensors, set()).update(found.calls)
    # Tensors that write several such streams, as those of one network on two inputs, do nothing else.
    alone = (tensors for tensors in outer if used(flow, tensors) == calls[tensors])
    return [*(_radial(flow, tensors, outer[tensors]) for tensors in alone), *_numbers(flow), *_numbers_of_heads(flow)]


def _common(flow: Flow, value: str) -> Carriers | None:
    """All that writes a stream of which only scale-free calls read."""
    todo, inside = [value], set[str]()
    tensors, calls = dict[str, None](), set[str]()
    while todo:
        here = todo.pop()
        if here in inside:
            continue
        inside.add(here)
        onward = [_onward(flow, here, user) for user in flow.graph.users[here]]
        written = _sources(flow, here)
        if here in flow.graph.outputs or None in onward or written is None:
            return None
        before, carriers = written
        todo += [*before, *(name for name in onward if name)]
        tensors |= dict.fromkeys(carriers.tensors)
        calls |= carriers.calls
    if not tensors:
        return None
    order = [node.target for node in flow.graph.parameters.values()]
    return Carriers(tuple(sorted(tensors, key=order.index)), frozenset(calls))


def _onward(flow: Flow, value: str, user: Node) -> str | None:
    """Where a use passes a common factor on, '' where it ends it, None where it sees it."""
    applied = flow.applied.get(user.name)
    radial = applied.rule.radial if applied is not None and applied.rule is not None else None
    if applied is not None and radial and flow.operand(applied, value) == radial:
        return ""
    passed = relayed(flow, user)
    return user.name if passed is not None and value in passed else None


def _sources(flow: Flow, value: str) -> tuple[list[str], Carriers] | None:
    """What a value has its common factor from: other values, or tensors."""
    node = flow.graph.by_name[value]
    if node.kind is Kind.PARAMETER:
        return [], Carriers((node.target,), frozenset(user.name for user in flow.graph.users[value]))
    writer = flow.applied.get(value)
    if writer is not None and (found := next(linear_in(flow, writer), None)):
        return [], found
    passed = relayed(flow, node)
    if passed is not None and not any(has_own_length(flow, ref) for ref in passed):
        return passed, Carriers((), frozenset())
    # A product has a factor of either of its operands: that of the first which a map alone writes.
    operands = [*read_linearly(writer), *_read_by_matrices(flow, writer)] if writer is not None else []
    alone = (found for operand in operands if (found := _written(flow, operand)) is not None)
    return next((([], found) for found in alone), None)


def _beside_length(flow: Flow, applied: Applied) -> set[int]:
    """The frames of an operand at whose positions its length is divided out one by one, as those of heads are."""
    rule, binding = applied.rule, applied.binding
    if rule is None or binding is None or rule.radial is None:
        return set()
    ref, tokens = binding.operands[rule.radial]
    axes = zip(tokens, flow.d.values[ref.name], strict=True)
    alone = (term for token, term in axes if SymmetryClass.SEMI_PERMUTATION in rule.admits.get(token.axis, ()))
    return {leaf.frame for term in alone for leaf in leaves(term)} - {-1}


def _radial(flow: Flow, tensors: tuple[str, ...], outer: set[int]) -> Radial:
    """The family of these tensors: with a factor for each position of frames that stand around the rest of an axis."""
    held = [_around(flow, name, outer) for name in tensors]
    alike = {tuple((leaf.frame, leaf.size) for leaf in leading) for _, leading in held}
    parts = prod(leaf.size for leaf in held[0][1])
    if len(alike) > 1 or parts == 1:
        return Radial(tensors)
    return Radial(tensors, parts=parts, axes=tuple(axis for axis, _ in held))


def _around(flow: Flow, name: str, outer: set[int]) -> tuple[int, tuple[Leaf, ...]]:
    """The one axis of a parameter that such frames are the outermost factors of, and these; none if several are."""
    found = []
    for axis, term in enumerate(flow.d.terms[name]):
        inside = term.factors if isinstance(term, Product) else (term,)
        leading = tuple(takewhile(lambda x: isinstance(x, Leaf) and x.frame in outer, inside))
        if leading:
            found.append((axis, tuple(leaf for leaf in leading if isinstance(leaf, Leaf))))
    return found[0] if len(found) == 1 else (0, ())


def _written(flow: Flow, value: str) -> Carriers | None:
    """The linear maps behind an operand that nothing else reads, directly or by further ones without weights."""
    if len(flow.graph.users[value]) != 1 or value in flow.graph.outputs or value not in flow.applied:
        return None
    writer = flow.applied[value]
    if found := next(linear_in(flow, writer), None):
        return found
    refs = list(writer.node.refs())
    if is_sum(writer.node):
        return together(_written(flow, ref) for ref in refs)
    if keeps(flow, writer.node) or (len(refs) == 1 and flow.is_linear(writer)):
        return _written(flow, refs[0])
    before = multiplied(flow, writer.node)
    befores = read_linearly(writer) if before is None else [before]
    found = next((found for before in befores if (found := _written(flow, before)) is not None), None)
    return found or _written_beside(flow, writer)


def _written_beside(flow: Flow, product: Applied) -> Carriers | None:
    """What takes a factor of two values that are multiplied entry by entry: a learned one, or what writes one."""
    refs = list(product.node.refs())
    if short_name(product.node.target) != "mul" or len(set(refs)) != 2:
        return None
    uses = [use for ref in refs if (use := use_of(flow, product, ref)) is not None]
    # A gain that is absorbed is one, and has no factor to give.
    if uses and product.node.name not in flow.gain_of:
        return Carriers((uses[0][0],), frozenset({uses[0][1]}))
    return next((found for ref in refs if (found := _written(flow, ref)) is not None), None)


def _read_by_matrices(flow: Flow, writer: Applied) -> Iterator[str]:
    """The values that a call multiplies by a matrix and adds nothing to, whatever that matrix is made of."""
    operands = writer.binding.operands
    for value, law in writer.rule.shift.items():
        if law in operands and value in operands and writer.rule.adds not in operands:
            name = operands[value][0].name
            yield from [name] if flow.operand(writer, name) == value else []


# -- numbers that multiply ---------------------------------------------------------------------------------------------


def _numbers(flow: Flow) -> Iterator[Radial]:
    """Learned numbers with the maps beside them that can make up for one: those that write, or else those that read."""
    for node in flow.graph.parameters.values():
        sites = list(_sites(flow, node)) if is_number(node) else []
        found = [carriers for site in sites if site is not None and (carriers := _beside(flow, *site)) is not None]
        tensors = tuple(chain.from_iterable(carriers.tensors for carriers in found))
        if sites and len(found) == len(sites) and are_alone(flow, found):
            yield Radial((node.target, *tensors), (-1, *(1 for _ in tensors)))


def _numbers_of_heads(flow: Flow) -> Iterator[Radial]:
    """The same of one number for each head, as a temperature is, with the rows that write what it multiplies."""
    gains, absorbed = LearnedGains(flow), {gain.absorbed.parameter for gain in flow.d.gains}
    for node in flow.graph.parameters.values():
        several = sum(size > 1 for size in node.shape) == 1 and node.target not in absorbed
        sites = list(_sites(flow, node)) if several else []
        site = sites[0] if len(sites) == 1 else None
        written = _written(flow, site[0]) if site is not None else None
        frames = _multiplied_alone(flow, gains, *site) if site is not None and written is not None else ()
        if written is None or not frames or not are_alone(flow, [written]):
            continue
        held = [_around(flow, name, set(frames)) for name in written.tensors]
        if all(tuple(leaf.frame for leaf in leading) == frames for _, leading in held):
            axes = (next(axis for axis, size in enumerate(node.shape) if size > 1), *(axis for axis, _ in held))
            powers, parts = (-1, *(1 for _ in held)), max(node.shape)
            yield Radial((node.target, *written.tensors), powers, parts=parts, axes=axes)


def _multiplied_alone(flow: Flow, gains: LearnedGains, value: str, product: Node) -> tuple[int, ...]:
    """The frames of a value along whose axis numbers multiply it, where neither it nor the product has scales there."""
    a = flow.applied[product.name]
    operand = flow.operand(a, value)
    gain = gains.of(a, operand) if operand is not None else None
    if gain is None or len(gain.parts) != 1:
        return ()
    inside, outside = (list(leaves(part.term)) for part in gain.parts[0])
    if any(leaf.frame < 0 for leaf in (*inside, *outside)):
        return ()
    bounds = [flow.bound(leaf.frame) for leaf in (*inside, *outside)]
    scaled = any(SymmetryClass.POSITIVE_MONOMIAL in bound for bound in bounds)
    # What calls treat one by one, so that a factor stays where it is.
    alone = all(SymmetryClass.SEMI_PERMUTATION in bound for bound in bounds[: len(inside)])
    return tuple(leaf.frame for leaf in inside) if alone and not scaled else ()


def _sites(flow: Flow, number: Node) -> Iterator[tuple[str, Node] | None]:
    """What a number multiplies, and the product, for each of its uses; None for any other use."""
    for value, user in uses_of(flow, number.name):
        other = [] if user is None else [ref for ref in user.refs() if ref != value]
        multiplies = user is not None and short_name(user.target) == "mul" and user.name in flow.applied
        yield (other[0], user) if user is not None and multiplies and len(other) == 1 else None


def _beside(flow: Flow, value: str, product: Node) -> Carriers | None:
    """What takes a factor of a product: the linear map behind what is multiplied, or all that read the product."""
    return _written(flow, value) or _read(flow, product)


def _read(flow: Flow, product: Node) -> Carriers | None:
    """The matrices that read a value, if nothing else does and each is a parameter that is used once."""
    found: dict[str, str] = {}
    for value, user in uses_of(flow, product.name):
        matrix = None if user is None else reading(flow, user, value)
        if matrix is None or matrix[0] in found:
            return None
        found |= [matrix]
    return Carriers(tuple(found), frozenset(found.values())) if found else None
