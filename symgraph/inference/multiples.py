"""Numbers that multiply a parameter, or what it multiplies, as if they had been learned with it.

A gain that is stored as a third of what it is, or with the other sign (`layer_norm(x, 3 * g)`, `-(x * s)`), is one in
all that it does. Where every use of a parameter multiplies it by one and the same number first, and where the product
that is its one use is multiplied so, or what it multiplies there (`-x * s`), the number is taken out of the graph, and
the group acts on the multiple.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from symgraph.inference.affine_ways import AffineWay, AffineWays
from symgraph.inference.offset_numbers import scaling_number
from symgraph.ir import Graph, Kind, Node
from symgraph.rules.book import RuleBook
from symgraph.symmetry.offsets import Chart, Offset

_PRODUCT = "aten.mul.Tensor"


@dataclass(frozen=True, slots=True)
class _Multiple:
    """The number that multiplies all that is read of a parameter, the calls that do it, and the values that change."""

    rate: float
    calls: frozenset[str]
    changed: frozenset[str]


def with_multiples(graph: Graph, book: RuleBook) -> tuple[Graph, dict[str, Offset]]:
    """The graph with such parameters as they are read, and which multiple that is of each of them."""
    ways, found = AffineWays(graph, book, multiplies=True), dict[str, _Multiple]()
    for node in graph.parameters.values():
        own = _multiple(node, ways)
        # Of two parameters that are multiplied with each other, one takes the number.
        if own is not None and own.calls.isdisjoint(call for other in found.values() for call in other.calls):
            found[node.target] = own
    if not found:
        return graph, {}
    calls = {name for own in found.values() for name in own.calls}
    changed = {name for own in found.values() for name in own.changed}
    offsets = {name: Offset(0, ((1, 0.0),), Chart("", own.rate)) for name, own in found.items()}
    return ways.taken_out(calls, changed), offsets


def _multiple(node: Node, ways: AffineWays) -> _Multiple | None:
    """The number that all uses of a parameter multiply it by, if that is one and not 1."""
    whole = node.kind is Kind.PARAMETER and node.name not in ways.graph.outputs
    own = list(ways.of(node.name)) if whole else []
    if len({way.rate for way in own}) != 1:
        return None
    product = own[0].end if len(own) == 1 and _is_product(own[0].end) else None
    behind = _behind(product, ways) if product is not None else []
    before = _before(product, own[0].held, ways) if product is not None else {}
    rate = own[0].rate * (behind[0].rate if behind else 1.0) * prod(before.values())
    calls = frozenset((*before, *(name for way in (*own, *behind) for name in way.passed)))
    changed = calls | {way.end.name for way in own if behind}
    return _Multiple(rate, calls, changed) if rate != 1.0 else None


def _is_product(node: Node) -> bool:
    return node.target == _PRODUCT and len({*node.refs()}) == 2


def _behind(product: Node, ways: AffineWays) -> list[AffineWay]:
    """The ways from a product, if all of them multiply it by one number."""
    found = list(ways.of(product.name)) if product.name not in ways.graph.outputs else []
    return found if len({way.rate for way in found}) == 1 and found[0].rate != 1.0 else []


def _before(product: Node, held: str, ways: AffineWays) -> dict[str, float]:
    """The calls that multiply the other factor of a product by numbers, of which nothing else reads the results."""
    (value,) = {*product.refs()} - {held}
    found = dict[str, float]()
    while value not in ways.graph.outputs and len(ways.graph.users[value]) == 1:
        node = ways.graph.by_name[value]
        times = scaling_number(node) if node.kind is Kind.CALL else None
        if times is None:
            break
        found[value] = times
        (value,) = node.refs()
    return found


def with_numbers(multiples: dict[str, Offset], numbers: dict[str, Offset]) -> dict[str, Offset]:
    """What is read of each parameter, with the numbers that are added to multiples."""
    both = {name: numbers[name].of_multiple(own) for name, own in multiples.items() if name in numbers}
    return {**multiples, **numbers, **both}
