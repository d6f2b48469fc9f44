"""Weights whose length nothing sees: what they write is divided by its length, or a learned number makes up for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, takewhile
from math import prod

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.applied import Applied
from symgraph.inference.flow import Flow
from symgraph.inference.learned_gains import LearnedGains
from symgraph.inference.structural import KEEPING
from symgraph.ir import Kind, Node, Tensor
from symgraph.rules.schema import Rule
from symgraph.rules.signature import AxisToken
from symgraph.symmetry.lengths import Radial
from symgraph.symmetry.terms import Leaf, Product, leaves
from symgraph.tracing.operators import short_name

_SUMS = frozenset(["add", "sub"])


@dataclass(frozen=True, slots=True)
class _Carriers:
    """Tensors that take a factor of a value, and the calls that use them for it."""

    tensors: tuple[str, ...]
    calls: frozenset[str]


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
    alone = (tensors for tensors in outer if _used(flow, tensors) == calls[tensors])
    return [*(_radial(flow, tensors, outer[tensors]) for tensors in alone), *_numbers(flow), *_numbers_of_heads(flow)]


def _common(flow: Flow, value: str) -> _Carriers | None:
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
    return _Carriers(tuple(sorted(tensors, key=order.index)), frozenset(calls))


def _onward(flow: Flow, value: str, user: Node) -> str | None:
    """Where a use passes a common factor on, '' where it ends it, None where it sees it."""
    applied = flow.applied.get(user.name)
    radial = applied.rule.radial if applied is not None and applied.rule is not None else None
    if applied is not None and radial and flow.operand(applied, value) == radial:
        return ""
    relayed = _relayed(flow, user)
    return user.name if relayed is not None and value in relayed else None


def _sources(flow: Flow, value: str) -> tuple[list[str], _Carriers] | None:
    """What a value has its common factor from: other values, or tensors."""
    node = flow.graph.by_name[value]
    if node.kind is Kind.PARAMETER:
        return [], _Carriers((node.target,), frozenset(user.name for user in flow.graph.users[value]))
    writer = flow.applied.get(value)
    if writer is not None and (found := next(_linear_in(flow, writer), None)):
        return [], found
    relayed = _relayed(flow, node)
    if relayed is not None and not any(_has_own_length(flow, ref) for ref in relayed):
        return relayed, _Carriers((), frozenset())
    # A product has a factor of either of its operands: that of the first which a map alone writes.
    operands = [*_read_linearly(writer), *_read_by_matrices(flow, writer)] if writer is not None else []
    alone = (found for operand in operands if (found := _written(flow, operand)) is not None)
    return next((([], found) for found in alone), None)


def _relayed(flow: Flow, node: Node) -> list[str] | None:
    """The operands of which a common factor becomes one of the result; None for all other calls."""
    if node.name not in flow.applied:
        return None
    refs = list(node.refs())
    if _keeps(flow, node):
        return refs
    if short_name(node.target) in _SUMS and len(refs) == len(node.args):
        return refs
    if len(refs) == 1 and flow.is_linear(flow.applied[node.name]):
        return refs
    factor = _multiplied(flow, node)
    read = _read_linearly(flow.applied[node.name]) if factor is None else [factor]
    return read if len(read) == 1 else None


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


def _used(flow: Flow, tensors: Iterable[str]) -> set[str]:
    """All calls that use one of the tensors."""
    return {user.name for tensor in tensors for user in flow.graph.users[flow.graph.state[tensor].name]}


def _written(flow: Flow, value: str) -> _Carriers | None:
    """The linear map behind an operand that nothing else reads, directly or by further ones without weights."""
    if len(flow.graph.users[value]) != 1 or value in flow.graph.outputs or value not in flow.applied:
        return None
    writer = flow.applied[value]
    if found := next(_linear_in(flow, writer), None):
        return found
    refs = list(writer.node.refs())
    if _keeps(flow, writer.node) or (len(refs) == 1 and flow.is_linear(writer)):
        return _written(flow, refs[0])
    before = _multiplied(flow, writer.node)
    befores = _read_linearly(writer) if before is None else [before]
    found = next((found for before in befores if (found := _written(flow, before)) is not None), None)
    return found or _written_beside(flow, writer)


def _written_beside(flow: Flow, product: Applied) -> _Carriers | None:
    """What takes a factor of two values that are multiplied entry by entry: a learned one, or what writes one."""
    refs = list(product.node.refs())
    if short_name(product.node.target) != "mul" or len(set(refs)) != 2:
        return None
    uses = [use for ref in refs if (use := _use(flow, product, ref)) is not None]
    # A gain that is absorbed is one, and has no factor to give.
    if uses and product.node.name not in flow.gain_of:
        return _Carriers((uses[0][0],), frozenset({uses[0][1]}))
    return next((found for ref in refs if (found := _written(flow, ref)) is not None), None)


def _read_linearly(writer: Applied) -> list[str]:
    """The values that a call is linear in: any map may act along an axis that its result has of this operand alone."""
    found: list[str] = []
    for token in _free_axes(writer):
        values = [ref.name for ref, tokens in writer.binding.operands.values() if token in tokens]
        found += values if len(values) == 1 else []
    # A product of a value with itself is not.
    return [value for value in found if list(writer.node.refs()).count(value) == 1]


def _read_by_matrices(flow: Flow, writer: Applied) -> Iterator[str]:
    """The values that a call multiplies by a matrix and adds nothing to, whatever that matrix is made of."""
    operands = writer.binding.operands
    for value, law in writer.rule.shift.items():
        if law in operands and value in operands and writer.rule.adds not in operands:
            name = operands[value][0].name
            yield from [name] if flow.operand(writer, name) == value else []


def _has_own_length(flow: Flow, value: str) -> bool:
    """Whether a value has been divided by its length, so that it has no factor of what made it."""
    writer = flow.applied.get(_source(flow, value).name)
    return writer is not None and writer.rule.radial is not None


def _linear_in(flow: Flow, writer: Applied) -> Iterator[_Carriers]:
    """Parameters along an axis of the result that any map may act on: a factor of all of them is one of the result."""
    for token in _free_axes(writer):
        values = [ref.name for ref, tokens in writer.binding.operands.values() if token in tokens]
        uses = [use for value in values if (use := _use(flow, writer, value)) is not None]
        if uses and len(uses) == len(values):
            yield _Carriers(tuple(name for name, _ in uses), frozenset(call for _, call in uses))


def _free_axes(writer: Applied) -> Iterator[AxisToken]:
    """The axes of a call's result along which any invertible map may act."""
    rule, binding = writer.rule, writer.binding
    if rule is not None and binding is not None and binding.results:
        yield from (t for t in binding.results[0] if not (t.batch or t.mark) and _free(rule, t))


