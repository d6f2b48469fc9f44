"""How large values can get, whatever the inputs are: which stay of moderate size, and which may be zero altogether.

Functions that saturate tell entries apart at moderate sizes alone, and a linear map makes equal numbers of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from symgraph.ir import Graph, Kind, Node, Ref, Tensor
from symgraph.rules.carried import measured_rule
from symgraph.tracing.arguments import arguments
from symgraph.tracing.operators import short_name

PERMUTING = frozenset({"permute", "transpose", "t", "mT", "numpy_T", "swapaxes", "movedim"})
VIEWS = frozenset(
    {"view", "unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"}
)
PICKED = frozenset({"slice", "narrow", "select", "split", "chunk", "split_with_sizes", "unbind", "getitem"})
SUMS = frozenset({"add", "sub", "rsub", "mul", "div"})
_COPIES = frozenset({"expand", "repeat", "clone", "contiguous", "alias", "detach", "to", "to_copy", "roll", "flip"})
_NORMS = frozenset({"layer_norm", "rms_norm", "group_norm", "instance_norm"})
_TABLES = frozenset({"embedding", "one_hot"})
_BOUNDED = frozenset({"sigmoid", "tanh", "softmax", "erf", "sin", "cos", "atan", "hardsigmoid", "relu6", "sign"})
_GROWING = frozenset({"exp", "exp2", "expm1", "sinh", "cosh", "reciprocal", "rsqrt", "log", "logit", "pow", "prod"})
_POSITIVE = frozenset({"sigmoid", "softmax", "exp", "exp2", "softplus", "cos", "cosh"})
# fmt: off
_ZEROING = frozenset({
    "relu", "relu6", "hardtanh", "hardsigmoid", "hardswish", "threshold", "clamp", "clamp_min", "clamp_max",
    "hardshrink", "softshrink", "masked_fill", "where", "sign", "round", "floor", "ceil", "trunc", "tril", "triu",
    "one_hot", "zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty", "pad", "constant_pad_nd",
})
# fmt: on
_FILLED = frozenset({"full", "full_like", "new_full", "fill", "scalar_tensor"})
# How many times as large as what norms make values may be, and stay moderate.
FACTOR = 8.0


def moderate_values(graph: Graph) -> frozenset[str]:
    """The values that are behind norms, bounded functions and tables, with no large number on the way.

    Learned weights count as moderate, and so does what they make of moderate values. Numbers add up, and multiply.
    """
    sizes: dict[str, float] = {}
    for node in graph.nodes:
        sizes[node.name] = _size(node, graph, [sizes[ref] for ref in node.refs()])
    return frozenset(name for name, size in sizes.items() if size <= FACTOR)


def _size(node: Node, graph: Graph, before: Sequence[float]) -> float:
    """How many times as large as what norms make a value may be, given what it is computed from."""
    if node.kind is not Kind.CALL:
        return math.inf if node.kind is Kind.INPUT and is_float(node) else 1.0
    base, rule = short_name(node.target), measured_rule(node)
    if base in _NORMS | _TABLES | _BOUNDED or (rule is not None and (rule.radial or rule.centred or rule.weights)):
        return 1.0
    if base in _GROWING:
        return math.inf
    largest, numbers = max(before, default=1.0), [abs(value) for value in _numbers(node)]
    if base == "div":
        return largest * _inverse(node, graph, numbers)
    if base == "mul":
        return math.prod((*before, *numbers))
    return largest + sum(numbers) if base in SUMS else largest


def _inverse(node: Node, graph: Graph, numbers: Sequence[float]) -> float:
    """How much larger a quotient is than what is divided; without a bound where a value divides that may be small."""
    below = node.args[1] if len(node.args) > 1 else None
    if isinstance(below, Ref):
        return 1.0 if graph.by_name[below.name].kind is Kind.PARAMETER else math.inf
    return max((1 / number if number else math.inf for number in numbers), default=1.0)


def vanishing_values(graph: Graph) -> frozenset[str]:
    """The values of which whole rows may be zero: inputs, masks, units that are off, what is made of these.

    Weights are generic, and so are sums, but for those of entries of one value.
    """
    return _those(graph, _may_vanish)


def _those(graph: Graph, test: Callable[[Node, Graph, set[str]], bool]) -> frozenset[str]:
    """The values that pass a test, which is told those before them that do."""
    found: set[str] = set()
    for node in graph.nodes:
        if test(node, graph, found):
            found.add(node.name)
    return frozenset(found)


def _may_vanish(node: Node, graph: Graph, found: set[str]) -> bool:
    if node.kind is not Kind.CALL:
        held = graph.known.get(node.target)
        return node.kind is Kind.INPUT or not is_float(node) or (held is not None and bool((held == 0).any()))
    base, given = short_name(node.target), arguments(node) or {}
    if base in _ZEROING or not is_float(node) or (base in _FILLED | {"mul"} and 0 in _numbers(node)):
        return True
    if base in _POSITIVE | _TABLES or isinstance(given.get("bias"), Ref):
        return False
    operands = [ref in found for ref in node.refs()]
    if base in ("add", "sub", "rsub"):
        return len(operands) > 1 and (all(operands) or len({_whole(graph, ref) for ref in node.refs()}) == 1)
    return _first(given, found) if base == "div" else any(operands)


def _whole(graph: Graph, name: str) -> str:
    """The value that another one holds entries of; a difference of two such may be zero."""
    node = graph.by_name[name]
    while node.kind is Kind.CALL and short_name(node.target) in PERMUTING | VIEWS | PICKED | _COPIES:
        node = graph.by_name[next(node.refs())]
    return node.name


def _first(given: Mapping[str, object], found: set[str]) -> bool:
    above = given.get("self")
    return isinstance(above, Ref) and above.name in found


def is_float(node: Node) -> bool:
    """Whether a value, or one of several that a call returns, is of floating numbers."""
    results = node.result if isinstance(node.result, tuple) else (node.result,)
    return any(isinstance(result, Tensor) and "float" in result.dtype for result in results)


def plain_arguments(node: Node) -> Iterator[object]:
    """What a call is made with beside values."""
    yield from (value for value in (*node.args, *(value for _, value in node.kwargs)) if not isinstance(value, Ref))


def _numbers(node: Node) -> Iterator[float]:
    for value in plain_arguments(node):
        if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
            yield value
