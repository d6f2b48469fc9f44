"""A bias in an exponent is a positive gain, `exp(W x + b) = exp(W x) exp(b)`, as in flows and variational encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from symgraph.inference.affine_ways import AffineWays
from symgraph.ir import Graph, Kind, Node, Ref, map_refs
from symgraph.ir import Tensor as Meta
from symgraph.rules.book import RuleBook
from symgraph.tracing.naming import numbering

# What leaves of a stored bias, or of a part of one, a vector.
_VIEWS = frozenset({"aten.slice.Tensor", "aten.reshape.default", "aten.view.default"})
_EXP, _PRODUCT, _QUOTIENT = "aten.exp.default", "aten.mul.Tensor", "aten.div.Tensor"


@dataclass(frozen=True, slots=True)
class _Exponent:
    """An exponential of `rate` times what a call makes that adds a bias along an axis, and of numbers beside."""

    end: Node
    rate: float
    adds: Node
    bias: Node
    axis: int


def with_biases_behind_exponentials(graph: Graph, book: RuleBook) -> Graph:
    """The graph with such biases as factors behind the exponential, where nothing else reads what they are added to."""
    search = _Search(graph, book)
    found = [one for one in map(search.exponent, graph.calls) if one is not None]
    if not found:
        return graph
    fresh = numbering(graph.by_name.keys())
    calls: dict[str, tuple[Node, ...]] = {one.end.name: tuple(search.product(one, fresh)) for one in found}
    calls |= {one.adds.name: (_without(one.adds, one.bias),) for one in found}
    return replace(graph, nodes=tuple(n for node in graph.nodes for n in calls.get(node.name, (node,))))


class _Search:
    """Where a graph adds a bias and takes an exponential of that, and what is computed in its place."""

    def __init__(self, graph: Graph, book: RuleBook) -> None:
        self.graph, self.book = graph, book
        self.ways = AffineWays(graph, book, multiplies=True, adds=True)

    def exponent(self, end: Node) -> _Exponent | None:
        """What an exponential is taken of, if a bias is added there."""
        if end.target != _EXP or not all(_multiplies(user, end.name) for user in self.graph.users[end.name]):
            return None
        rate, node = 1.0, end
        while (before := self._read_by_one(node)) is not None:
            added = self._bias(before)
            if added is not None:
                return _Exponent(end, rate, before, *added)
            step = self.ways.step(before)
            if step is None or (self.ways.is_moved(before) and not self._stays(before)):
                return None
            rate, node = rate * step[0], before
        return None

    def _read_by_one(self, node: Node) -> Node | None:
        """The call whose result is the one operand of another call, and is read by nothing else."""
        refs = list(node.refs())
        before = self.graph.by_name[refs[0]] if len(refs) == 1 else None
        if before is None or before.kind is not Kind.CALL or before.name in self.graph.outputs:
            return None
        return before if len(self.graph.users[before.name]) == 1 else None

    def _stays(self, node: Node) -> bool:
        """Whether every entry stays where it is."""
        binding = self.book.binding(node, self.graph)
        return binding is not None and binding.rule.structure == "identity"

    def _bias(self, node: Node) -> tuple[Node, int] | None:
        """A stored bias that a call adds and can do without, and the axis of the result that it stands along."""
        binding = self.book.binding(node, self.graph)
        name = binding.rule.adds if binding is not None else None
        if binding is None or name is None or name not in binding.operands:
            return None
        ref, tokens = binding.operands[name]
        axes = [i for i, token in enumerate(binding.results[0]) if token.name in {t.name for t in tokens}]
        bias = self.graph.by_name[ref.name]
        parameter = bias
        while parameter.target in _VIEWS and len(parameter.shape) == 1:
            parameter = self.graph.by_name[next(parameter.refs())]
        single = len(parameter.shape) == len(bias.shape) == 1 and list(node.refs()).count(bias.name) == 1
        stored = parameter.kind is Kind.PARAMETER and single
        spared = stored and self.book.binding(_without(node, bias), self.graph) is not None
        return (bias, axes[0]) if spared and len(axes) == 1 else None

    # -- what is computed in its place ---------------------------------------------------------------------------------

    def product(self, one: _Exponent, fresh: Callable[[str], str]) -> Iterator[Node]:
        """The exponential without a bias times that of the bias, under the name of the exponential with it."""
        dtype = one.end.result.dtype if isinstance(one.end.result, Meta) else ""
        size = one.bias.shape[0]
        along = tuple(size if axis == one.axis else 1 for axis in range(len(one.end.shape)))

        def call(operator: str, args: tuple[object, ...], shape: tuple[int, ...] = along) -> Node:
            return replace(
                one.end, name=fresh(one.end.name), target=operator, args=args, kwargs=(), result=Meta(shape, dtype)
            )

        plain = replace(one.end, name=fresh(one.end.name))
        shaped = call("aten.reshape.default", (Ref(one.bias.name), along))
        times = call(_PRODUCT, (Ref(shaped.name), one.rate))
        gain = call(_EXP, (Ref(times.name),))
        product = call(_PRODUCT, (Ref(plain.name), Ref(gain.name)), one.end.shape)
        yield from (plain, shaped, times, gain, replace(product, name=one.end.name))


def _multiplies(node: Node, value: str) -> bool:
    """Whether a call multiplies another value by this one, or divides it: what sums it up may be a softmax."""
    return node.target == _PRODUCT or (node.target == _QUOTIENT and node.args[0] != Ref(value))


def _without(node: Node, bias: Node) -> Node:
    """A call without the bias that it adds."""
    args, kwargs = map_refs((node.args, node.kwargs), lambda ref: None if ref.name == bias.name else ref)
    return replace(node, args=args, kwargs=kwargs)