def _free(rule: Rule, token: AxisToken) -> bool:
    """Whether any invertible map may act along an axis."""
    return token.claimed and SymmetryClass.INVERTIBLE in rule.admits.get(token.axis, ())


def _multiplied(flow: Flow, product: Node) -> str | None:
    """What a call multiplies by a learned number."""
    refs = list(product.refs())
    numbers = [r for r in refs if _is_number(_source(flow, r))]
    if short_name(product.target) != "mul" or len(refs) != 2 or len(numbers) != 1:
        return None
    return refs[1 - refs.index(numbers[0])]


def _source(flow: Flow, value: str) -> Node:
    """The value that another one has the entries of."""
    node = flow.graph.by_name[value]
    while _keeps(flow, node):
        node = flow.graph.by_name[next(iter(node.refs()))]
    return node


def _use(flow: Flow, a: Applied, value: str) -> tuple[str, str] | None:
    """The parameter that an operand of a call is, or that it has the entries of, and the call that reads it."""
    if flow.operand(a, value) is None:
        return None
    node, call = flow.graph.by_name[value], a.node.name
    while _keeps(flow, node) and len(flow.graph.users[node.name]) == 1:
        node, call = flow.graph.by_name[next(iter(node.refs()))], node.name
    return (node.target, call) if node.kind is Kind.PARAMETER else None


# -- numbers that multiply ---------------------------------------------------------------------------------------------


def _numbers(flow: Flow) -> Iterator[Radial]:
    """Learned numbers with the maps beside them that can make up for one: those that write, or else those that read."""
    for node in flow.graph.parameters.values():
        sites = list(_sites(flow, node)) if _is_number(node) else []
        found = [carriers for site in sites if site is not None and (carriers := _beside(flow, *site)) is not None]
        tensors = tuple(chain.from_iterable(carriers.tensors for carriers in found))
        if sites and len(found) == len(sites) and _are_alone(flow, found):
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
        if written is None or not frames or not _are_alone(flow, [written]):
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


def _are_alone(flow: Flow, found: list[_Carriers]) -> bool:
    """Whether tensors that take factors are not the same, and are used for nothing else."""
    tensors = [name for carriers in found for name in carriers.tensors]
    calls = set().union(*(carriers.calls for carriers in found))
    return len(set(tensors)) == len(tensors) and _used(flow, tensors) == calls


def _is_number(node: Node) -> bool:
    if node.kind is not Kind.PARAMETER:
        return False
    return isinstance(node.result, Tensor) and "float" in node.result.dtype and set(node.shape) <= {1}


def _sites(flow: Flow, number: Node) -> Iterator[tuple[str, Node] | None]:
    """What a number multiplies, and the product, for each of its uses; None for any other use."""
    for value, user in _uses(flow, number.name):
        other = [] if user is None else [ref for ref in user.refs() if ref != value]
        multiplies = user is not None and short_name(user.target) == "mul" and user.name in flow.applied
        yield (other[0], user) if user is not None and multiplies and len(other) == 1 else None


def _uses(flow: Flow, name: str) -> Iterator[tuple[str, Node | None]]:
    """Calls that do more with a value than to move its entries, and what each reads; None where that is an output."""
    todo = [name]
    while todo:
        value = todo.pop()
        if value in flow.graph.outputs:
            yield value, None
        for user in flow.graph.users[value]:
            if _keeps(flow, user):
                todo.append(user.name)
            else:
                yield value, user


def _keeps(flow: Flow, node: Node) -> bool:
    """Whether a call moves the entries of its one operand and does nothing else."""
    applied = flow.applied.get(node.name)
    rule = applied.rule if applied is not None else None
    return rule is not None and rule.structure in KEEPING and len(list(node.refs())) == 1


def _beside(flow: Flow, value: str, product: Node) -> _Carriers | None:
    """What takes a factor of a product: the linear map behind what is multiplied, or all that read the product."""
    return _written(flow, value) or _read(flow, product)


def _read(flow: Flow, product: Node) -> _Carriers | None:
    """The matrices that read a value, if nothing else does and each is a parameter that is used once."""
    found: dict[str, str] = {}
    for value, user in _uses(flow, product.name):
        matrix = None if user is None else _reading(flow, user, value)
        if matrix is None or matrix[0] in found:
            return None
        found |= [matrix]
    return _Carriers(tuple(found), frozenset(found.values())) if found else None


def _reading(flow: Flow, user: Node, value: str) -> tuple[str, str] | None:
    """The parameter by which a call multiplies a value along an axis that it sums over, and the call that reads it."""
    a = flow.applied.get(user.name)
    operand = flow.operand(a, value) if a is not None else None
    if a is None or a.rule is None or a.binding is None or operand is None:
        return None
    rule, operands = a.rule, a.binding.operands
    kept = {token.name for result in a.binding.results for token in result}
    for token in operands[operand][1]:
        if not token.batch and token.name not in kept and _free(rule, token):
            others = [
                k
                for k, (_, tokens) in operands.items()
                if k != operand and token.name in {other.name for other in tokens}
            ]
            return _use(flow, a, operands[others[0]][0].name) if len(others) == 1 else None
    return None
